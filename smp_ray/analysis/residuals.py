"""Where the predictions are wrong: by any grouping of the posts, as popularity, category or how much a user posts."""

import numpy as np
import pandas as pd

from smp_ray.analysis.resampling import group_means
from smp_ray.evaluation.metrics import src

NO_CATEGORY, OTHERS = "(none)", "others"
_USER_POSTS = {"1": 1, "2-4": 2, "5-9": 5, "10-49": 10, "50+": 50}


def errors_by(judged: pd.DataFrame, groups: pd.Categorical, resamples: int, few: int, seed: int = 0) -> pd.DataFrame:
    """Errors by group of posts, from popularity, prediction and user_id, the first two known of all.

    Returns:
        A row a group: group, posts, users, mae, mae_low, mae_high (95 % interval), bias (mean of prediction -
        popularity), src, few (whether it has fewer posts than `few`); NaN where undefined.
    """
    popularity, prediction = (judged[name].to_numpy(dtype=np.float64) for name in ("popularity", "prediction"))
    error = prediction - popularity
    found = group_means(np.abs(error), groups, judged["user_id"], resamples, seed)
    found = found.rename(columns={"mean": "mae", "low": "mae_low", "high": "mae_high"}).rename_axis("group")
    found["bias"] = pd.Series(error).groupby(groups, observed=False).mean()
    inside = [groups.codes == code for code in range(len(found))]
    found["src"] = np.array([src(popularity[own], prediction[own]) for own in inside], dtype=np.float64)
    found["few"] = found["posts"] < few
    return found.reset_index()


def by_category(categories: pd.Series, largest: int = 20) -> pd.Categorical:
    """The categories, those with the most posts first; all beyond the `largest` are "others".

    Posts without a category are the group "(none)"; no groups where no post has one.
    """
    if not categories.notna().any():
        return pd.Categorical([None] * len(categories), [])
    named = categories.astype(object).where(categories.notna(), NO_CATEGORY).astype(str)
    names = named.value_counts().sort_index().sort_values(ascending=False, kind="stable").index.tolist()
    shown = names if len(names) <= largest else list(dict.fromkeys([*names[:largest], OTHERS]))
    return pd.Categorical(named.where(~named.isin(names[largest:]), OTHERS), shown)


def by_user_posts(posts: pd.Series) -> pd.Categorical:
    """Groups of posts by how many posts their users have: 1, 2-4, 5-9, 10-49, 50+; none where that is missing."""
    counts = posts.to_numpy(dtype=np.float64, na_value=np.nan)
    return pd.cut(counts, [*_USER_POSTS.values(), np.inf], right=False, labels=list(_USER_POSTS))
