"""Every measure by popularity interval, its correlation with popularity and its trend (Figure 4 of the paper)."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from smp_ray.analysis.resampling import bounds, drawn_users, resampled_medians, user_codes
from smp_ray.evaluation.bootstrap import Bootstrap

OVERALL, WITHIN_USERS = "overall", "within users"


def interval_table(edges: Iterable[float]) -> pd.DataFrame:
    """The popularity intervals [low, high) between inner edges, rising: interval (in words), low, high; NaN: open."""
    bounded = [np.nan, *edges, np.nan]
    low, high = bounded[:-1], bounded[1:]
    inner = [f"{one:g} to {other:g}" for one, other in zip(low[1:-1], high[1:-1], strict=True)]
    return pd.DataFrame(
        {"interval": [f"below {high[0]:g}", *inner, f"{low[-1]:g} and above"], "low": low, "high": high}
    )


def popularity_intervals(popularity: Any, edges: Iterable[float]) -> pd.Categorical:
    """The interval of each post, in the words of `interval_table`; none for a post without a label."""
    inner = list(edges)
    values = np.asarray(popularity, dtype=np.float64)
    return pd.cut(values, [-np.inf, *inner, np.inf], right=False, labels=interval_table(inner)["interval"].tolist())


def measures_by_interval(
    posts: pd.DataFrame, measures: Iterable[str], intervals: pd.Categorical, edges: Iterable[float], few: int
) -> pd.DataFrame:
    """Quartiles and mean of each measure in each popularity interval.

    Args:
        posts: a column a measure, NaN where missing.
        measures: columns of `posts`.
        intervals: of the same posts.
        edges: of the intervals.
        few: intervals with fewer measured posts are marked.

    Returns:
        measure, interval, low, high (bounds of popularity), posts (that have the measure), q25, median, q75, mean (NaN
        without posts), few.
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

    Args:
        posts: popularity and the measures, NaN where missing.
        measures: columns of `posts`.
        users: of each post; a post without one is a user of its own.
        resamples: bootstrap resamples of users.
        seed: of the bootstrap.

    Returns:
        measure, scope ("overall" or "within users"), spearman, low, high (95 % interval), posts, users; NaN where
        undefined.
    """
    rows: list[dict[str, Any]] = []
    every = posts[["popularity"]].astype(np.float64).assign(user=user_codes(users))
    for measure in measures:
        known = every.assign(value=posts[measure].astype(np.float64)).dropna()
        bootstrap = Bootstrap(known["user"], resamples, seed)
        found = bootstrap.estimate(known["popularity"], known["value"])["src"]
        overall = {"spearman": found.value, "low": found.low, "high": found.high}
        several = known[known.duplicated("user", keep=False)]
        for scope, frame, one in (
            (OVERALL, known, overall), (WITHIN_USERS, several, _within(several, resamples, seed))
        ):  # fmt: skip
            rows.append(
                {"measure": measure, "scope": scope, **one, "posts": len(frame), "users": frame["user"].nunique()}
            )
    return pd.DataFrame(rows).astype({"spearman": np.float64, "low": np.float64, "high": np.float64})


def _within(posts: pd.DataFrame, resamples: int, seed: int) -> dict[str, float]:
    """Correlation of the ranks less the users' mean ranks, and its interval."""
    ranks, users = posts[["popularity", "value"]].rank(), user_codes(posts["user"])
    # Ranks are multiples of a half, so a user whose posts are all alike is left with exactly 0.
    rest = ranks - ranks.groupby(users).transform("mean")
    products = {
        "both": rest["popularity"] * rest["value"],
        "first": rest["popularity"] ** 2,
        "second": rest["value"] ** 2,
    }
    # The residuals of a user sum to 0, so the correlation over any draw of users follows from these sums of each.
    sums = pd.DataFrame(products).groupby(users).sum().to_numpy()
    drawn = [times @ sums for times in drawn_users(users, resamples, seed)]
    both, first, second = np.array([sums.sum(axis=0), *drawn]).T
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.clip(both / np.sqrt(first * second), -1, 1)
    low, high = bounds(found[1:, None], np.array([len(sums)]))[:, 0] * (1 if np.isfinite(found[0]) else np.nan)
    return {"spearman": found[0], "low": low, "high": high}


def trend(
    posts: pd.DataFrame, measures: Iterable[str], intervals: pd.Categorical, users: Any, resamples: int, few: int,
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
    rows = []
    every = pd.DataFrame({"interval": intervals.codes, "user": user_codes(users)})
    for measure in measures:
        known = every.assign(value=posts[measure].to_numpy(dtype=np.float64)).query("interval >= 0").dropna()
        kept = known[known.groupby("interval")["value"].transform("size") >= max(few, 1)]
        medians = kept.groupby("interval")["value"].median()
        place = np.searchsorted(medians.index, kept["interval"])
        user = user_codes(kept["user"])
        resampled = resampled_medians(kept["value"].to_numpy(), place, len(medians), user, resamples, seed)
        low, high = bounds(_slopes(resampled, medians.index)[:, None], np.array([kept["user"].nunique()]))[:, 0]
        rows.append((measure, _slopes(medians.to_numpy()[None], medians.index)[0], low, high))
    return pd.DataFrame(rows, columns=["measure", "slope", "low", "high"])


def _slopes(medians: np.ndarray, numbers: Any) -> np.ndarray:
    """Theil-Sen slope of each row of (resamples, intervals) over the intervals' numbers; NaN with fewer than two."""
    first, second = np.triu_indices(len(numbers), 1)
    steps = np.asarray(numbers, dtype=np.float64)
    slopes = pd.DataFrame((medians[:, second] - medians[:, first]) / (steps[second] - steps[first]))
    return slopes.median(axis=1).to_numpy()
