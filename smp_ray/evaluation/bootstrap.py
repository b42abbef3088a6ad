"""95 % intervals of the metrics and of their differences, from a bootstrap over users."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from smp_ray.evaluation.metrics import METRICS, TieGroups, checked, correlation, relative_errors, score

#: With fewer users there is no interval. Of correlations that do not exist, 20 posts a user, 36 % looked clear with two
#: users, 16 % with three, 9 % with five to ten, 7 % with thirty, where 5 % should (400 made-up worlds each).
FEWEST_USERS = 5


@dataclass(frozen=True)
class Estimate:
    """A metric, or a difference of metrics, on the posts as they are, with the bounds of its 95 % interval.

    None: undefined there, or no interval.
    """

    value: float | None
    low: float | None
    high: float | None


def interval(value: Any, low: Any, high: Any, digits: int = 3, signed: bool = False) -> str:
    """`0.729 [0.701, 0.755]`; without the brackets or `undefined` where bounds or value are None or NaN.

    Small numbers have more digits: the largest of the three has two significant places.
    """
    if pd.isna(value):
        return "undefined"
    largest = max(abs(number) for number in (value, low, high) if not pd.isna(number))
    digits = max(digits, 1 - math.floor(math.log10(largest))) if largest else digits
    shown = f"{{:{'+' if signed else ''}.{digits}f}}".format
    return shown(value) if pd.isna(low) or pd.isna(high) else f"{shown(value)} [{shown(low)}, {shown(high)}]"


def bounds(resampled: np.ndarray) -> np.ndarray:
    """95 % percentile bounds of each column of (resamples, columns), or of one, float64 (2, columns).

    Resamples that are NaN are left out; where more than half are, or there is none, so are the bounds.
    """
    frame = pd.DataFrame(resampled)
    return np.where(2 * frame.count() >= len(frame), frame.quantile([0.025, 0.975]), np.nan)


def user_codes(users: Any) -> np.ndarray:
    """A code for each user, int64 (posts,); a post without a user gets one of its own."""
    codes, known = pd.factorize(np.asarray(users, dtype=object))
    alone = codes < 0
    codes[alone] = len(known) + np.arange(alone.sum())
    return np.asarray(codes, dtype=np.int64)


class Bootstrap:
    """Percentile intervals from resampled users: posts of one user are alike, so they are drawn together or not at all.

    A resample draws as many users as there are, with replacement; the posts of a user drawn three times count three
    times. Every estimate and difference of one `Bootstrap` sees the same resamples. Resamples in which a metric is
    undefined are left out of its interval, and with more than half of them undefined there is none. With fewer than
    `FEWEST_USERS` there is no interval either.

    Args:
        users: the user of each post, a code or anything hashable; a post without a user is a user of its own.
        resamples: number of resamples, at least 1.
        seed: the same seed, users and number of resamples give the same resamples.

    Attributes:
        user_of: of each post, from 0 in order of appearance.
        users: how many.
    """

    def __init__(self, users: Any, resamples: int = 1000, seed: int = 0):
        self.user_of, distinct = pd.factorize(user_codes(users))
        self.users = len(distinct)
        self.resamples = resamples
        self.seed = seed

    def multiplicities(self) -> Iterator[np.ndarray]:
        """How often each user is drawn, int64 (users,), one array a resample; none with too few users."""
        # Drawn anew at each call, which costs little, where all resamples of many users would fill the memory.
        generator = np.random.default_rng(self.seed)
        for _ in range(self.resamples if self.users >= FEWEST_USERS else 0):
            yield np.bincount(generator.integers(self.users, size=self.users), minlength=self.users)

    def estimate(self, popularity: ArrayLike, prediction: ArrayLike) -> dict[str, Estimate]:
        """Each metric with its interval."""
        return estimates(self.metrics(popularity, prediction))

    def metrics(self, popularity: ArrayLike, prediction: ArrayLike) -> np.ndarray:
        """Metrics of the posts as they are and then in each resample, float64 (1 + resamples, metrics).

        NaN where undefined. Two such arrays of the same labels, one minus the other, are the paired difference.

        Raises:
            ValueError: the lengths, or that of the users, differ, or a value is not finite.
        """
        labels, predicted, _ = checked(popularity=popularity, prediction=prediction, users=self.user_of)
        found = np.full((1 + self.resamples, len(METRICS)), np.nan)
        found[0] = list(score(labels, predicted).values())
        # What sorts or walks through the posts' values is done here, once, and not in each resample.
        label_groups, groups = TieGroups(labels), TieGroups(predicted)
        errors = (np.abs(labels - predicted), relative_errors(labels, predicted), np.ones(len(labels)))
        absolute, relative, posts = (np.bincount(self.user_of, weights=part, minlength=self.users) for part in errors)
        for at, multiplicity in enumerate(self.multiplicities(), start=1):
            times = multiplicity.astype(np.float64)
            weights, drawn = times[self.user_of], times @ posts
            ranked = correlation(label_groups.ranks(weights), groups.ranks(weights), weights)
            found[at] = ranked, times @ absolute / drawn, times @ relative / drawn
        return found


def estimates(metrics: np.ndarray) -> dict[str, Estimate]:
    """Each metric with its interval, from what `Bootstrap.metrics` gives or from a difference of two such arrays."""
    known = np.where(np.isnan(metrics[0]), np.nan, [metrics[0], *bounds(metrics[1:])])
    rows = [[None if np.isnan(number) else float(number) for number in column] for column in known.T]
    return {name: Estimate(*row) for name, row in zip(METRICS, rows, strict=True)}
