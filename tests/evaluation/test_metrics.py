"""Metrics, held against scipy and scikit-learn."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, mean_absolute_percentage_error

from smp_ray.evaluation.bootstrap import Bootstrap
from smp_ray.evaluation.metrics import METRICS, by_fold, score, src


def mae(labels: ArrayLike, predictions: ArrayLike) -> float | None:
    return score(labels, predictions)["mae"]


def mape(labels: ArrayLike, predictions: ArrayLike) -> float | None:
    return score(labels, predictions)["mape"]


#: Few distinct values, so that most examples have ties; whole numbers, so that transforms below keep them exactly.
pairs = st.lists(st.tuples(st.integers(-6, 6), st.integers(-6, 6)), min_size=2, max_size=40).map(
    lambda rows: np.array(rows, dtype=float).T
)


def exactly(value: float) -> object:
    return pytest.approx(value, rel=1e-12, abs=1e-12)


def posts(count: int, users: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels above 0 and predictions with many ties, and users with few and with many posts."""
    generator = np.random.default_rng(seed)
    labels = np.round(generator.gamma(4, 1.5, count), 1) + 0.1
    predictions = np.round(labels + generator.normal(size=count))
    return labels, predictions, np.sort(generator.integers(users, size=count) ** 2 // users)


@settings(deadline=None)
@given(pairs)
def test_metrics_agree_with_scipy_and_sklearn(pair: np.ndarray) -> None:
    labels, predictions = pair
    if len(set(labels)) == 1 or len(set(predictions)) == 1:
        assert src(labels, predictions) is None
    else:
        assert src(labels, predictions) == exactly(spearmanr(labels, predictions).statistic)
    assert mae(labels, predictions) == exactly(mean_absolute_error(labels, predictions))
    if 0 in labels:
        assert mape(labels, predictions) is None
    else:
        assert mape(labels, predictions) == exactly(mean_absolute_percentage_error(labels, predictions))


@pytest.mark.parametrize("decimals", [0, 2, 15])
def test_metrics_agree_with_scipy_and_sklearn_on_many_posts(decimals: int) -> None:
    generator = np.random.default_rng(decimals)
    labels = np.round(generator.normal(6.4, 2.5, 50_000), decimals)
    predictions = np.round(labels + generator.normal(size=50_000), decimals)
    labels[labels == 0] = 1e-3
    assert src(labels, predictions) == exactly(spearmanr(labels, predictions).statistic)
    assert mae(labels, predictions) == exactly(mean_absolute_error(labels, predictions))
    assert mape(labels, predictions) == exactly(mean_absolute_percentage_error(labels, predictions))


def test_known_values() -> None:
    assert score([1, 2, 4, 8], [1, 3, 3, 6]) == {"src": exactly(0.9**0.5), "mae": 1.0, "mape": 0.25}
    assert src([1, 2, 3], [5, 6, 7]) == 1.0
    assert src([1, 2, 3], [7, 6, 5]) == -1.0
    assert mape([-2.0, 4.0], [-1.0, 4.0]) == 0.25
    tiny = [1e-18, 2.0]
    assert mape(tiny, [1.0, 2.0]) == exactly(mean_absolute_percentage_error(tiny, [1.0, 2.0]))


def test_undefined_is_none() -> None:
    assert src([1, 2, 3], [0.1, 0.1, 0.1]) is None
    assert src([0.3, 0.3], [1, 2]) is None
    assert src([1], [2]) is None
    assert mape([1, 0], [1, 1]) is None
    assert score([], []) == dict.fromkeys(METRICS)
    assert score([3], [1]) == {"src": None, "mae": 2.0, "mape": exactly(2 / 3)}


@settings(deadline=None)
@given(pairs)
def test_src_sees_only_the_order(pair: np.ndarray) -> None:
    labels, predictions = pair
    value = src(labels, predictions)
    assert src(labels**3 + labels, 5 * predictions - 7) == value
    assert src(predictions, labels) == value
    mirrored = src(labels, -predictions)
    assert mirrored == (None if value is None else exactly(-value))


@settings(deadline=None)
@given(pairs, st.integers(-9, 9), st.floats(0.01, 100))
def test_mae_keeps_shifts_and_scales(pair: np.ndarray, shift: int, scale: float) -> None:
    labels, predictions = pair
    value = mae(labels, predictions)
    assert value is not None
    assert mae(labels + shift, predictions + shift) == exactly(value)
    assert mae(scale * labels, scale * predictions) == pytest.approx(scale * value, rel=1e-12)
    if labels.all():
        relative = mape(labels, predictions)
        assert mape(scale * labels, scale * predictions) == pytest.approx(relative, rel=1e-12)


def test_by_fold() -> None:
    labels, predictions, _ = posts(90, 10)
    folds = np.arange(90) % 4 - 1
    predictions[folds < 0] = np.nan
    rows = by_fold(labels, predictions, folds)
    assert [(row["fold"], row["posts"]) for row in rows] == [(0, 23), (1, 22), (2, 22)]
    for row in rows:
        inside = folds == row["fold"]
        assert {name: row[name] for name in METRICS} == score(labels[inside], predictions[inside])
    json.dumps(rows, allow_nan=False)
    assert by_fold(np.ones(1), np.ones(1), np.array([-1])) == []
    with pytest.raises(ValueError, match="prediction: 1 of 2 values"):
        by_fold(np.arange(3), np.array([1, np.nan, 3]), np.array([0, 0, 1]))


@pytest.mark.parametrize("metric", [src, score, lambda first, second: Bootstrap([1, 2, 3]).estimate(first, second)])
def test_bad_input_is_refused(metric: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="prediction: 2 of 3 values are NaN or infinite"):
        metric([1.0, 2.0, 3.0], [1.0, np.nan, np.inf])
    with pytest.raises(ValueError, match="popularity: 1 of 3 values are NaN or infinite"):
        metric([1.0, None, 3.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"shapes differ: popularity \(3,\), prediction \(2,\)"):
        metric([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"prediction \(3, 1\)"):
        metric([1.0, 2.0, 3.0], [[1.0], [2.0], [3.0]])
