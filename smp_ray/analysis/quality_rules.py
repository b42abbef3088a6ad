"""Which posts are of low quality, by rule and by popularity (Figure 2 of the paper).

Characters that cannot be seen (spaces, joiners, direction marks) and marks that belong to the letter or emoji before
them count neither as letters nor as symbols. Rules on what a title says look only at posts that have one.
"""

import re
from collections.abc import Iterable, Sequence
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
#: Rules that look at the image; all others look at the title.
IMAGE_RULES = {"no_image": NO_IMAGE, "bad_image": BAD_IMAGE}
_LETTER = r"\p{L}"
_UNSEEN = r"[\s\p{Z}\p{Cc}\p{Cf}\p{M}]"
_SYMBOL = r"[^\s\p{Z}\p{Cc}\p{Cf}\p{M}\p{L}\p{N}]"


def reasons(posts: pd.DataFrame, settings: CleaningConfig, image_statuses: Iterable[str] = ()) -> pd.DataFrame:
    """Why each post would be removed, from its title, user_id, posted_at and `image_statuses`.

    Returns:
        On the index of `posts` a boolean column a rule: empty_title, short_title, camera_file_name, no_letters,
        mostly_symbols, duplicate_title (the user gave the same title, whatever its case, at an earlier time or, at the
        same time, in an earlier row), no_image, bad_image. A rule that is off has no column, nor have those
        on images where there is no status to look at or no post has an image: then they tell no posts apart.
    """
    titles = posts["title"].astype(object).fillna("").str.strip()
    length = titles.str.len()
    symbols, unseen = _count(titles, _SYMBOL), _count(titles, _UNSEEN)
    present = length > 0
    camera = [any(re.search(pattern, title) for pattern in settings.camera_names) for title in titles]
    found = pd.DataFrame(
        {
            "empty_title": ~present,
            "short_title": present & (length < settings.min_characters),
            "camera_file_name": present & np.array(camera, dtype=bool),
            "no_letters": present & (_count(titles, _LETTER) == 0),
            "mostly_symbols": present & (symbols > settings.max_symbol_share * (length - unseen)),
        }
    )
    if settings.duplicates:
        keys = posts[["user_id", "posted_at"]].assign(title=titles.str.casefold())
        keys = keys[keys["user_id"].notna() & present].sort_values("posted_at", kind="stable")
        found["duplicate_title"] = keys.duplicated(["user_id", "title"]).reindex(posts.index, fill_value=False)
    statuses = posts[list(image_statuses)]
    imageless = (statuses == NO_IMAGE).all(axis=None)  # true of no statuses, too
    for rule, status in IMAGE_RULES.items():
        if not imageless and getattr(settings, rule):
            found[rule] = (statuses == status).any(axis=1)
    return found.astype(bool)


def _count(titles: pd.Series, pattern: str) -> np.ndarray:
    """How often Arrow's pattern, which knows Unicode's categories, is in each title."""
    counts = pc.count_substring_regex(pa.array(titles, pa.large_string()), pattern)
    return np.asarray(counts.to_numpy(zero_copy_only=False), dtype=np.int64)


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
    reasons: pd.DataFrame, intervals: pd.Categorical, edges: Sequence[float], users: Any, resamples: int, few: int,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """The share of the labelled posts that any of these rules removes by popularity interval.

    Returns:
        interval, low, high (bounds of popularity), posts, removed, share, share_low, share_high (95 % interval), few
        (whether it has fewer posts than `few`).
    """
    removed = reasons.any(axis=1).to_numpy()
    means = group_means(removed, intervals, users, resamples, seed).reset_index()
    frame = interval_table(edges).assign(posts=means["posts"])
    frame["removed"] = pd.Series(intervals[removed]).value_counts(sort=False).to_numpy()
    frame[["share", "share_low", "share_high"]] = means[["mean", "low", "high"]]
    return frame.assign(few=frame["posts"] < few)
