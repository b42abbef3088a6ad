"""Errors by group, held against pandas and scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from smp_ray.analysis.intervals import popularity_intervals
from smp_ray.analysis.residuals import by_category, by_user_posts, errors_by

COLUMNS = ["group", "posts", "users", "mae", "mae_low", "mae_high", "bias", "src", "few"]


def world(count: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({"user_id": [f"u{user}" for user in rng.integers(0, 60, count) ** 2 // 60]})
    frame["popularity"] = np.round(rng.normal(6, 2.5, count), 1)
    frame["prediction"] = 0.6 * frame["popularity"] + 2 + rng.normal(0, 1, count)
    frame["category"] = pd.Series([f"c{at}" for at in rng.integers(0, 30, count) ** 2 // 30], dtype=object)
    frame["user_posts"] = frame.groupby("user_id")["user_id"].transform("size")
    frame.loc[::17, "prediction"] = np.nan
    frame.loc[::23, "popularity"] = np.nan
    frame.loc[::29, "category"] = None
    return frame


def judged() -> pd.DataFrame:
    return world().dropna(subset=["prediction", "popularity"])


def by_interval(frame: pd.DataFrame, edges: tuple[float, ...], resamples: int, few: int) -> pd.DataFrame:
    return errors_by(frame, popularity_intervals(frame["popularity"], edges), resamples, few)


def check(row: pd.Series, part: pd.DataFrame) -> None:
    part = part.dropna(subset=["popularity", "prediction"])
    error = part["prediction"] - part["popularity"]
    assert (row["posts"], row["users"]) == (len(part), part["user_id"].nunique())
    assert row["mae"] == pytest.approx(error.abs().mean())
    assert row["bias"] == pytest.approx(error.mean())
    if len(part) > 1:
        assert row["src"] == pytest.approx(stats.spearmanr(part["popularity"], part["prediction"]).statistic)
    if part["user_id"].nunique() > 1:
        assert row["mae_low"] <= row["mae"] <= row["mae_high"]
    else:
        assert np.isnan(row["mae_low"])


def test_by_interval() -> None:
    frame = judged()
    found = by_interval(frame, (4.0, 8.0, 100.0), 100, few=20)
    assert list(found.columns) == COLUMNS
    assert found["group"].tolist() == ["below 4", "4 to 8", "8 to 100", "100 and above"]
    check(found.iloc[0], frame[frame["popularity"] < 4])
    check(found.iloc[1], frame[(frame["popularity"] >= 4) & (frame["popularity"] < 8)])
    check(found.iloc[2], frame[frame["popularity"] >= 8])
    assert found.loc[3, "posts"] == 0
    assert found.loc[3, ["mae", "mae_low", "bias", "src"]].isna().all()
    assert found["few"].tolist() == [False, False, False, True]


def test_interval_of_the_error_agrees_with_a_bootstrap_of_rows() -> None:
    frame = judged()
    found = by_interval(frame, (-100.0,), 500, few=1).iloc[1]
    parts = [(part["prediction"] - part["popularity"]).abs().to_numpy() for _, part in frame.groupby("user_id")]
    rng = np.random.default_rng(1)
    drawn = [np.concatenate([parts[at] for at in rng.integers(0, len(parts), len(parts))]).mean() for _ in range(500)]
    np.testing.assert_allclose([found["mae_low"], found["mae_high"]], np.percentile(drawn, [2.5, 97.5]), atol=0.03)


def test_by_category() -> None:
    frame = judged()
    found = errors_by(frame, by_category(frame["category"], largest=5), 100, few=10)
    counts = frame["category"].fillna("(none)").value_counts()
    assert found["posts"].tolist()[:5] == sorted(counts, reverse=True)[:5]
    assert found["group"].tolist()[5:] == ["others"]
    assert found["posts"].sum() == len(frame)
    named = frame["category"].fillna("(none)")
    for _, row in found.iloc[:5].iterrows():
        check(row, frame[named == row["group"]])
    check(found.iloc[5], frame[~named.isin(found["group"])])
    every = errors_by(frame, by_category(frame["category"], largest=99), 100, few=10)
    assert len(every) == len(counts)
    assert "others" not in set(every["group"])
    # A category may be called so.
    named_others = pd.Series([*map(str, range(24)), *["others"] * 5])
    assert by_category(named_others).value_counts()["others"] == 5 + 24 - 19


def test_by_user_posts() -> None:
    frame = judged()
    found = errors_by(frame, by_user_posts(frame["user_posts"]), 100, few=10)
    assert found["group"].tolist() == ["1", "2-4", "5-9", "10-49", "50+"]
    for at, (low, high) in enumerate([(1, 1), (2, 4), (5, 9), (10, 49)]):
        part = frame[frame["user_posts"].between(low, high)]
        check(found.iloc[at], part) if len(part) else None
    assert found.loc[4, "posts"] == 0
    unknown = errors_by(frame, by_user_posts(frame["user_posts"] * np.nan), 100, few=10)
    assert (unknown["posts"] == 0).all()


def test_nothing_to_judge() -> None:
    nothing = world().iloc[:0]
    for groups in (popularity_intervals(nothing["popularity"], (5.0,)), by_user_posts(nothing["user_posts"])):
        found = errors_by(nothing, groups, 10, few=1)
        assert list(found.columns) == COLUMNS
        assert (found["posts"] == 0).all()
        assert found["mae"].isna().all()
    uncategorised = judged().assign(category=None)
    assert list(errors_by(uncategorised, by_category(uncategorised["category"]), 10, few=1).columns) == COLUMNS
    assert errors_by(uncategorised, by_category(uncategorised["category"]), 10, few=1).empty


def test_ten_posts_without_users() -> None:
    frame = judged().iloc[:10].assign(user_id=None)
    found = errors_by(frame, popularity_intervals(frame["popularity"], (5.0,)), 50, few=30)
    assert found["users"].sum() == 10
    assert found["few"].all()
