"""Every measure by popularity interval, its correlation with popularity and its trend (Figure 4 of the paper)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from smp_ray.analysis.resampling import bounds, drawn_users, resampled_medians, user_codes
from smp_ray.evaluation.bootstrap import Bootstrap

OVERALL, WITHIN_USERS = "overall", "within users"


@dataclass(frozen=True)
class Intervals:
    """Popularity intervals [low, high) and the one that each post is in.

    Attributes:
        edges: inner edges, rising; the first interval lies below the first one, the last begins at the last one.
        codes: int64 (posts,), number of the interval; -1: the post has no label.
    """

    edges: tuple[float, ...]
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.edges) + 1

    @property
    def labels(self) -> list[str]:
        """In words: "below 2", "2 to 4", "4 and above"."""
        between = zip(self.edges, self.edges[1:], strict=False)
        inner = [f"{low:g} to {high:g}" for low, high in between]
        return [f"below {self.edges[0]:g}", *inner, f"{self.edges[-1]:g} and above"]

    def frame(self) -> pd.DataFrame:
        """A row an interval: interval (in words), low, high (NaN where it is open)."""
        edges = [np.nan, *self.edges, np.nan]
        return pd.DataFrame({"interval": self.labels, "low": edges[:-1], "high": edges[1:]})


def popularity_intervals(popularity: Any, edges: Sequence[float]) -> Intervals:
    """The interval of each post.

    Args:
        popularity: a label a post, NaN where there is none.
        edges: inner edges, rising, at least one.
    """
    values = np.asarray(popularity, dtype=np.float64)
    codes = np.searchsorted(np.asarray(edges, dtype=np.float64), values, side="right")
    return Intervals(tuple(edges), np.where(np.isnan(values), -1, codes).astype(np.int64))


def measures_by_interval(posts: pd.DataFrame, measures: Iterable[str], intervals: Intervals, few: int) -> pd.DataFrame:
    """Quartiles and mean of each measure in each popularity interval.

    Args:
        posts: a column a measure; a measure that is missing or not finite is no measure of that post.
        measures: columns of `posts`; one that is not there is measured for no post.
        intervals: of the same posts.
        few: intervals with fewer measured posts are marked.

    Returns:
        measure, interval, low, high (bounds of popularity), posts (that have the measure), q25, median, q75, mean (NaN
        without posts), few.
    """
    frames = []
    for measure in measures:
        values = _values(posts, measure)
        frame = intervals.frame()
        frame.insert(0, "measure", measure)
        rows = [_summary(values[(intervals.codes == code) & np.isfinite(values)]) for code in range(len(intervals))]
        frame[["posts", "q25", "median", "q75", "mean"]] = pd.DataFrame(rows)
        frames.append(frame.assign(few=frame["posts"] < few))
    columns = ["measure", "interval", "low", "high", "posts", "q25", "median", "q75", "mean", "few"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def _values(posts: pd.DataFrame, measure: str) -> np.ndarray:
    if measure not in posts:
        return np.full(len(posts), np.nan)
    return np.asarray(posts[measure].to_numpy(dtype=np.float64, na_value=np.nan))


def _summary(values: np.ndarray) -> tuple[int, float, float, float, float]:
    if not len(values):
        return 0, np.nan, np.nan, np.nan, np.nan
    q25, median, q75 = np.quantile(values, (0.25, 0.5, 0.75))
    return len(values), float(q25), float(median), float(q75), float(values.mean())


def correlations(
    posts: pd.DataFrame, measures: Iterable[str], users: Any, resamples: int, seed: int = 0
) -> pd.DataFrame:
    """Spearman's rank correlation of each measure with popularity, overall and within users.

    Within users: posts are ranked among all posts of users with at least two of them that have label and measure; of
    either rank the user's mean is taken away; what remains is correlated (Pearson). So users who are popular as such
    do not count, only whether their more popular posts are those with more of the measure. Its resamples draw users
    and keep the ranks.

    Args:
        posts: popularity and the measures, NaN where missing.
        measures: columns of `posts`; one that is not there is measured for no post.
        users: of each post; a post without one is a user of its own.
        resamples: bootstrap resamples of users.
        seed: of the bootstrap.

    Returns:
        measure, scope ("overall" or "within users"), spearman, low, high (95 % interval), posts, users; NaN where
        undefined.
    """
    popularity, codes = _values(posts, "popularity"), user_codes(users)
    rows: list[tuple[str, str, float | None, float | None, float | None, int, int]] = []
    for measure in measures:
        values = _values(posts, measure)
        known = np.isfinite(values) & np.isfinite(popularity)
        label, value, user = popularity[known], values[known], user_codes(codes[known])
        bootstrap = Bootstrap(user.tolist(), resamples, seed)
        overall = bootstrap.estimate(label, value)["src"]
        rows.append((measure, OVERALL, overall.value, overall.low, overall.high, len(label), bootstrap.users))
        several = np.bincount(user, minlength=1)[user] > 1
        label, value, user = label[several], value[several], user_codes(user[several])
        found, low, high = _within(label, value, user, resamples, seed)
        rows.append((measure, WITHIN_USERS, found, low, high, len(label), len(np.unique(user))))
    frame = pd.DataFrame(rows, columns=["measure", "scope", "spearman", "low", "high", "posts", "users"])
    return frame.astype({"spearman": np.float64, "low": np.float64, "high": np.float64})


def _within(
    label: np.ndarray, value: np.ndarray, users: np.ndarray, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Correlation of the ranks less the users' mean ranks, and its interval."""
    first, second = _less_user_mean(label, users), _less_user_mean(value, users)
    # The residuals of a user sum to 0, so the correlation over any draw of users follows from these sums of each.
    products = [np.bincount(users, weights=product) for product in (first * second, first**2, second**2)]
    sums = np.stack(products, axis=1)
    resampled = np.full(resamples, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        for at, times in enumerate(drawn_users(users, resamples, seed)):
            together, of_first, of_second = times @ sums
            resampled[at] = together / np.sqrt(of_first * of_second)
        together, of_first, of_second = sums.sum(axis=0)
        found = np.clip(together / np.sqrt(of_first * of_second), -1, 1)
    low, high = bounds(resampled[:, None], np.array([len(sums)]))
    undefined = np.isnan(found)
    return float(found), np.nan if undefined else float(low[0]), np.nan if undefined else float(high[0])


def _less_user_mean(values: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Midranks less their mean over the user's posts; exactly 0 for a user whose posts are all alike."""
    ranks = pd.Series(values).rank().to_numpy()
    total = np.bincount(users, weights=ranks)[users]
    # Without a rest that looks like variation: ranks are multiples of a half, so their sums are exact.
    return np.asarray(ranks - total / np.bincount(users)[users])


def trend(
    posts: pd.DataFrame, measures: Iterable[str], intervals: Intervals, users: Any, resamples: int, few: int,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """How the median of each measure changes from one popularity interval to the next.

    Args:
        posts: a column a measure, NaN where missing.
        measures: columns of `posts`.
        intervals: of the same posts.
        users: of each post.
        resamples: bootstrap resamples of users.
        few: intervals with fewer measured posts are left out.
        seed: of the bootstrap.

    Returns:
        measure, slope (Theil-Sen: the median of the slopes between any two intervals' medians over their numbers, in
        the measure's unit an interval), low, high (95 % interval); NaN with fewer than two intervals.
    """
    codes, rows = user_codes(users), []
    for measure in measures:
        values = _values(posts, measure)
        known = np.isfinite(values) & (intervals.codes >= 0)
        enough = np.bincount(intervals.codes[known], minlength=len(intervals)) >= max(few, 1)
        kept = known & enough[intervals.codes]
        numbers = np.flatnonzero(enough)
        place = np.searchsorted(numbers, intervals.codes[kept])
        medians = np.array([[np.median(values[kept][place == at]) for at in range(len(numbers))]])
        user = user_codes(codes[kept])
        resampled = resampled_medians(values[kept], place, len(numbers), user, resamples, seed)
        low, high = bounds(_slopes(resampled, numbers)[:, None], np.array([len(np.unique(user))]))
        rows.append((measure, float(_slopes(medians, numbers)[0]), float(low[0]), float(high[0])))
    return pd.DataFrame(rows, columns=["measure", "slope", "low", "high"])


def _slopes(medians: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Theil-Sen slope of each row of (resamples, intervals) over the intervals' numbers; NaN with fewer than two."""
    first, second = np.triu_indices(len(numbers), 1)
    slopes = (medians[:, second] - medians[:, first]) / (numbers[second] - numbers[first])
    found = np.full(len(medians), np.nan)
    some = ~np.isnan(slopes).all(axis=1)
    found[some] = np.nanmedian(slopes[some], axis=1)
    return found
