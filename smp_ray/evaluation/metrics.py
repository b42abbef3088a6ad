"""How well predictions agree with popularity: SRC, MAE and MAPE; `bootstrap` adds intervals.

SRC is Spearman's rank correlation, the SMP Challenge's first metric, MAE the mean absolute error, and MAPE, the video
challenge's metric, the mean absolute error as a share of the label. A metric that the data does not define is None,
never 0 or NaN: with no posts all three, with constant popularity or predictions SRC, with a label of 0 MAPE. Labels
and predictions of different lengths, or that are not finite, are a ValueError.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

METRICS = ("src", "mae", "mape")

#: The smallest label that MAPE divides by, as in scikit-learn: a label closer to 0 must not overflow.
_SMALLEST_LABEL = float(np.finfo(np.float64).eps)


def src(popularity: ArrayLike, prediction: ArrayLike) -> float | None:
    """Spearman's rank correlation, -1 to 1, equal values sharing the mean of their ranks.

    None where either side is constant, which includes fewer than two posts.
    """
    labels, predicted = checked(popularity=popularity, prediction=prediction)
    weights = np.ones(len(labels))
    return correlation(TieGroups(labels).ranks(weights), TieGroups(predicted).ranks(weights), weights)


def score(popularity: ArrayLike, prediction: ArrayLike) -> dict[str, float | None]:
    """`src`, `mae` in the unit of the labels, and `mape`, a share (0.25), not a percentage, by name.

    The labels of the video challenge are above 0. Those of SMPD-Image may be 0 or below, where MAPE says little.
    """
    labels, predicted = checked(popularity=popularity, prediction=prediction)
    some = len(labels) > 0
    return {
        "src": src(labels, predicted),
        "mae": float(np.abs(labels - predicted).mean()) if some else None,
        "mape": float(relative_errors(labels, predicted).mean()) if some and labels.all() else None,
    }


def by_fold(popularity: np.ndarray, prediction: np.ndarray, folds: np.ndarray) -> list[dict[str, Any]]:
    """A `{"fold", "posts", "src", "mae", "mape"}` for each fold, in order.

    Posts of a fold below 0 are in none, and their prediction may be NaN.
    """
    parts = {int(fold): folds == fold for fold in np.unique(folds[folds >= 0])}
    return [
        {"fold": fold, "posts": int(inside.sum()), **score(popularity[inside], prediction[inside])}
        for fold, inside in parts.items()
    ]


class TieGroups:
    """Values sorted once into groups of equal ones, so that any weighting of the posts is ranked without sorting."""

    def __init__(self, values: np.ndarray):
        distinct, self._group = np.unique(values, return_inverse=True)
        self._groups = len(distinct)

    def ranks(self, weights: np.ndarray) -> np.ndarray:
        """Midranks less their mean where a post stands `weights` times among the posts; whole numbers, 0 allowed."""
        group_weights = np.bincount(self._group, weights=weights, minlength=self._groups)
        # The midrank is what lies before the group + (its weight + 1) / 2, the mean of all midranks (total + 1) / 2.
        centred = np.cumsum(group_weights) - (group_weights + group_weights.sum()) / 2
        return centred[self._group]


def correlation(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> float | None:
    """Pearson's correlation of weighted ranks; None where either side is constant."""
    weighted = weights * first
    squares = (weighted @ first) * ((weights * second) @ second)
    # Exactly 0 where one group holds all the weight, because ranks are multiples of a half.
    return None if squares == 0 else float(np.clip(weighted @ second / np.sqrt(squares), -1, 1))


def relative_errors(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Absolute errors as shares of the labels, float64 (posts,)."""
    return np.abs(labels - predicted) / np.maximum(np.abs(labels), _SMALLEST_LABEL)


def checked(**given: ArrayLike) -> list[np.ndarray]:
    """Arrays by name as float64 (posts,), which have one shape and are finite."""
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in given.items()}
    if len({values.shape for values in arrays.values()}) > 1:
        raise ValueError("shapes differ: " + ", ".join(f"{name} {values.shape}" for name, values in arrays.items()))
    for name, values in arrays.items():
        if unusable := int(np.count_nonzero(~np.isfinite(values))):
            raise ValueError(f"{name}: {unusable} of {len(values)} values are NaN or infinite")
    return list(arrays.values())
