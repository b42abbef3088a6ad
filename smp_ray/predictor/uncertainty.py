"""How far a prediction may be off: conformal intervals from out-of-fold residuals, wider where errors were larger.

A second model learns the size of the residuals; the residuals divided by it are, as far as it is right, alike for all
posts, and their quantiles give an interval at any level (split conformal prediction with normalised scores:
Papadopoulos et al., "Inductive confidence machines for regression", 2002; Lei et al., "Distribution-free predictive
inference for regression", 2018). As residuals come from folds of other users (or of later times), an interval holds for
new users (or times), as long as they are like those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: How the size of a residual is learned: LightGBM, small, so that it says where errors are large and nothing finer.
SETTINGS: dict[str, Any] = {
    "objective": "regression_l1", "learning_rate": 0.03, "num_leaves": 7, "min_data_in_leaf": 30,
    "feature_fraction": 0.5, "bagging_fraction": 0.7, "lambda_l2": 10.0, "max_bin": 63,
}  # fmt: skip
ROUNDS = 150
#: A size is at least and at most so many times the median residual: no interval of width 0, none without end.
BOUNDS = (0.3, 4.0)
#: How much of what the model of the sizes says is taken, as an exponent: it knows less than it says.
TRUST = 0.6
#: Learns sizes, float64 (posts,), from values (posts, columns), and gives what says them of others.
Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]
#: Quantiles that are kept of the scores.
GRID = 2001
#: Residuals that sizes or quantiles are made of at least.
FEWEST = 2
#: Pairs of posts whose differences are looked at.
_PAIRS = 200_000


@dataclass(frozen=True)
class Uncertainty:
    """Quantiles of normalised residuals.

    Attributes:
        scores: float64 (GRID,), sorted quantiles of (label - prediction) / size.
        differences: float64 (GRID,), of |difference of the residuals of two posts of one user| / their common size.
        posts: residuals behind the scores.
        median: median absolute residual, in the unit of popularity; bounds the sizes.
    """

    scores: Sequence[float]
    differences: Sequence[float]
    posts: int
    median: float

    @classmethod
    def of(cls, residuals: np.ndarray, sizes: np.ndarray, users: np.ndarray, seed: int = 0) -> Uncertainty:
        """From out-of-fold residuals and their sizes, float64 (posts,), by users, int64 (posts,)."""
        median = float(np.median(np.abs(residuals)))
        sizes = bounded(sizes, median)
        scores = residuals / sizes
        grid = np.linspace(0, 1, GRID)
        first, second = pairs(users, seed)
        apart = np.abs(residuals[first] - residuals[second]) / np.hypot(sizes[first], sizes[second])
        return cls(np.quantile(scores, grid).tolist(), np.quantile(apart, grid).tolist(), len(residuals), median)

    @property
    def highest_level(self) -> float:
        """The highest level at which as many labels lie within as it says; above it intervals are too narrow."""
        return 1 - 2 / (self.posts + 1)

    def interval(self, prediction: np.ndarray, sizes: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bound at a level (0.9: nine of ten labels lie between), float64 (posts,) each.

        `sizes` are as the model says them. Above the `highest_level` it reaches as far as the largest scores.
        """
        tail = max((1 - level) / 2 - 1 / (self.posts + 1), 0.0)  # as many labels as conformal prediction asks for
        low, high = np.interp([tail, 1 - tail], np.linspace(0, 1, GRID), self.scores)
        sizes = self.sized(sizes)
        return prediction + sizes * low, prediction + sizes * high

    def sized(self, sizes: np.ndarray) -> np.ndarray:
        """Sizes within their bounds: what an error of such posts typically is."""
        return bounded(sizes, self.median)

    def apart(self, sizes: np.ndarray, other: np.ndarray, level: float) -> np.ndarray:
        """Half the width of the interval of a difference between posts of one user, float64 (n,), of their `sized`."""
        width = np.interp(level, np.linspace(0, 1, GRID), self.differences)
        return np.asarray(width * np.hypot(sizes, other))


def bounded(sizes: np.ndarray, median: float) -> np.ndarray:
    """Sizes that are drawn towards the median residual by `TRUST`, within `BOUNDS`."""
    median = max(median, 1e-9)
    return np.asarray(median * np.clip(np.maximum(sizes / median, 0) ** TRUST, *BOUNDS))


def pairs(users: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of pairs of posts of one user, (n,) each; of any two posts where hardly any user has two."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(users))
    order = order[np.argsort(users[order], kind="stable")]
    distance = np.arange(1, 4)
    found = [(order[:-step], order[step:]) for step in distance if len(order) > step]
    first, second = (np.concatenate(side) for side in zip(*found, strict=True))
    same = users[first] == users[second]
    if same.sum() < 50:
        same[:] = True
    picked = np.flatnonzero(same)
    picked = rng.permutation(picked)[:_PAIRS]
    return first[picked], second[picked]


def known_before(folds: np.ndarray, fold: int, past_only: bool) -> np.ndarray:
    """Posts that may tell of a fold's errors, bool (posts,): other folds', under a split by time earlier ones'."""
    return folds < fold if past_only else folds != fold


def cross_fitted(fit: Fit, values: np.ndarray, residuals: np.ndarray, folds: np.ndarray, past_only: bool) -> np.ndarray:
    """Sizes of residuals by what was fitted on posts `known_before`, float64 (posts,); NaN where they are too few."""
    found = np.full(len(residuals), np.nan)
    for fold in np.unique(folds):
        own, known = folds == fold, known_before(folds, fold, past_only)
        if known.sum() >= FEWEST:
            found[own] = fit(values[known], np.abs(residuals[known]))(values[own])
    return found


def coverage(
    residuals: np.ndarray, sizes: np.ndarray, users: np.ndarray, folds: np.ndarray, level: float, past_only: bool
) -> dict[str, float]:
    """How many labels lie within intervals that come from posts `known_before` alone; `sizes` as `cross_fitted`.

    Returns:
        `covered` share of the posts, `covered_users` mean over the users, `width` mean width, and the first and last
        for intervals of one width for all: `constant_covered`, `constant_width`. {} where nothing can be held against
        anything, as under a split by time with two folds.
    """
    sized, rows = np.isfinite(sizes), []
    for fold in np.unique(folds[sized]):
        own, known = sized & (folds == fold), sized & known_before(folds, fold, past_only)
        if known.sum() >= FEWEST:
            row = [users[own]]
            for size in (sizes, np.ones(len(sizes))):
                uncertainty = Uncertainty.of(residuals[known], size[known], users[known])
                low, high = uncertainty.interval(np.zeros(own.sum()), size[own], level)
                row += [(low <= residuals[own]) & (residuals[own] <= high), high - low]
            rows.append(row)
    if not rows:
        return {}
    user, inside, width, constant, same = (np.concatenate(column) for column in zip(*rows, strict=True))
    _, codes = np.unique(user, return_inverse=True)
    return {
        "level": level, "posts": len(user), "covered": float(inside.mean()),
        "covered_users": float((np.bincount(codes, inside) / np.bincount(codes)).mean()), "width": float(width.mean()),
        "constant_covered": float(constant.mean()), "constant_width": float(same.mean()),
    }  # fmt: skip
