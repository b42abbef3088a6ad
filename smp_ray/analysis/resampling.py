"""Means and medians of groups of posts, with 95 % intervals from resampled users.

The resamples are those of `evaluation.bootstrap.Bootstrap`: metrics are the one thing that training and analysis share.
A number of one user's posts alone says nothing about other users, so a group of fewer than two users has no interval.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from smp_ray.evaluation.bootstrap import BOUNDS, Bootstrap


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


def group_means(values: Any, groups: pd.Categorical, users: Any, resamples: int, seed: int = 0) -> pd.DataFrame:
    """Mean of each group of posts with its interval.

    Args:
        values: finite numbers or booleans (posts,).
        groups: of each post; one without takes no part.
        users: of each post.
        resamples: of the users that have a post in any group.
        seed: of the draws.

    Returns:
        On the groups as index: posts, users, mean, low, high (95 % interval); NaN where there is no such number.
    """
    count, inside = len(groups.categories), groups.codes >= 0
    numbers, group = np.asarray(values, dtype=np.float64)[inside], groups.codes[inside].astype(np.int64)
    user = user_codes(np.asarray(users, dtype=object)[inside])
    # What a user brings to a group is summed once; a resample only weights these sums.
    shape, cell = (int(user.max(initial=-1)) + 1, count), user * count + group
    sums = np.bincount(cell, weights=numbers, minlength=shape[0] * count).reshape(shape)
    posts = np.bincount(cell, minlength=shape[0] * count).reshape(shape)
    drawn = [(times @ sums, times @ posts) for times in drawn_users(user, resamples, seed)]
    with np.errstate(invalid="ignore"):
        means = np.array([of_sums / of_posts for of_sums, of_posts in drawn]).reshape(len(drawn), count)
        mean = sums.sum(axis=0) / posts.sum(axis=0)
    members = (posts > 0).sum(axis=0)
    low, high = bounds(means, members)
    found = {"posts": posts.sum(axis=0), "users": members, "mean": mean, "low": low, "high": high}
    return pd.DataFrame(found, index=groups.categories)


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


def bounds(resampled: np.ndarray, users: np.ndarray) -> np.ndarray:
    """95 % percentile bounds of each column of (resamples, groups).

    Returns:
        float64 (2, groups); NaN for groups of fewer than two `users`, and where more than half of the resamples are
        NaN; otherwise these are left out.
    """
    found = np.full((2, resampled.shape[1]), np.nan)
    for group in np.flatnonzero(users >= 2):
        defined = resampled[~np.isnan(resampled[:, group]), group]
        if len(defined) and 2 * len(defined) >= len(resampled):
            found[:, group] = np.percentile(defined, BOUNDS)
    return found
