"""Intervals hold what they promise, are wider where errors are larger, and differences know that users are alike."""

from __future__ import annotations

import numpy as np
import pytest

from smp_ray.predictor.uncertainty import (
    BOUNDS,
    TRUST,
    Uncertainty,
    bounded,
    coverage,
    cross_fitted,
    known_before,
    pairs,
)


def world(seed: int = 0, posts: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Residuals whose size is known, users, and folds of whole users."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 400, posts)
    sizes = np.exp(rng.normal(0, 0.5, posts))
    residuals = sizes * (rng.standard_t(5, posts) + rng.normal(size=400)[users])
    return residuals, sizes, users, users % 5


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_new_posts_of_new_users_lie_within(level: float) -> None:
    residuals, sizes, users, folds = world()
    found = coverage(residuals, sizes, users, folds, level, past_only=False)
    assert found["covered"] == pytest.approx(level, abs=0.02)
    assert found["constant_covered"] == pytest.approx(level, abs=0.02)
    if level >= 0.9:  # the wide middle of narrower ones costs as much as their tails gain
        assert found["width"] < 0.97 * found["constant_width"]
    assert found["posts"] == 4000


def test_under_time_only_earlier_folds_tell() -> None:
    residuals, sizes, users, folds = world()
    assert (known_before(folds, 2, True) == (folds < 2)).all()
    found = coverage(residuals, sizes, users, folds, 0.9, past_only=True)
    assert found["posts"] == (folds > 0).sum()
    sized = cross_fitted(
        lambda x, y: lambda rows: np.full(len(rows), y.mean()), residuals[:, None], residuals, folds, True
    )
    assert np.isnan(sized[folds == 0]).all()
    assert sized[folds == 1][0] == pytest.approx(np.abs(residuals[folds == 0]).mean())
    assert coverage(residuals, sizes, users, np.zeros(4000, int), 0.9, past_only=False) == {}


def test_an_interval_is_wider_where_errors_are_larger_and_within_bounds() -> None:
    residuals, sizes, users, _ = world()
    uncertainty = Uncertainty.of(residuals, sizes, users)
    low, high = uncertainty.interval(np.zeros(4), np.array([0.0, 1.0, 2.0, 1e9]), 0.9)
    width = high - low
    assert (np.diff(width) > 0).all()
    assert width[2] == pytest.approx(2**TRUST * width[1])
    assert width[3] / width[0] == pytest.approx(BOUNDS[1] / BOUNDS[0])
    assert (bounded(np.array([np.inf]), 0.0) > 0).all()


def test_posts_of_one_user_differ_less_than_posts_of_any_two() -> None:
    residuals, sizes, users, _ = world()
    first, second = pairs(users, 0)
    assert (users[first] == users[second]).all()
    assert (first != second).all()
    own = Uncertainty.of(residuals, sizes, users)
    strangers = Uncertainty.of(residuals, sizes, np.arange(len(users)))
    one = np.ones(1)
    assert own.apart(one, one, 0.9)[0] < 0.9 * strangers.apart(one, one, 0.9)[0]
    share = np.mean(
        np.abs(residuals[first] - residuals[second])
        <= own.apart(own.sized(sizes[first]), own.sized(sizes[second]), 0.9)
    )
    assert share == pytest.approx(0.9, abs=0.02)


def test_a_fold_that_too_few_posts_tell_of_has_no_interval() -> None:
    residuals, sizes, users = np.array([1.0, -1.0, 2.0, 0.5, -2.0]), np.ones(5), np.arange(5)
    folds = np.array([0, 0, 0, 0, 1])
    sized = cross_fitted(lambda x, y: lambda rows: np.ones(len(rows)), residuals[:, None], residuals, folds, False)
    assert np.isnan(sized).tolist() == [True] * 4 + [False]
    assert coverage(residuals, sizes, users, folds, 0.9, past_only=False)["posts"] == 1


def test_few_posts_hold_no_high_level() -> None:
    """Of 19 residuals 90 % are held, of 18 fewer: what lies outside of the largest is then more than 10 %."""
    rng = np.random.default_rng(0)
    assert [Uncertainty.of(rng.normal(size=n), np.ones(n), np.arange(n)).highest_level >= 0.9 for n in (18, 19)] == [
        False, True,
    ]  # fmt: skip
    inside = []
    for _ in range(400):
        low, high = Uncertainty.of(rng.normal(size=10), np.ones(10), np.arange(10)).interval(
            np.zeros(1), np.ones(1), 0.95
        )
        inside.append(low[0] <= rng.normal() <= high[0])
    assert np.mean(inside) == pytest.approx(1 - 2 / 11, abs=0.05)
