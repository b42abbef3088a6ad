"""95 % intervals of the metrics and of their differences, from a bootstrap over users."""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from smp_ray.evaluation.metrics import METRICS, TieGroups, checked, correlation, relative_errors, score

#: Percentiles that bound a 95 % interval.
BOUNDS = (2.5, 97.5)


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


class Bootstrap:
    """Percentile intervals from resampled users: posts of one user are alike, so they are drawn together or not at all.

    A resample draws as many users as there are, with replacement; the posts of a user drawn three times count three
    times. Every estimate and difference of one `Bootstrap` sees the same resamples. Resamples in which a metric is
    undefined are left out of its interval, and with more than half of them undefined there is none. With fewer than
    two users there is nothing to resample, and no interval either.

    Args:
        users: the user of each post, a code or anything hashable. A post without a user needs a code of its own, as
            `splits.user_codes` gives it.
        resamples: number of resamples, at least 1.
        seed: the same seed, users and number of resamples give the same resamples.

    Raises:
        ValueError: a missing user.
    """

    def __init__(self, users: Iterable[Hashable], resamples: int = 1000, seed: int = 0):
        self._user_of, distinct = pd.factorize(np.fromiter(users, dtype=object))
        if missing := int((self._user_of < 0).sum()):
            count = len(self._user_of)
            raise ValueError(f"users: {missing} of {count} are missing; give a post without one a code of its own")
        self.users = len(distinct)
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
        labels, predicted, _ = checked(popularity=popularity, prediction=prediction, users=self._user_of)
        values = score(labels, predicted)
        (resampled,) = self._resampled(labels, [predicted])
        return {name: _with_interval(values[name], resampled[:, at]) for at, name in enumerate(METRICS)}

    def difference(self, popularity: ArrayLike, prediction: ArrayLike, baseline: ArrayLike) -> dict[str, Estimate]:
        """Each metric of `prediction` minus that of `baseline`, paired: both are judged on the same resamples.

        Raises:
            ValueError: the lengths, or that of the users, differ, or a value is not finite.
        """
        labels, predicted, compared, _ = checked(
            popularity=popularity, prediction=prediction, baseline=baseline, users=self._user_of
        )
        values, compared_values = score(labels, predicted), score(labels, compared)
        resampled, compared_resampled = self._resampled(labels, [predicted, compared])
        estimates = {}
        for at, name in enumerate(METRICS):
            value, compared_value = values[name], compared_values[name]
            change = None if value is None or compared_value is None else value - compared_value
            estimates[name] = _with_interval(change, resampled[:, at] - compared_resampled[:, at])
        return estimates

    def _resampled(self, labels: np.ndarray, predictions: list[np.ndarray]) -> np.ndarray:
        """Metrics in each resample, float64 (predictions, resamples, metrics), NaN where undefined."""
        resampled = np.full((len(predictions), self.resamples, len(METRICS)), np.nan)
        if self.users < 2:
            return resampled
        # What sorts or walks through the posts' values is done here, once, and not in each resample.
        label_groups = TieGroups(labels)
        groups = [TieGroups(predicted) for predicted in predictions]
        absolute = [self._by_user(np.abs(labels - predicted)) for predicted in predictions]
        relative = [self._by_user(relative_errors(labels, predicted)) for predicted in predictions]
        posts_of_user = self._by_user(np.ones(len(labels)))
        for at, multiplicity in enumerate(self.multiplicities()):
            times = multiplicity.astype(np.float64)
            weights = times[self._user_of]
            posts = times @ posts_of_user
            label_ranks = label_groups.ranks(weights)
            for which in range(len(predictions)):
                ranked = correlation(label_ranks, groups[which].ranks(weights), weights)
                resampled[which, at] = (
                    np.nan if ranked is None else ranked,
                    times @ absolute[which] / posts,
                    times @ relative[which] / posts,
                )
        return resampled

    def _by_user(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self._user_of, weights=values, minlength=self.users)


def _with_interval(value: float | None, resampled: np.ndarray) -> Estimate:
    defined = resampled[~np.isnan(resampled)]
    if value is None or 2 * len(defined) < len(resampled):
        return Estimate(value, None, None)
    low, high = np.percentile(defined, BOUNDS)
    return Estimate(value, float(low), float(high))
