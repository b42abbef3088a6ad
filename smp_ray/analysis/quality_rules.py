"""Which posts are of low quality, by rule and by popularity (Figure 2 of the paper).

Characters that cannot be seen (spaces, joiners, direction marks) and marks that belong to the letter or emoji before
them count neither as letters nor as symbols. Rules on what a title says look only at posts that have one.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.analysis.intervals import interval_table
from smp_ray.analysis.resampling import group_means
from smp_ray.config import CleaningConfig
from smp_ray.schema import BAD_IMAGE, NO_IMAGE

#: The last row of `cleaning_rules`.
ANY_RULE = "any rule"
_UNSEEN = r"[\s\p{Z}\p{Cc}\p{Cf}\p{M}]"
_SYMBOL = r"[^\s\p{Z}\p{Cc}\p{Cf}\p{M}\p{L}\p{N}]"


def reasons(posts: pd.DataFrame, settings: CleaningConfig, image_statuses: Iterable[str] = ()) -> pd.DataFrame:
    """Why each post would be removed.

    Args:
        posts: columns title, user_id, posted_at and `image_statuses`.
        settings: the rules.
        image_statuses: columns that say what became of each post's image.

    Returns:
        On the index of `posts` a boolean column a rule: empty_title, short_title, camera_file_name, no_letters,
        mostly_symbols, duplicate_title (the user gave the same title, whatever its case, at an earlier time or, at the
        same time, in an earlier row), no_image, bad_image. A rule that is off, or has no image status to look at, has
        no column.
    """
    titles = [title.strip() if isinstance(title, str) else "" for title in posts["title"]]
    found = pd.DataFrame(_title_rules(titles, settings), index=posts.index)
    if settings.duplicates:
        folded = [title.casefold() for title in titles]
        keys = posts[["user_id", "posted_at"]].assign(title=pd.Series(folded, posts.index, dtype=object))
        keys = keys[keys["user_id"].notna() & (keys["title"] != "")].sort_values("posted_at", kind="stable")
        again = keys.duplicated(["user_id", "title"])
        found["duplicate_title"] = found.index.isin(again.index[again])
    statuses = posts[list(image_statuses)]
    for rule, status in (("no_image", NO_IMAGE), ("bad_image", BAD_IMAGE)):
        if statuses.columns.size and getattr(settings, rule):
            found[rule] = (statuses == status).any(axis=1)
    return found.astype(bool)


def _title_rules(stripped: list[str], settings: CleaningConfig) -> dict[str, np.ndarray]:
    """The rules on one title alone, bool (posts,) each."""
    titles = pa.array(stripped, pa.large_string())
    length = np.fromiter(map(len, stripped), np.int64, len(stripped))
    present = length > 0
    patterns = [re.compile(pattern) for pattern in settings.camera_names]
    camera = (any(pattern.search(title) for pattern in patterns) for title in stripped)
    seen = length - _count(titles, _UNSEEN)
    return {
        "empty_title": ~present,
        "short_title": present & (length < settings.min_characters),
        "camera_file_name": present & np.fromiter(camera, bool, len(stripped)),
        "no_letters": present & (_count(titles, r"\p{L}") == 0),
        "mostly_symbols": present & (_count(titles, _SYMBOL) > settings.max_symbol_share * seen),
    }


def _count(titles: pa.Array, pattern: str) -> np.ndarray:
    return np.asarray(pc.count_substring_regex(titles, pattern).to_numpy(zero_copy_only=False), dtype=np.int64)


def cleaning_rules(reasons: pd.DataFrame) -> pd.DataFrame:
    """How many posts each rule removes.

    Returns:
        rule, posts, share (of all posts; NaN without any), only (removed by this rule and no other), a row a rule, and
        a last row "any rule", where `only` are the posts that exactly one rule removes.
    """
    hits = reasons.assign(**{ANY_RULE: reasons.any(axis=1)})
    frame = pd.DataFrame({"posts": hits.sum(), "share": hits.mean(), "only": hits[reasons.sum(axis=1) == 1].sum()})
    return frame.rename_axis("rule").reset_index()


def cleaning_by_interval(
    reasons: pd.DataFrame, intervals: pd.Categorical, edges: Iterable[float], users: Any, resamples: int, few: int,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """The share that any rule removes by popularity interval.

    Args:
        reasons: of each post, as `reasons` gives them.
        intervals: of the same posts; unlabelled posts are in none.
        edges: of the intervals.
        users: of each post.
        resamples: bootstrap resamples of users.
        few: intervals with fewer posts are marked.
        seed: of the bootstrap.

    Returns:
        interval, low, high (bounds of popularity), posts, removed, share, share_low, share_high (95 % interval), few.
    """
    removed = reasons.any(axis=1).to_numpy()
    means = group_means(removed, intervals, users, resamples, seed).rename_axis("interval").reset_index()
    frame = interval_table(edges).assign(
        posts=means["posts"],
        removed=pd.Series(intervals[removed]).value_counts(sort=False).to_numpy(),
        share=means["mean"], share_low=means["low"], share_high=means["high"],
    )  # fmt: skip
    return frame.assign(few=frame["posts"] < few)
