"""Which posts are of low quality, by rule and by popularity (Figure 2 of the paper).

Characters that cannot be seen (spaces, joiners, direction marks) and marks that belong to the letter or emoji before
them count neither as letters nor as symbols. Rules on what a title says look only at posts that have one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.analysis.intervals import Intervals
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
    given = posts["title"].astype(object)
    codes, titles = pd.factorize(given.where(given.notna(), "").to_numpy())
    stripped = [str(title).strip() for title in titles]
    found = {rule: hit[codes] for rule, hit in _title_rules(stripped, settings).items()}
    if settings.duplicates:
        found["duplicate_title"] = _duplicates(posts, np.array([title.casefold() for title in stripped], object), codes)
    statuses = [posts[name].to_numpy() for name in image_statuses]
    for rule, status, wanted in (
        ("no_image", NO_IMAGE, settings.no_image),
        ("bad_image", BAD_IMAGE, settings.bad_image),
    ):
        if statuses and wanted:
            found[rule] = np.any([values == status for values in statuses], axis=0)
    return pd.DataFrame(found, index=posts.index, dtype=bool)


def _title_rules(stripped: list[str], settings: CleaningConfig) -> dict[str, np.ndarray]:
    """The rules on one title alone, bool (titles,) each."""
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


def _duplicates(posts: pd.DataFrame, folded: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Whether the post's user has given its title before, bool (posts,)."""
    keys = pd.DataFrame(
        {
            "user": pd.factorize(posts["user_id"].to_numpy())[0],
            "title": pd.factorize(folded)[0][codes],
            "posted_at": posts["posted_at"].array,
        }
    )
    keys = keys[(keys["user"] >= 0) & (folded[codes] != "")]
    before = keys.sort_values("posted_at", kind="stable", na_position="last").duplicated(["user", "title"])
    duplicate = np.zeros(len(posts), dtype=bool)
    duplicate[before.index[before]] = True
    return duplicate


def cleaning_rules(reasons: pd.DataFrame) -> pd.DataFrame:
    """How many posts each rule removes.

    Returns:
        rule, posts, share (of all posts; NaN without any), only (removed by this rule and no other), a row a rule, and
        a last row "any rule", where `only` are the posts that exactly one rule removes.
    """
    hits = reasons.to_numpy(dtype=bool)
    once = hits & (hits.sum(axis=1, keepdims=True) == 1)
    removed = [*hits.sum(axis=0), hits.any(axis=1).sum()]
    total = len(reasons)
    return pd.DataFrame(
        {
            "rule": [*reasons.columns, ANY_RULE],
            "posts": np.array(removed, dtype=np.int64),
            "share": [int(posts) / total if total else np.nan for posts in removed],
            "only": np.array([*once.sum(axis=0), once.sum()], dtype=np.int64),
        }
    )


def cleaning_by_interval(
    reasons: pd.DataFrame, intervals: Intervals, users: Any, resamples: int, few: int, seed: int = 0
) -> pd.DataFrame:
    """The share that any rule removes by popularity interval.

    Args:
        reasons: of each post, as `reasons` gives them.
        intervals: of the same posts; unlabelled posts are in none.
        users: of each post.
        resamples: bootstrap resamples of users.
        few: intervals with fewer posts are marked.
        seed: of the bootstrap.

    Returns:
        interval, low, high (bounds of popularity), posts, removed, share, share_low, share_high (95 % interval), few.
    """
    removed = np.asarray(reasons.to_numpy(dtype=bool).any(axis=1))
    means = group_means(removed, intervals.codes, len(intervals), users, resamples, seed)
    frame = intervals.frame()
    frame["posts"] = means.posts
    frame["removed"] = np.bincount(intervals.codes[removed & (intervals.codes >= 0)], minlength=len(intervals))
    frame["share"], frame["share_low"], frame["share_high"] = means.mean, means.low, means.high
    frame["few"] = means.posts < few
    return frame
