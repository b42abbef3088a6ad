"""What a user did before a post, held against a loop over all posts."""

from __future__ import annotations

import numpy as np
import pytest

from smp_ray.training.past import HISTORY_COLUMNS, Past

DAY = 86_400.0
USERS = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_what_a_loop_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, times = rng.choice(USERS, 60), rng.permutation(60) * DAY
    labels = rng.normal(size=60) + 100
    times[rng.random(60) < 0.1], labels[rng.random(60) < 0.2] = np.nan, np.nan
    past, at = Past.of(users, times, labels), rng.integers(0, 70, 40) * DAY
    asked = rng.choice(USERS, 40)
    counts, history = past.counts(asked, at), past.history(asked, at, delay_days=1.0)
    for place, (user, moment) in enumerate(zip(asked, at, strict=True)):
        own = (users == user) & (times < moment)
        known = np.flatnonzero(own & (times < moment - DAY) & np.isfinite(labels))
        found = [history[name][place] for name in HISTORY_COLUMNS]
        if user == 0:
            assert np.isnan([counts[place], *found]).all()
            continue
        assert (counts[place], found[0]) == (own.sum(), len(known))
        if not len(known):
            assert np.isnan(found[1:]).all()
            continue
        did = labels[known[np.argsort(times[known])]]
        since = (moment - times[known].max()) / DAY
        np.testing.assert_allclose(found[1:], [did.mean(), did.std(), did[-1], did[-3:].mean(), since], atol=1e-6)


def test_labels_of_later_posts_change_nothing() -> None:
    """A planted future: posts at or after a moment, whatever their labels, are not in the history of it."""
    rng = np.random.default_rng(0)
    users, times, labels = (
        rng.integers(1, 9, 400).astype(np.uint64),
        rng.integers(0, 90, 400) * DAY,
        rng.normal(size=400),
    )
    asked, at = users[:50], times[:50]
    for place in range(50):
        planted = np.where(times >= at[place], 1e6, labels)
        one, other = (
            Past.of(users, times, values).history(asked[[place]], at[[place]], 0.0) for values in (labels, planted)
        )
        for name in HISTORY_COLUMNS:
            np.testing.assert_array_equal(one[name], other[name])


def test_it_is_kept_as_it_is_and_joined() -> None:
    rng = np.random.default_rng(1)
    users, times, labels = rng.integers(0, 9, 100).astype(np.uint64), rng.random(100) * DAY, rng.normal(size=100)
    whole = Past.of(users, times, labels)
    kept = Past.from_bytes(Past.of(users[:50], times[:50], labels[:50]).to_bytes())
    both = kept.joined(Past.of(users[50:], times[50:], labels[50:]))
    for name, values in vars(whole).items():
        np.testing.assert_array_equal(getattr(both, name), values)


def test_a_post_that_is_in_both_counts_once() -> None:
    users, times = np.array([7, 7, 8], np.uint64), np.array([1.0, 2.0, 2.0])
    learned = Past.of(users, times, np.array([3.0, 4.0, 5.0]))
    more = Past.of(np.append(users, np.uint64(7)), np.append(times, 3.0), np.full(4, np.nan))
    both = learned.joined(more)
    assert both.counts(np.array([7, 8], np.uint64), np.array([9.0, 9.0])).tolist() == [3, 1]
    assert both.history(np.array([7], np.uint64), np.array([9.0]), 0.0)["user_history_mean"] == [3.5]


def test_of_posts_with_one_date_as_many_count_as_there_are() -> None:
    """Two were learned from on day 2; of the three that are asked about on that day, one is new."""
    learned = Past.of(np.full(2, 7, np.uint64), np.full(2, 2.0), np.array([3.0, 4.0]))
    asked = Past.of(np.full(4, 7, np.uint64), np.array([2.0, 3.0, 2.0, 2.0]), np.full(4, np.nan))
    both = learned.joined(asked)
    assert (both.times.tolist(), np.isnan(both.popularity).sum()) == ([2.0, 2.0, 2.0, 3.0], 2)


def test_nobody_has_a_past_where_nothing_was_posted() -> None:
    none = Past.of(np.zeros(0, np.uint64), np.zeros(0), np.zeros(0))
    asked = (np.array([1, 0], np.uint64), np.array([5.0, 5.0]))
    np.testing.assert_array_equal(none.counts(*asked), [0, np.nan])
    assert np.isnan(none.history(*asked, 0.0)["user_history_mean"]).all()
