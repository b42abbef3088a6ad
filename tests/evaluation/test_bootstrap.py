"""Intervals, held against repeated rows and what statistics says of simple cases."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import ArrayLike
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, mean_absolute_percentage_error

from smp_ray.evaluation.bootstrap import FEWEST_USERS, Bootstrap, Estimate, bounds, estimates, interval, user_codes
from smp_ray.evaluation.metrics import METRICS, score
from tests.evaluation.test_metrics import exactly, posts


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def difference(bootstrap: Bootstrap, labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> dict[str, Estimate]:
    return estimates(bootstrap.metrics(labels, first) - bootstrap.metrics(labels, second))


@pytest.mark.parametrize("seed", range(4))
def test_a_resample_is_the_posts_repeated(seed: int) -> None:
    labels, predictions, users = posts(300, 40, seed)
    codes = np.unique(users, return_inverse=True)[1]  # sorted users: in order of appearance
    bootstrap = Bootstrap(users, resamples=1, seed=seed)
    (multiplicity,) = bootstrap.multiplicities()
    assert multiplicity.sum() == len(np.unique(users))
    assert 0 in multiplicity
    repeated = np.repeat(np.arange(300), multiplicity[codes])
    # With one resample, both bounds are that resample's metric.
    estimates = bootstrap.estimate(labels, predictions)
    expected = {
        "src": spearmanr(labels[repeated], predictions[repeated]).statistic,
        "mae": mean_absolute_error(labels[repeated], predictions[repeated]),
        "mape": mean_absolute_percentage_error(labels[repeated], predictions[repeated]),
    }
    for name in METRICS:
        assert estimates[name].value == score(labels, predictions)[name]
        assert estimates[name].low == estimates[name].high == exactly(expected[name])


def test_bounds_are_percentiles_and_differences_are_paired() -> None:
    labels, predictions, users = posts(200, 30)
    baseline = np.round(predictions + np.random.default_rng(5).normal(size=200))
    bootstrap = Bootstrap(users, resamples=60, seed=3)
    codes = np.unique(users, return_inverse=True)[1]
    rows = [np.repeat(np.arange(200), multiplicity[codes]) for multiplicity in bootstrap.multiplicities()]
    metrics: dict[str, Callable[..., float]] = {
        "src": lambda first, second: spearmanr(first, second).statistic,
        "mae": mean_absolute_error,
        "mape": mean_absolute_percentage_error,
    }
    estimates = bootstrap.estimate(labels, predictions)
    differences = difference(bootstrap, labels, predictions, baseline)
    for name, metric in metrics.items():
        of_prediction = np.array([metric(labels[row], predictions[row]) for row in rows])
        of_baseline = np.array([metric(labels[row], baseline[row]) for row in rows])
        low, high = np.percentile(of_prediction, [2.5, 97.5])
        assert (estimates[name].low, estimates[name].high) == (exactly(low), exactly(high))
        low, high = np.percentile(of_prediction - of_baseline, [2.5, 97.5])
        assert (differences[name].low, differences[name].high) == (exactly(low), exactly(high))
        assert differences[name].value == exactly(metric(labels, predictions) - metric(labels, baseline))


def test_interval_of_a_mean_is_the_normal_one() -> None:
    errors = np.random.default_rng(1).gamma(3, 1, 1500)
    estimate = Bootstrap(range(1500), resamples=2000).estimate(np.zeros(1500), errors)["mae"]
    margin = 1.96 * errors.std(ddof=1) / 1500**0.5
    assert estimate.low == pytest.approx(errors.mean() - margin, abs=margin / 10)
    assert estimate.high == pytest.approx(errors.mean() + margin, abs=margin / 10)


def test_posts_of_one_user_do_not_count_as_independent() -> None:
    labels, predictions, _ = posts(150, 10)
    users = np.arange(150)
    alone = Bootstrap(users).estimate(labels, predictions)
    repeated = [np.repeat(values, 9) for values in (labels, predictions, users)]
    by_user = Bootstrap(repeated[2]).estimate(repeated[0], repeated[1])
    by_post = Bootstrap(range(150 * 9)).estimate(repeated[0], repeated[1])
    for name in METRICS:
        assert width(by_user[name]) == pytest.approx(width(alone[name]), rel=0.02)
        assert width(by_user[name]) == pytest.approx(3 * width(by_post[name]), rel=0.15)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(2)
    users = np.repeat(np.arange(40), 5)
    covered = {"user": 0, "post": 0}
    for world in range(150):
        # A user's posts share most of their error; the mean of |error| is 1 in the population.
        errors = generator.exponential(1, 40)[users] * generator.uniform(0.8, 1.2, 200)
        for name, clusters in (("user", users), ("post", np.arange(200))):
            estimate = Bootstrap(clusters, resamples=150, seed=world).estimate(np.zeros(200), errors)["mae"]
            assert estimate.low is not None
            assert estimate.high is not None
            covered[name] += estimate.low <= 1 <= estimate.high
    assert 0.87 <= covered["user"] / 150 <= 0.99
    assert covered["post"] / 150 < 0.75


def test_seed_decides_the_resamples() -> None:
    labels, predictions, users = posts(200, 30)
    first = Bootstrap(users, resamples=50, seed=7)
    assert first.estimate(labels, predictions) == first.estimate(labels, predictions)
    assert first.estimate(labels, predictions) == Bootstrap(users, 50, 7).estimate(labels, predictions)
    assert first.estimate(labels, predictions) != Bootstrap(users, 50, 8).estimate(labels, predictions)
    # Names instead of codes: only who is who matters.
    named = Bootstrap([f"user {user}" for user in users], 50, 7)
    assert named.estimate(labels, predictions) == first.estimate(labels, predictions)
    drawn = list(first.multiplicities())
    assert any((drawn[0] != other).any() for other in drawn[1:])


@pytest.mark.parametrize("count", [60, 30_000])
def test_no_difference_is_exactly_none(count: int) -> None:
    labels, predictions, users = posts(count, count // 4)
    differences = difference(Bootstrap(users, resamples=40), labels, predictions, predictions.copy())
    assert differences == dict.fromkeys(METRICS, Estimate(0.0, 0.0, 0.0))


def test_a_difference_is_narrower_than_its_parts() -> None:
    labels, predictions, users = posts(400, 80)
    bootstrap = Bootstrap(users, resamples=200)
    paired = difference(bootstrap, labels, predictions, predictions + 0.3)["mae"]
    parts = [bootstrap.estimate(labels, part)["mae"] for part in (predictions, predictions + 0.3)]
    assert width(paired) < min(width(part) for part in parts) / 1.5


def test_one_user_has_no_interval() -> None:
    labels, predictions, _ = posts(20, 5)
    bootstrap = Bootstrap(["only"] * 20)
    for name, value in score(labels, predictions).items():
        assert bootstrap.estimate(labels, predictions)[name] == Estimate(value, None, None)
        assert difference(bootstrap, labels, predictions, predictions)[name] == Estimate(0.0, None, None)
    assert Bootstrap([]).estimate([], []) == dict.fromkeys(METRICS, Estimate(None, None, None))


def test_undefined_metrics_have_no_interval_and_are_json() -> None:
    labels, _, users = posts(50, 10)
    labels[7] = 0
    bootstrap = Bootstrap(users, resamples=100)
    estimates = bootstrap.estimate(labels, np.ones(50))
    undefined = Estimate(None, None, None)
    assert (estimates["src"], estimates["mape"]) == (undefined, undefined)
    assert width(estimates["mae"]) > 0
    assert difference(bootstrap, labels, labels, np.ones(50))["src"] == undefined
    text = json.dumps({name: dataclasses.asdict(estimate) for name, estimate in estimates.items()}, allow_nan=False)
    assert json.loads(text)["mape"] == {"value": None, "low": None, "high": None}


def test_resamples_without_src_are_left_out_unless_they_are_most() -> None:
    # One user's label differs, so that a resample without that user has no SRC: about 35 in 100.
    labels, odd = np.ones(10), np.ones(10)
    labels[3], odd[8] = 2, 2
    bootstrap = Bootstrap(range(10), resamples=400)
    drawn = np.array(list(bootstrap.multiplicities())) > 0
    assert 0.3 < 1 - drawn[:, 3].mean() < 0.4
    assert bootstrap.estimate(labels, labels)["src"] == Estimate(1.0, 1.0, 1.0)
    # Where another user's prediction differs, both must be drawn: about 59 in 100 have no SRC.
    assert 0.5 < 1 - (drawn[:, 3] & drawn[:, 8]).mean() < 0.65
    assert bootstrap.estimate(labels, odd)["src"] == Estimate(exactly(-1 / 9), None, None)  # type: ignore[arg-type]
    # A difference needs both sides.
    assert difference(bootstrap, labels, labels, odd)["src"] == Estimate(exactly(10 / 9), None, None)  # type: ignore[arg-type]
    assert difference(bootstrap, labels, labels, labels)["src"] == Estimate(0.0, 0.0, 0.0)


def test_bad_input_of_the_bootstrap_is_refused() -> None:
    with pytest.raises(ValueError, match=r"users \(3,\)"):
        Bootstrap([1, 2, 3]).estimate([1, 2], [1, 2])
    with pytest.raises(ValueError, match=r"prediction \(2,\)"):
        difference(Bootstrap([1, 2, 3]), [1, 2, 3], [1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="prediction: 1 of 3"):
        difference(Bootstrap([1, 2, 3]), [1, 2, 3], [1, 2, 3], [1, 2, np.nan])


def test_a_post_without_a_user_is_a_user_of_its_own() -> None:
    assert user_codes(["b", None, "a", "b", np.nan]).tolist() == [0, 2, 1, 0, 3]
    assert user_codes(pa.chunked_array([["b", None], ["a", "b", None]])).tolist() == [0, 2, 1, 0, 3]
    assert user_codes([]).tolist() == []
    assert Bootstrap(["b", None, "a", "b", np.nan]).user_of.tolist() == [0, 1, 2, 0, 3]


def test_bounds_leave_out_what_is_undefined() -> None:
    rng = np.random.default_rng(0)
    resampled = rng.normal(size=(101, 3))
    resampled[:50, 1], resampled[:51, 2] = np.nan, np.nan
    found = bounds(resampled)
    np.testing.assert_array_equal(found[:, 0], np.percentile(resampled[:, 0], [2.5, 97.5]))
    np.testing.assert_array_equal(found[:, 1], np.percentile(resampled[50:, 1], [2.5, 97.5]))
    assert np.isnan(found[:, 2]).all()
    assert np.isnan(bounds(np.zeros((0, 2)))).all()
    assert np.isnan(bounds(np.zeros(0))).tolist() == [[True], [True]]


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.72949, 0.7012, 0.755, "+0.729 [+0.701, +0.755]"), (-0.5, None, None, "-0.500"),
        (-0.5, np.nan, np.nan, "-0.500"), (None, None, None, "undefined"), (np.nan, 0.1, 0.2, "undefined"),
    ],
)  # fmt: skip
def test_an_estimate_in_words(value: float | None, low: float | None, high: float | None, shown: str) -> None:
    assert interval(value, low, high, signed=True) == shown


def test_few_users_have_no_interval() -> None:
    rng = np.random.default_rng(0)
    for users in (FEWEST_USERS - 1, FEWEST_USERS):
        of = np.repeat(np.arange(users), 20)
        found = Bootstrap(of, 50).estimate(rng.normal(size=len(of)), rng.normal(size=len(of)))
        assert (found["mae"].low is None) == (users < FEWEST_USERS)
        assert found["mae"].value is not None


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ((-0.0002, -0.00031, -0.00009), "-0.00020 [-0.00031, -0.00009]"),
        ((0.012, 0.001, 0.02), "0.012 [0.001, 0.020]"),
        ((0.0, 0.0, 0.0), "0.000 [0.000, 0.000]"), ((0.004, None, None), "0.0040"), ((None, None, None), "undefined"),
        ((12.5, 11.0, 14.25), "12.500 [11.000, 14.250]"),
    ],
)  # fmt: skip
def test_small_numbers_have_digits_enough(numbers: tuple[float | None, ...], shown: str) -> None:
    assert interval(*numbers) == shown
