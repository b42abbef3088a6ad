"""Measures by interval, correlations and trends, held against pandas and scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from smp_ray.analysis.intervals import (
    correlations,
    interval_table,
    measures_by_interval,
    popularity_intervals,
    rounded_quantiles,
    trend,
)
from smp_ray.evaluation.bootstrap import Bootstrap

EDGES = (2.0, 4.0, 6.0, 8.0, 10.0)


def world(count: int = 300, seed: int = 0) -> pd.DataFrame:
    """Popularity by user; `up` follows it, `within` follows only what is not the user's."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, count // 5, count)
    level, own = rng.normal(6, 2, count)[user], rng.normal(0, 1, count)
    frame = pd.DataFrame({"user": user, "popularity": np.round(level + own, 1)})
    frame["up"] = np.round(frame["popularity"] + rng.normal(0, 2, count), 1)
    frame["within"] = own - 0.7 * level
    frame["nothing"] = np.nan
    frame.loc[rng.random(count) < 0.1, ["up", "within"]] = np.nan
    frame.loc[rng.random(count) < 0.1, "popularity"] = np.nan
    return frame


def test_intervals_are_closed_below_and_open_above() -> None:
    intervals = popularity_intervals([1.9, 2.0, 3.999, 4.5, np.nan, 99, -3], (2.0, 4.5))
    assert intervals.codes.tolist() == [0, 1, 1, 2, -1, 2, 0]
    assert intervals.categories.tolist() == ["below 2", "2 to 4.5", "4.5 and above"]
    assert popularity_intervals([1.0, 3.0], (2.0,)).categories.tolist() == ["below 2", "2 and above"]
    assert interval_table((2.0, 4.5))["low"].fillna(-1).tolist() == [-1, 2, 4.5]
    assert interval_table((2.0, 4.5))["high"].fillna(-1).tolist() == [2, 4.5, -1]


def test_measures_agree_with_pandas() -> None:
    frame = world()
    intervals = popularity_intervals(frame["popularity"], (*EDGES, 500.0))
    found = measures_by_interval(frame, ["up", "nothing"], intervals, (*EDGES, 500.0), few=20)
    binned = pd.cut(frame["popularity"], [-np.inf, *EDGES, 500, np.inf], right=False, labels=intervals.categories)
    grouped = frame.groupby(binned, observed=False)["up"]
    up = found[found["measure"] == "up"].set_index("interval")
    assert up["posts"].tolist() == grouped.count().tolist()
    assert up["few"].tolist() == (grouped.count() < 20).tolist()
    for name, share in {"q25": 0.25, "median": 0.5, "q75": 0.75}.items():
        np.testing.assert_allclose(up[name], grouped.quantile(share))
    np.testing.assert_allclose(up["mean"], grouped.mean())
    assert up.loc["500 and above", "posts"] == 0
    assert np.isnan(up.loc["500 and above", "median"])
    nothing = found[found["measure"] == "nothing"]
    assert len(nothing) == len(intervals.categories)
    assert (nothing["posts"] == 0).all()
    assert nothing["q75"].isna().all()


def test_overall_correlation_agrees_with_scipy() -> None:
    frame = world()
    found = correlations(frame, ["up"], frame["user"], 200).set_index("scope").loc["overall"]
    known = frame.dropna(subset=["popularity", "up"])
    assert found["spearman"] == pytest.approx(stats.spearmanr(known["popularity"], known["up"]).statistic)
    assert (found["posts"], found["users"]) == (len(known), known["user"].nunique())
    rng, drawn = np.random.default_rng(7), []
    rows = {user: part.index for user, part in known.groupby("user")}
    for _ in range(200):
        sample = known.loc[np.concatenate([rows[user] for user in rng.choice(list(rows), len(rows))])]
        drawn.append(sample["popularity"].corr(sample["up"], method="spearman"))
    np.testing.assert_allclose([found["low"], found["high"]], np.percentile(drawn, [2.5, 97.5]), atol=0.04)


def within(frame: pd.DataFrame, measure: str) -> tuple[float, pd.DataFrame]:
    known = frame.dropna(subset=["popularity", measure])
    known = known[known.groupby("user")["user"].transform("size") > 1]
    ranks = pd.DataFrame({"a": stats.rankdata(known["popularity"]), "b": stats.rankdata(known[measure])}, known.index)
    residual = ranks - ranks.groupby(known["user"]).transform("mean")
    return float(stats.pearsonr(residual["a"], residual["b"]).statistic), residual.assign(user=known["user"])


def test_within_users_agrees_with_residual_ranks() -> None:
    frame = world()
    table = correlations(frame, ["within"], frame["user"], 300).set_index("scope")
    found = table.loc["within users"]
    expected, residual = within(frame, "within")
    assert found["spearman"] == pytest.approx(expected)
    assert (found["posts"], found["users"]) == (len(residual), residual["user"].nunique())
    rng, drawn = np.random.default_rng(7), []
    parts = [part[["a", "b"]].to_numpy() for _, part in residual.groupby("user")]
    for _ in range(300):
        sample = np.concatenate([parts[user] for user in rng.integers(0, len(parts), len(parts))])
        drawn.append(np.corrcoef(sample.T)[0, 1])
    np.testing.assert_allclose([found["low"], found["high"]], np.percentile(drawn, [2.5, 97.5]), atol=0.04)
    # What the measure is made of: it rises within users and falls between them.
    assert found["low"] > 0.5
    assert table.loc["overall", "high"] < 0


def test_correlations_that_are_undefined_are_nan() -> None:
    frame = world(60)
    frame["constant"] = 3.0
    frame["of_user"] = frame["user"] * 0.1
    found = correlations(frame, ["nothing", "constant", "of_user"], frame["user"], 20)
    table = found.set_index(["measure", "scope"])
    for measure in ("nothing", "constant"):
        assert table.loc[measure][["spearman", "low", "high"]].isna().all(axis=None)
    assert table.loc["nothing", "posts"].tolist() == [0, 0]
    # A measure that never varies within a user says nothing there, and no rest of rounding may say otherwise.
    assert table.loc[("of_user", "within users"), ["spearman", "low", "high"]].isna().all()
    assert np.isfinite(table.loc[("of_user", "overall"), "spearman"])
    unlabelled = correlations(frame.assign(popularity=np.nan), ["up"], frame["user"], 20)
    assert unlabelled["spearman"].isna().all()
    empty = correlations(frame.iloc[:0], ["up"], frame["user"].iloc[:0], 20)
    assert empty["posts"].tolist() == [0, 0]


def test_one_user_has_correlations_and_no_intervals() -> None:
    frame = pd.DataFrame({"popularity": np.arange(10.0), "up": [0, 2, 1, 3, 4, 6, 5, 8, 7, 9.0]})
    found = correlations(frame, ["up"], ["one"] * 10, 20)
    assert found["spearman"].tolist() == pytest.approx([stats.spearmanr(frame["popularity"], frame["up"])[0]] * 2)
    assert found[["low", "high"]].isna().all(axis=None)
    alone = correlations(frame, ["up"], [None] * 10, 20)
    assert alone["posts"].tolist() == [10, 0]


def test_trend_agrees_with_theil_sen_on_medians() -> None:
    frame = world(400)
    intervals = popularity_intervals(frame["popularity"], EDGES)
    found = trend(frame, ["up", "within", "nothing"], intervals, frame["user"], 200, few=15).set_index("measure")
    known = frame[frame["popularity"].notna()]
    medians = known.groupby(np.digitize(known["popularity"], EDGES))["up"].agg(["median", "count"])
    medians = medians[medians["count"] >= 15]
    assert 2 < len(medians) < len(intervals.categories), "an interval with few posts is to be left out here"
    expected = stats.theilslopes(medians["median"], medians.index).slope
    assert found.loc["up", "slope"] == pytest.approx(expected)
    assert 0 < found.loc["up", "low"] < expected < found.loc["up", "high"]
    assert found.loc["within", "high"] < 0
    assert found.loc["nothing"].isna().all()


def test_interval_of_the_trend_agrees_with_repeated_rows() -> None:
    frame = world(200).dropna(subset=["popularity", "up"])
    intervals, (codes, _) = popularity_intervals(frame["popularity"], EDGES), pd.factorize(frame["user"])
    slopes = []
    for times in Bootstrap(codes, 30, 2).multiplicities():
        rows = np.repeat(np.arange(len(frame)), times[codes])
        medians = frame["up"].iloc[rows].groupby(intervals.codes[rows]).median()
        slopes.append(stats.theilslopes(medians, medians.index).slope)
    found = trend(frame, ["up"], intervals, frame["user"], 30, few=1, seed=2).iloc[0]
    np.testing.assert_allclose([found["low"], found["high"]], np.percentile(slopes, [2.5, 97.5]))


def test_trend_needs_two_intervals() -> None:
    frame = pd.DataFrame({"popularity": [1.0, 3, 3, 3], "up": [5.0, 1, 2, 3]})
    intervals = popularity_intervals(frame["popularity"], EDGES)
    assert trend(frame, ["up"], intervals, list("abcd"), 20, few=2)[["slope", "low", "high"]].isna().all(axis=None)
    assert trend(frame, ["up"], intervals, list("abcd"), 20, few=1)["slope"].tolist() == [-3.0]
    assert trend(frame.iloc[:0], ["up"], popularity_intervals([], EDGES), [], 20, few=1)["slope"].isna().all()
    assert list(trend(frame, [], intervals, list("abcd"), 20, few=1).columns) == ["measure", "slope", "low", "high"]


def test_edges_of_any_label_hold_about_as_many_posts_each() -> None:
    rates = np.random.default_rng(0).beta(2, 40, 700)
    edges = rounded_quantiles(np.append(rates, np.nan))
    counts = pd.Series(popularity_intervals(rates, edges)).value_counts()
    assert len(counts) == 7
    assert counts.between(60, 140).all()
    assert rounded_quantiles([0.0] * 99 + [5.0]) == (0.0,)
