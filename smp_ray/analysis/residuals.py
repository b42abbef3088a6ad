"""Where the predictions are wrong: by popularity, by category and by how much is known of the user."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from smp_ray.analysis.intervals import popularity_intervals
from smp_ray.analysis.resampling import group_means
from smp_ray.evaluation.metrics import src

NO_CATEGORY, OTHERS = "(none)", "others"
#: Lowest number of posts of each group of users.
_USER_POSTS = (1, 2, 5, 10, 50)
_USER_POSTS_LABELS = ["1", "2-4", "5-9", "10-49", "50+"]


def error_by_interval(
    frame: pd.DataFrame, edges: Sequence[float], resamples: int, few: int, seed: int = 0
) -> pd.DataFrame:
    """Errors by popularity interval.

    Args:
        frame: popularity, prediction, user_id; posts without label or prediction are left out.
        edges: inner edges of the intervals, rising.
        resamples: bootstrap resamples of users.
        few: groups with fewer posts are marked.
        seed: of the bootstrap.

    Returns:
        group (the interval), posts, users, mae, mae_low, mae_high (95 % interval), bias (mean of prediction -
        popularity), src, few; a row an interval, NaN where undefined.
    """
    judged = _judged(frame)
    intervals = popularity_intervals(judged["popularity"].to_numpy(), edges)
    return _errors(judged, intervals.codes, intervals.labels, resamples, few, seed)


def error_by_category(frame: pd.DataFrame, resamples: int, few: int, seed: int = 0, largest: int = 20) -> pd.DataFrame:
    """Errors by category, the one with the most posts first.

    Args:
        frame: as for `error_by_interval`, and category.
        resamples: bootstrap resamples of users.
        few: groups with fewer posts are marked.
        seed: of the bootstrap.
        largest: categories with a row of their own; all smaller ones together are the last, "others".

    Returns:
        The columns of `error_by_interval`. Posts without a category are the group "(none)"; no rows where no post has
        one.
    """
    judged = _judged(frame)
    given = judged["category"].astype(object)
    if not given.notna().any():
        return _errors(judged.iloc[:0], np.empty(0, np.int64), [], resamples, few, seed)
    named = given.where(given.notna(), NO_CATEGORY).astype(str)
    counts = named.value_counts().rename_axis("name").reset_index(name="posts")
    names = counts.sort_values(["posts", "name"], ascending=[False, True])["name"].tolist()
    place = {name: min(at, largest) for at, name in enumerate(names)}
    labels = names if len(names) <= largest else [*names[:largest], OTHERS]
    return _errors(judged, named.map(place).to_numpy(dtype=np.int64), labels, resamples, few, seed)


def error_by_user_posts(frame: pd.DataFrame, resamples: int, few: int, seed: int = 0) -> pd.DataFrame:
    """Errors by the number of posts of the post's user: 1, 2-4, 5-9, 10-49, 50+.

    Args:
        frame: as for `error_by_interval`, and user_posts; posts where it is missing are in no group.
        resamples: bootstrap resamples of users.
        few: groups with fewer posts are marked.
        seed: of the bootstrap.

    Returns:
        The columns of `error_by_interval`, a row a group.
    """
    judged = _judged(frame)
    counts = judged["user_posts"].to_numpy(dtype=np.float64, na_value=np.nan)
    codes = np.searchsorted(_USER_POSTS, counts, side="right") - 1
    codes[np.isnan(counts)] = -1
    return _errors(judged, codes, _USER_POSTS_LABELS, resamples, few, seed)


def _judged(frame: pd.DataFrame) -> pd.DataFrame:
    finite = np.isfinite(frame[["popularity", "prediction"]].to_numpy(dtype=np.float64, na_value=np.nan))
    return frame[finite.all(axis=1)]


def _errors(
    judged: pd.DataFrame, codes: np.ndarray, labels: list[str], resamples: int, few: int, seed: int
) -> pd.DataFrame:
    popularity = judged["popularity"].to_numpy(dtype=np.float64)
    prediction = judged["prediction"].to_numpy(dtype=np.float64)
    error, count = prediction - popularity, len(labels)
    means = group_means(np.abs(error), codes, count, judged["user_id"], resamples, seed)
    inside = codes >= 0
    sums = np.bincount(codes[inside], weights=error[inside], minlength=count)
    with np.errstate(invalid="ignore"):
        bias = sums / means.posts
    ranked = [src(popularity[codes == code], prediction[codes == code]) for code in range(count)]
    return pd.DataFrame(
        {
            "group": pd.Series(labels, dtype=object), "posts": means.posts, "users": means.users, "mae": means.mean,
            "mae_low": means.low, "mae_high": means.high, "bias": bias, "src": np.array(ranked, dtype=np.float64),
            "few": means.posts < few,
        }
    )  # fmt: skip
