"""How well predictions agree with popularity: SRC, MAE and MAPE, with intervals from a bootstrap over users.

SRC is Spearman's rank correlation, the SMP Challenge's first metric, MAE the mean absolute error, and MAPE, the video
challenge's metric, the mean absolute error as a share of the label. A metric that the data does not define is None,
never 0 or NaN: with no posts all three, with constant popularity or predictions SRC, with a label of 0 MAPE.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

METRICS = ("src", "mae", "mape")

#: Percentiles that bound a 95 % interval.
BOUNDS = (2.5, 97.5)

#: The smallest label that MAPE divides by, as in scikit-learn: a label closer to 0 must not overflow.
_SMALLEST_LABEL = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Estimate:
    """A metric, or a difference of metrics, with its 95 % interval; `dataclasses.asdict` makes it JSON.

    Attributes:
        value: on the posts as they are; None: undefined there.
        low: 2.5th percentile over the resamples; None: no interval.
        high: 97.5th percentile over the resamples; None: no interval.
    """

    value: float | None
    low: float | None
    high: float | None


def src(popularity: ArrayLike, prediction: ArrayLike) -> float | None:
    """Spearman's rank correlation, equal values sharing the mean of their ranks.

    Returns:
        -1 to 1; None where either side is constant, which includes fewer than two posts.

    Raises:
        ValueError: lengths differ, or a value is not finite.
    """
    labels, predicted = _checked({"popularity": popularity, "prediction": prediction})
    weights = np.ones(len(labels))
    return _correlation(_TieGroups(labels).ranks(weights), _TieGroups(predicted).ranks(weights), weights)


def mae(popularity: ArrayLike, prediction: ArrayLike) -> float | None:
    """Mean absolute error, in the unit of the labels.

    Returns:
        None where there are no posts.

    Raises:
        ValueError: lengths differ, or a value is not finite.
    """
    labels, predicted = _checked({"popularity": popularity, "prediction": prediction})
    return float(np.abs(labels - predicted).mean()) if len(labels) else None


def mape(popularity: ArrayLike, prediction: ArrayLike) -> float | None:
    """Mean of |popularity - prediction| / |popularity|: a share (0.25), not a percentage.

    The labels of the video challenge are above 0. Those of SMPD-Image may be 0 or below, where this says little.

    Returns:
        None where any label is 0, or where there are no posts.

    Raises:
        ValueError: lengths differ, or a value is not finite.
    """
    labels, predicted = _checked({"popularity": popularity, "prediction": prediction})
    return float(_relative_errors(labels, predicted).mean()) if len(labels) and labels.all() else None


def score(popularity: ArrayLike, prediction: ArrayLike) -> dict[str, float | None]:
    """`src`, `mae` and `mape` by name."""
    return {
        "src": src(popularity, prediction),
        "mae": mae(popularity, prediction),
        "mape": mape(popularity, prediction),
    }


def by_fold(popularity: ArrayLike, prediction: ArrayLike, folds: ArrayLike) -> list[dict[str, Any]]:
    """The metrics of each fold, in order of the folds.

    Args:
        popularity: a label a post.
        prediction: a prediction a post.
        folds: the fold in which a post was predicted; posts below 0 are in none, and their prediction may be NaN.

    Returns:
        A `{"fold", "posts", "src", "mae", "mape"}` for each fold.

    Raises:
        ValueError: lengths differ, or a value of a post in a fold is not finite.
    """
    given = {"popularity": popularity, "prediction": prediction, "folds": folds}
    labels, predicted, fold_of = _aligned(given)
    rows = []
    for fold in np.unique(fold_of[fold_of >= 0]):
        inside = fold_of == fold
        rows.append({"fold": int(fold), "posts": int(inside.sum()), **score(labels[inside], predicted[inside])})
    return rows


class Bootstrap:
    """Percentile intervals from resampled users: posts of one user are alike, so they are drawn together or not at all.

    A resample draws as many users as there are, with replacement; the posts of a user drawn three times count three
    times. Every estimate and difference of one `Bootstrap` sees the same resamples. Resamples in which a metric is
    undefined are left out of its interval, and with more than half of them undefined there is none. With fewer than
    two users there is nothing to resample, and no interval either.

    Args:
        users: the user of each post, a code or anything hashable. A post without a user needs a code of its own, as
            `splits.user_codes` gives it.
        resamples: number of resamples.
        seed: the same seed, users and number of resamples give the same resamples.

    Raises:
        ValueError: no resamples, or a missing user.
    """

    def __init__(self, users: Iterable[Hashable], resamples: int = 1000, seed: int = 0):
        if resamples < 1:
            raise ValueError(f"resamples: found {resamples}, allowed: at least 1")
        named = list(users)
        missing = sum(user is None or user != user for user in named)
        if missing:
            raise ValueError(f"users: {missing} of {len(named)} are missing; give a post without one a code of its own")
        codes: dict[Hashable, int] = {}
        self._user_of = np.array([codes.setdefault(user, len(codes)) for user in named], dtype=np.int64)
        self.users = len(codes)
        self.resamples = resamples
        self.seed = seed

    def multiplicities(self) -> Iterator[np.ndarray]:
        """How often each user, in order of appearance, is drawn: int64 (users,), one array a resample."""
        # Drawn anew at each call, which costs little, where all resamples of many users would fill the memory.
        generator = np.random.default_rng(self.seed)
        for _ in range(self.resamples):
            yield np.bincount(generator.integers(self.users, size=self.users), minlength=self.users)

    def estimate(self, popularity: ArrayLike, prediction: ArrayLike) -> dict[str, Estimate]:
        """Each metric with its interval.

        Raises:
            ValueError: the lengths, or that of the users, differ, or a value is not finite.
        """
        labels, predicted = self._checked({"popularity": popularity, "prediction": prediction})
        values = score(labels, predicted)
        (resampled,) = self._resampled(labels, [predicted])
        return {name: _with_interval(values[name], resampled[:, at]) for at, name in enumerate(METRICS)}

    def difference(self, popularity: ArrayLike, prediction: ArrayLike, baseline: ArrayLike) -> dict[str, Estimate]:
        """Each metric of `prediction` minus that of `baseline`, paired: both are judged on the same resamples.

        Raises:
            ValueError: the lengths, or that of the users, differ, or a value is not finite.
        """
        given = {"popularity": popularity, "prediction": prediction, "baseline": baseline}
        labels, predicted, compared = self._checked(given)
        values, compared_values = score(labels, predicted), score(labels, compared)
        resampled, compared_resampled = self._resampled(labels, [predicted, compared])
        estimates = {}
        for at, name in enumerate(METRICS):
            value, compared_value = values[name], compared_values[name]
            change = None if value is None or compared_value is None else value - compared_value
            estimates[name] = _with_interval(change, resampled[:, at] - compared_resampled[:, at])
        return estimates

    def _checked(self, given: dict[str, ArrayLike]) -> list[np.ndarray]:
        arrays = _checked(given)
        if len(arrays[0]) != len(self._user_of):
            raise ValueError(f"lengths differ: popularity {len(arrays[0])}, users {len(self._user_of)}")
        return arrays

    def _resampled(self, labels: np.ndarray, predictions: list[np.ndarray]) -> np.ndarray:
        """Metrics in each resample, float64 (predictions, resamples, metrics), NaN where undefined."""
        resampled = np.full((len(predictions), self.resamples, len(METRICS)), np.nan)
        if self.users < 2:
            return resampled
        # What sorts or walks through the posts' values is done here, once, and not in each resample.
        label_groups = _TieGroups(labels)
        groups = [_TieGroups(predicted) for predicted in predictions]
        absolute = [self._by_user(np.abs(labels - predicted)) for predicted in predictions]
        relative = [self._by_user(_relative_errors(labels, predicted)) for predicted in predictions]
        posts_of_user = self._by_user(np.ones(len(labels)))
        for at, multiplicity in enumerate(self.multiplicities()):
            times = multiplicity.astype(np.float64)
            weights = times[self._user_of]
            posts = times @ posts_of_user
            label_ranks = label_groups.ranks(weights)
            for which in range(len(predictions)):
                correlation = _correlation(label_ranks, groups[which].ranks(weights), weights)
                resampled[which, at] = (
                    np.nan if correlation is None else correlation,
                    times @ absolute[which] / posts,
                    times @ relative[which] / posts,
                )
        return resampled

    def _by_user(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self._user_of, weights=values, minlength=self.users)


@dataclass(frozen=True)
class _Ranks:
    """Midranks less their mean, a post, and the sum of their squares over the weighted posts."""

    centred: np.ndarray
    squares: float


class _TieGroups:
    """Values sorted once into groups of equal ones, so that any weighting of the posts is ranked without sorting."""

    def __init__(self, values: np.ndarray):
        distinct, self._group = np.unique(values, return_inverse=True)
        self._groups = len(distinct)

    def ranks(self, weights: np.ndarray) -> _Ranks:
        """Midranks where a post stands `weights` times among the posts; whole numbers, 0 allowed."""
        group_weights = np.bincount(self._group, weights=weights, minlength=self._groups)
        upto = np.cumsum(group_weights)
        # The midrank is what lies before the group + (its weight + 1) / 2, the mean of all midranks (total + 1) / 2.
        centred = upto - (group_weights + group_weights.sum()) / 2
        return _Ranks(centred[self._group], float(group_weights @ centred**2))


def _correlation(first: _Ranks, second: _Ranks, weights: np.ndarray) -> float | None:
    # Exactly 0 where one group holds all the weight, because ranks are multiples of a half.
    if first.squares == 0 or second.squares == 0:
        return None
    together = float((weights * first.centred) @ second.centred)
    return float(np.clip(together / np.sqrt(first.squares * second.squares), -1, 1))


def _relative_errors(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return np.abs(labels - predicted) / np.maximum(np.abs(labels), _SMALLEST_LABEL)


def _with_interval(value: float | None, resampled: np.ndarray) -> Estimate:
    defined = resampled[~np.isnan(resampled)]
    if value is None or 2 * len(defined) < len(resampled):
        return Estimate(value, None, None)
    low, high = np.percentile(defined, BOUNDS)
    return Estimate(value, float(low), float(high))


def _checked(given: dict[str, ArrayLike]) -> list[np.ndarray]:
    """The arrays as float64 (posts,), all of one length and finite."""
    arrays = _aligned(given)
    for name, values in zip(given, arrays, strict=True):
        unusable = int(np.count_nonzero(~np.isfinite(values)))
        if unusable:
            raise ValueError(f"{name}: {unusable} of {len(values)} values are NaN or infinite")
    return arrays


def _aligned(given: dict[str, ArrayLike]) -> list[np.ndarray]:
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in given.items()}
    for name, values in arrays.items():
        if values.ndim != 1:
            raise ValueError(f"{name}: found shape {values.shape}, allowed: one number a post")
    if len({len(values) for values in arrays.values()}) > 1:
        raise ValueError("lengths differ: " + ", ".join(f"{name} {len(values)}" for name, values in arrays.items()))
    return list(arrays.values())
