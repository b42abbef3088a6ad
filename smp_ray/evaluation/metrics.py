"""How well predictions agree with popularity: SRC, MAE and MAPE; `bootstrap` adds intervals.

SRC is Spearman's rank correlation, the SMP Challenge's first metric, MAE the mean absolute error, and MAPE, the video
challenge's metric, the mean absolute error as a share of the label. A metric that the data does not define is None,
never 0 or NaN: with no posts all three, with constant popularity or predictions SRC, with a label of 0 MAPE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

METRICS = ("src", "mae", "mape")

#: The smallest label that MAPE divides by, as in scikit-learn: a label closer to 0 must not overflow.
_SMALLEST_LABEL = float(np.finfo(np.float64).eps)


def src(popularity: ArrayLike, prediction: ArrayLike) -> float | None:
    """Spearman's rank correlation, equal values sharing the mean of their ranks.

    Returns:
        -1 to 1; None where either side is constant, which includes fewer than two posts.

    Raises:
        ValueError: lengths differ, or a value is not finite.
    """
    labels, predicted = checked({"popularity": popularity, "prediction": prediction})
    weights = np.ones(len(labels))
    return correlation(TieGroups(labels).ranks(weights), TieGroups(predicted).ranks(weights), weights)


def mae(popularity: ArrayLike, prediction: ArrayLike) -> float | None:
    """Mean absolute error, in the unit of the labels.

    Returns:
        None where there are no posts.

    Raises:
        ValueError: lengths differ, or a value is not finite.
    """
    labels, predicted = checked({"popularity": popularity, "prediction": prediction})
    return float(np.abs(labels - predicted).mean()) if len(labels) else None


def mape(popularity: ArrayLike, prediction: ArrayLike) -> float | None:
    """Mean of |popularity - prediction| / |popularity|: a share (0.25), not a percentage.

    The labels of the video challenge are above 0. Those of SMPD-Image may be 0 or below, where this says little.

    Returns:
        None where any label is 0, or where there are no posts.

    Raises:
        ValueError: lengths differ, or a value is not finite.
    """
    labels, predicted = checked({"popularity": popularity, "prediction": prediction})
    return float(relative_errors(labels, predicted).mean()) if len(labels) and labels.all() else None


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


@dataclass(frozen=True)
class Ranks:
    """Midranks less their mean, a post, and the sum of their squares over the weighted posts."""

    centred: np.ndarray
    squares: float


class TieGroups:
    """Values sorted once into groups of equal ones, so that any weighting of the posts is ranked without sorting."""

    def __init__(self, values: np.ndarray):
        distinct, self._group = np.unique(values, return_inverse=True)
        self._groups = len(distinct)

    def ranks(self, weights: np.ndarray) -> Ranks:
        """Midranks where a post stands `weights` times among the posts; whole numbers, 0 allowed."""
        group_weights = np.bincount(self._group, weights=weights, minlength=self._groups)
        upto = np.cumsum(group_weights)
        # The midrank is what lies before the group + (its weight + 1) / 2, the mean of all midranks (total + 1) / 2.
        centred = upto - (group_weights + group_weights.sum()) / 2
        return Ranks(centred[self._group], float(group_weights @ centred**2))


def correlation(first: Ranks, second: Ranks, weights: np.ndarray) -> float | None:
    """Pearson's correlation of weighted ranks; None where either side is constant."""
    # Exactly 0 where one group holds all the weight, because ranks are multiples of a half.
    if first.squares == 0 or second.squares == 0:
        return None
    together = float((weights * first.centred) @ second.centred)
    return float(np.clip(together / np.sqrt(first.squares * second.squares), -1, 1))


def relative_errors(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Absolute errors as shares of the labels, float64 (posts,)."""
    return np.abs(labels - predicted) / np.maximum(np.abs(labels), _SMALLEST_LABEL)


def checked(given: dict[str, ArrayLike]) -> list[np.ndarray]:
    """Arrays by name as float64 (posts,), all of one length and finite.

    Raises:
        ValueError: they are not.
    """
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
