"""Means and medians of groups of posts, with 95 % intervals from resampled users.

The resamples are those of `evaluation.bootstrap.Bootstrap`: metrics are the one thing that training and analysis share.
A number of one user's posts alone says nothing about other users, so a group of fewer than two users has no interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from smp_ray.evaluation.bootstrap import BOUNDS, Bootstrap


@dataclass(frozen=True)
class GroupMeans:
    """Means of a number in groups of posts; all arrays (groups,), NaN where there is no such number.

    Attributes:
        posts: int64, posts of the group.
        users: int64, users of these posts.
        mean: in the unit of the number.
        low: 2.5th percentile of the mean over the resamples of users.
        high: 97.5th percentile.
    """

    posts: np.ndarray
    users: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def user_codes(users: Any) -> np.ndarray:
    """A code a user in order of appearance, int64 (posts,); a post without a user is a user of its own."""
    codes, known = pd.factorize(np.asarray(users, dtype=object))
    alone = codes < 0
    codes[alone] = len(known) + np.arange(int(alone.sum()))
    return np.asarray(pd.factorize(codes)[0], dtype=np.int64)


def drawn_users(users: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each user is drawn, float64 (users,), one array a resample; none with fewer than two users.

    Args:
        users: of each post, as `user_codes` gives them.
        resamples: number of resamples.
        seed: of the draws.
    """
    if users.size and users.max() > 0:
        for multiplicity in Bootstrap(users.tolist(), resamples, seed).multiplicities():
            yield multiplicity.astype(np.float64)


def group_means(
    values: np.ndarray, groups: np.ndarray, count: int, users: Any, resamples: int, seed: int = 0
) -> GroupMeans:
    """Mean of each group of posts with its interval.

    Args:
        values: finite numbers or booleans (posts,).
        groups: int (posts,), 0 to `count` - 1; posts below 0 are in none.
        count: number of groups.
        users: of each post.
        resamples: of the users that have a post in any group.
        seed: of the draws.
    """
    inside = groups >= 0
    numbers, groups = np.asarray(values, dtype=np.float64)[inside], groups[inside].astype(np.int64)
    codes = user_codes(np.asarray(users, dtype=object)[inside])
    # What a user brings to a group is summed once; a resample only weights these sums.
    pairs, pair = np.unique(codes * count + groups, return_inverse=True)
    pair_user, pair_group = pairs // count, pairs % count
    sums, posts = np.bincount(pair, weights=numbers, minlength=len(pairs)), np.bincount(pair, minlength=len(pairs))
    group_users = np.bincount(pair_group, minlength=count)
    group_posts = np.bincount(groups, minlength=count)
    resampled = np.full((resamples, count), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(groups, weights=numbers, minlength=count) / group_posts
        for at, times in enumerate(drawn_users(codes, resamples, seed)):
            weights = times[pair_user]
            drawn = np.bincount(pair_group, weights=weights * posts, minlength=count)
            resampled[at] = np.bincount(pair_group, weights=weights * sums, minlength=count) / drawn
    low, high = bounds(resampled, group_users)
    return GroupMeans(group_posts, group_users, mean, low, high)


def resampled_medians(
    values: np.ndarray, groups: np.ndarray, count: int, users: np.ndarray, resamples: int, seed: int = 0
) -> np.ndarray:
    """Medians of the groups in each resample of users, float64 (resamples, groups); NaN where nothing was drawn.

    Args:
        values: finite numbers (posts,).
        groups: int (posts,), 0 to `count` - 1, every post in one.
        count: number of groups.
        users: of each post, as `user_codes` gives them.
        resamples: number of resamples.
        seed: of the draws.
    """
    order = np.lexsort((values, groups))
    values, ordered_users = values[order], users[order]
    ends = np.searchsorted(groups[order], np.arange(count), side="right")
    medians = np.full((resamples, count), np.nan)
    for at, times in enumerate(drawn_users(users, resamples, seed)):
        # Posts stand in order of their values, so a running count finds the middle ones without sorting anew.
        upto = np.cumsum(times[ordered_users])
        last = np.concatenate([[0.0], upto])[ends]
        first = np.concatenate([[0.0], last[:-1]])
        drawn = last - first
        found = drawn > 0
        below = np.searchsorted(upto, first + np.floor((drawn - 1) / 2), side="right")
        above = np.searchsorted(upto, first + np.floor(drawn / 2), side="right")
        medians[at, found] = (values[below[found]] + values[above[found]]) / 2
    return medians


def bounds(resampled: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bounds of each column of (resamples, groups).

    Returns:
        Two float64 (groups,); NaN for groups of fewer than two `users`, and where more than half of the resamples are
        NaN; otherwise these are left out.
    """
    low, high = np.full(resampled.shape[1], np.nan), np.full(resampled.shape[1], np.nan)
    for group in range(resampled.shape[1]):
        defined = resampled[~np.isnan(resampled[:, group]), group]
        if users[group] >= 2 and len(defined) and 2 * len(defined) >= len(resampled):
            low[group], high[group] = np.percentile(defined, BOUNDS)
    return low, high
