"""Resampled means, held against rows that are really repeated."""

from __future__ import annotations

import numpy as np
import pandas as pd

from smp_ray.analysis.resampling import group_means
from smp_ray.evaluation.bootstrap import Bootstrap


def repeated(users: np.ndarray, resamples: int, seed: int) -> list[np.ndarray]:
    """Row numbers of each resample, a post as often as its user was drawn."""
    draws = Bootstrap(users.tolist(), resamples, seed).multiplicities()
    return [np.repeat(np.arange(len(users)), drawn[users]) for drawn in draws]


def test_group_means_agree_with_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    users, _ = pd.factorize(rng.integers(0, 15, 80))
    frame = pd.DataFrame({"value": rng.normal(size=80), "group": rng.integers(0, 3, 80), "user": users})
    found = group_means(frame["value"], pd.Categorical(frame["group"], range(4)), users, 50, seed=5)
    means = [frame.iloc[rows].groupby("group")["value"].mean() for rows in repeated(users, 50, 5)]
    for group, part in frame.groupby("group"):
        row = found.loc[group]
        assert row["posts"] == len(part)
        assert row["users"] == part["user"].nunique()
        expected = [part["value"].mean(), *np.percentile([mean[group] for mean in means], [2.5, 97.5])]
        np.testing.assert_allclose(row[["mean", "low", "high"]].tolist(), expected)
    assert found.loc[3, "posts"] == 0
    assert found.loc[3, ["mean", "low", "high"]].isna().all()


def test_a_group_of_one_user_has_a_mean_and_no_interval() -> None:
    found = group_means([1.0, 3.0, 5.0, 9.0], pd.Categorical(["x", "x", "y", None]), ["a", "a", "b", "c"], 20)
    assert found["mean"].tolist() == [2.0, 5.0]
    assert found["low"].isna().all()
    alone = group_means([1.0, 3.0], pd.Categorical(["x", "x"]), ["a", "a"], 20)
    assert alone["mean"].tolist() == [2.0]
    assert alone["high"].isna().all()
