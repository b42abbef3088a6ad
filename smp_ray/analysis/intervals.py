"""Every measure by popularity interval, its correlation with popularity and its trend (Figure 4 of the paper).

`posts` has a column a measure, NaN where missing; resamples are of users, and a post without one is a user of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from itertools import chain, combinations
from typing import Any

import numpy as np
import pandas as pd

from smp_ray.evaluation.bootstrap import Bootstrap, bounds, user_codes

OVERALL, UNCLEANED, WITHIN_USERS = "overall", "before cleaning", "within users"
#: Intervals of popularity where none are configured.
_INTERVALS = 7


def rounded_quantiles(popularity: Any) -> tuple[float, ...]:
    """Inner edges of intervals of about as many posts each, to two significant places; one at least."""
    quantiles = np.nanquantile(np.asarray(popularity, dtype=np.float64), np.arange(1, _INTERVALS) / _INTERVALS)
    return tuple(sorted({float(f"{edge:.2g}") for edge in quantiles}))


def interval_table(edges: Sequence[float]) -> pd.DataFrame:
    """The popularity intervals [low, high) between inner edges, rising: interval (in words), low, high; NaN: open."""
    low, high = [np.nan, *edges], [*edges, np.nan]
    names = [f"{one:g} to {other:g}" for one, other in zip(low, high, strict=True)]
    names[0], names[-1] = f"below {edges[0]:g}", f"{edges[-1]:g} and above"
    return pd.DataFrame({"interval": names, "low": low, "high": high})


def popularity_intervals(popularity: Any, edges: Sequence[float]) -> pd.Categorical:
    """The interval of each post, in the words of `interval_table`; none for a post without a label."""
    names = interval_table(edges)["interval"].tolist()
    return pd.cut(np.asarray(popularity, dtype=np.float64), [-np.inf, *edges, np.inf], right=False, labels=names)


def measures_by_interval(
    posts: pd.DataFrame, measures: Iterable[str], intervals: pd.Categorical, edges: Sequence[float], few: int
) -> pd.DataFrame:
    """Quartiles and mean of each measure in each popularity interval.

    Returns:
        measure, interval, low, high (bounds of popularity), posts (that have the measure), q25, median, q75, mean (NaN
        without posts), few (whether that is fewer than `few`).
    """
    frames = []
    for measure in measures:
        found = posts[measure].astype(np.float64).groupby(intervals, observed=False).describe().reset_index(drop=True)
        frame = interval_table(edges).assign(posts=found["count"].fillna(0).astype(np.int64))
        frame[["q25", "median", "q75", "mean"]] = found[["25%", "50%", "75%", "mean"]]
        frame.insert(0, "measure", measure)
        frames.append(frame.assign(few=frame["posts"] < few))
    return pd.concat(frames, ignore_index=True)


def correlations(
    posts: pd.DataFrame, measures: Iterable[str], users: Any, resamples: int, seed: int = 0
) -> pd.DataFrame:
    """Spearman's rank correlation of each measure with popularity, overall and within users.

    Within users: posts are ranked among all posts of users with at least two of them that have label and measure; of
    either rank the user's mean is taken away; what remains is correlated (Pearson). So users who are popular as such
    do not count, only whether their more popular posts are those with more of the measure. Its resamples draw users
    and keep the ranks.

    Returns:
        measure, scope (`OVERALL` or `WITHIN_USERS`), spearman, low, high (95 % interval), posts, users; NaN where
        undefined.
    """
    rows: list[tuple[Any, ...]] = []
    every = posts[["popularity"]].astype(np.float64).assign(user=user_codes(users))
    for measure in measures:
        known = every.assign(value=posts[measure].astype(np.float64)).dropna()
        several = known[known.duplicated("user", keep=False)]
        overall = Bootstrap(known["user"], resamples, seed).estimate(known["popularity"], known["value"])["src"]
        rows.append((measure, OVERALL, *astuple(overall), len(known), known["user"].nunique()))
        within = _within(several, resamples, seed)
        rows.append((measure, WITHIN_USERS, *within, len(several), several["user"].nunique()))
    columns = ["measure", "scope", "spearman", "low", "high", "posts", "users"]
    return pd.DataFrame(rows, columns=columns).astype({"spearman": np.float64, "low": np.float64, "high": np.float64})


def _within(posts: pd.DataFrame, resamples: int, seed: int) -> tuple[float, float, float]:
    """Correlation of the ranks less the users' mean ranks, and its interval."""
    ranks, bootstrap = posts[["popularity", "value"]].rank(), Bootstrap(posts["user"], resamples, seed)
    # Ranks are multiples of a half, so a user whose posts are all alike is left with exactly 0.
    rest = ranks - ranks.groupby(bootstrap.user_of).transform("mean")
    popularity, value = rest["popularity"], rest["value"]
    products = pd.DataFrame({"both": popularity * value, "first": popularity**2, "second": value**2})
    # The residuals of a user sum to 0, so the correlation over any draw of users follows from these sums of each.
    sums = products.groupby(bootstrap.user_of).sum().to_numpy()
    both, first, second = np.array([sums.sum(axis=0), *(times @ sums for times in bootstrap.multiplicities())]).T
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.clip(both / np.sqrt(first * second), -1, 1)
    low, high = bounds(found[1:])[:, 0]
    return found[0], low, high


def trend(
    posts: pd.DataFrame, measures: Iterable[str], intervals: pd.Categorical, users: Any, resamples: int, few: int,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """How the median of each measure changes from one popularity interval to the next, of those of `few` posts or more.

    Returns:
        measure, slope (Theil-Sen: the median of the slopes between any two intervals' medians over their numbers, in
        the measure's unit an interval), low, high (95 % interval); NaN with fewer than two intervals.
    """
    rows = []
    every = pd.DataFrame({"interval": intervals.codes, "user": user_codes(users)})
    for measure in measures:
        known = every.assign(value=posts[measure].to_numpy(dtype=np.float64)).query("interval >= 0").dropna()
        kept = known[known.groupby("interval")["value"].transform("size") >= max(few, 1)]
        bootstrap = Bootstrap(kept["user"], resamples, seed)
        kept = kept.assign(user=bootstrap.user_of)
        parts = {at: (part["value"].to_numpy(), part["user"].to_numpy()) for at, part in kept.groupby("interval")}
        once = np.ones(bootstrap.users, dtype=np.int64)
        slopes = np.array([_slope(parts, times) for times in chain([once], bootstrap.multiplicities())])
        rows.append((measure, slopes[0], *bounds(slopes[1:])[:, 0]))
    return pd.DataFrame(rows, columns=["measure", "slope", "low", "high"])


def _slope(parts: dict[int, tuple[np.ndarray, np.ndarray]], times: np.ndarray) -> float:
    """Theil-Sen slope of the medians over the intervals' numbers; each user's values count as often as `times` says."""
    drawn = {at: np.repeat(values, times[users]) for at, (values, users) in parts.items()}
    medians = [(at, np.median(values)) for at, values in drawn.items() if len(values)]
    slopes = [(high - low) / (last - first) for (first, low), (last, high) in combinations(medians, 2)]
    return float(np.median(slopes)) if slopes else np.nan
