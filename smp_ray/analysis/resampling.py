"""Means of groups of posts on the resamples of `evaluation.bootstrap`."""

from typing import Any

import numpy as np
import pandas as pd

from smp_ray.evaluation.bootstrap import FEWEST_USERS, Bootstrap, bounds


def group_means(values: Any, groups: pd.Categorical, users: Any, resamples: int, seed: int = 0) -> pd.DataFrame:
    """Mean of each group of posts with its 95 % interval; a post without a group takes no part.

    Returns:
        On the groups as index: posts, users, mean, low, high; NaN where there is no such number. A group of few
        users has no interval, as that says nothing about other users.
    """
    inside = groups.codes >= 0
    bootstrap = Bootstrap(np.asarray(users, dtype=object)[inside], resamples, seed)
    # What a user brings to a group is summed once; a resample only weights these sums.
    sums, posts = np.zeros((2, bootstrap.users, len(groups.categories)))
    cells = bootstrap.user_of, groups.codes[inside]
    np.add.at(sums, cells, np.asarray(values, dtype=np.float64)[inside])
    np.add.at(posts, cells, 1)
    totals = [(sums.sum(axis=0), posts.sum(axis=0))]
    totals += [(times @ sums, times @ posts) for times in bootstrap.multiplicities()]
    with np.errstate(invalid="ignore"):
        means = np.array([of_sums / of_posts for of_sums, of_posts in totals])
    members = (posts > 0).sum(axis=0)
    low, high = np.where(members >= FEWEST_USERS, bounds(means[1:]), np.nan)
    found = {"posts": totals[0][1].astype(np.int64), "users": members, "mean": means[0], "low": low, "high": high}
    return pd.DataFrame(found, index=groups.categories)
