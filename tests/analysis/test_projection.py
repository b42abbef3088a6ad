"""Maps that keep what was together together, and neighbours held against a plain search."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import mean_absolute_error

from smp_ray.analysis.projection import Vectors, neighbour_quality, project


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module")
def labelled() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"popularity": rng.normal(6, 2, 90), "fold": rng.integers(-1, 3, 90)})
    frame["user"] = [f"u{user}" for user in rng.integers(0, 30, 90)]
    frame.loc[::15, "popularity"] = np.nan
    return frame.set_index(pd.Index(rng.permutation(90) * 7, name="row_id"))


@pytest.fixture(scope="module")
def vectors(labelled: pd.DataFrame) -> Vectors:
    """`near` holds popularity, `raw` does not; ten titles are not embedded, and rows stand in different orders."""
    rng = np.random.default_rng(1)
    ids = labelled.index.to_numpy()
    label = labelled["popularity"].fillna(6).to_numpy()
    near = np.stack([np.cos(label / 5), np.sin(label / 5), 0.02 * rng.normal(size=90), np.full(90, 0.2)], axis=1)
    raw = unit(rng.normal(size=(90, 8)))
    missing = raw.copy()
    missing[:10] = np.nan
    shuffled = rng.permutation(90)
    return {
        ("image", "raw"): (ids, raw),
        ("image", "near"): (ids[shuffled], unit(near)[shuffled]),
        ("title", "raw"): (ids, missing),
        ("title", "near"): (ids[shuffled], unit(near)[shuffled]),
    }


def test_a_map_of_two_clusters() -> None:
    rng = np.random.default_rng(2)
    tight, loose = rng.normal(size=(30, 16)) * 0.02, rng.normal(size=(30, 16)) * 0.3
    centres = np.zeros((2, 16))
    centres[0, 0] = centres[1, 1] = 3
    ids = np.arange(60) + 100
    values = unit(np.concatenate([tight + centres[0], loose + centres[1]]))
    popularity = pd.Series(ids * 0.1, index=ids).iloc[5:]
    found = project({("image", "raw"): (ids, values)}, popularity, 500, 0)
    assert list(found.columns) == ["row_id", "modality", "space", "x", "y", "z", "density", "popularity"]
    assert found["row_id"].tolist() == ids.tolist()
    first = found[["x", "y", "z"]].to_numpy()
    distances = np.linalg.norm(first[:, None] - first, axis=2)
    nearest = np.argsort(distances, axis=1)[:, 1:6]
    assert ((nearest < 30) == (np.arange(60) < 30)[:, None]).mean() > 0.95
    assert (found["density"].min(), found["density"].max()) == (0, 1)
    np.testing.assert_allclose(found["popularity"].iloc[5:], ids[5:] * 0.1)
    assert found["popularity"].iloc[:5].isna().all()
    again = project({("image", "raw"): (ids, values)}, popularity, 500, 0)
    pd.testing.assert_frame_equal(found, again)


def test_density_follows_the_tenth_neighbour(labelled: pd.DataFrame, vectors: Vectors) -> None:
    found = project({("image", "raw"): vectors["image", "raw"]}, labelled["popularity"], 60, 0)
    places = found[["x", "y", "z"]].to_numpy()
    tenth = np.sort(np.linalg.norm(places[:, None] - places, axis=2), axis=1)[:, 10]
    assert stats.spearmanr(found["density"], -tenth).statistic == pytest.approx(1)
    np.testing.assert_allclose(found["density"], np.log(tenth.max() / tenth) / np.log(tenth.max() / tenth.min()))


def test_spaces_of_a_modality_show_the_same_posts(labelled: pd.DataFrame, vectors: Vectors) -> None:
    found = project(vectors, labelled["popularity"], 20, 3)
    shown = found.groupby(["modality", "space"])["row_id"].agg(list)
    assert shown["image", "raw"] == shown["image", "near"]
    assert shown["title", "raw"] == shown["title", "near"]
    assert not set(shown["title", "near"]) & set(labelled.index[:10])
    assert len(shown["image", "raw"]) == len(shown["title", "raw"]) == 20
    assert len(set(shown["image", "raw"]) & set(shown["title", "raw"])) >= 10
    assert shown["image", "raw"] == sorted(shown["image", "raw"])
    other = project({("image", "raw"): vectors["image", "raw"]}, labelled["popularity"], 20, 4)
    assert other["row_id"].tolist() != shown["image", "raw"]


def test_too_little_for_a_map(labelled: pd.DataFrame) -> None:
    ids = np.arange(10)
    columns = list(project({}, labelled["popularity"], 50, 0).columns)
    assert columns[:3] == ["row_id", "modality", "space"]
    alike = np.ones((10, 4), np.float16)
    absent = np.full((10, 4), np.nan, np.float16)
    found = project({("image", "raw"): (ids, alike), ("title", "raw"): (ids, absent)}, labelled["popularity"], 50, 0)
    assert found.empty
    assert list(found.columns) == columns
    ten = project({("image", "raw"): (ids, unit(np.eye(10) + 0.1))}, pd.Series(dtype=float), 50, 0)
    assert len(ten) == 10
    assert np.isfinite(ten[["x", "y", "z", "density"]]).all(axis=None)
    assert ten["popularity"].isna().all()


@pytest.mark.parametrize("past_only", [False, True])
def test_neighbours_agree_with_a_plain_search(labelled: pd.DataFrame, vectors: Vectors, past_only: bool) -> None:
    columns = (labelled["popularity"], labelled["fold"], labelled["user"])
    found = neighbour_quality(vectors, *columns, 5, 50, past_only=past_only).set_index(["modality", "space"])
    assert len(found) == 4
    for (modality, space), row in found.iterrows():
        ids, values = vectors[modality, space]
        table = labelled.loc[ids].assign(vector=list(values.astype(np.float64)))
        table = table[table["popularity"].notna()]
        if modality == "title":
            table = table.drop(index=labelled.index[:10], errors="ignore")
        truth, predicted = [], []
        for _, post in table[table["fold"] >= 0].iterrows():
            others = table[table["fold"] < post["fold"] if past_only else table["fold"] != post["fold"]]
            cosine = [post["vector"] @ v / np.linalg.norm(v) for v in others["vector"]]
            truth.append(post["popularity"])
            predicted.append(others["popularity"].iloc[np.argsort(cosine)[-5:]].mean())
        assert (row["posts"], row["k"]) == (len(truth), 5)
        assert row["src"] == pytest.approx(stats.spearmanr(truth, predicted).statistic, abs=1e-3)
        assert row["mae"] == pytest.approx(mean_absolute_error(truth, predicted), abs=1e-3)
        assert row["src_low"] < row["src"] < row["src_high"]
        assert row["mae_low"] < row["mae"] < row["mae_high"]
    assert found.loc[("image", "near"), "src_low"] > found.loc[("image", "raw"), "src_high"]


def test_a_sample_of_the_posts_and_nothing_to_judge(labelled: pd.DataFrame, vectors: Vectors) -> None:
    columns = (labelled["popularity"], labelled["fold"], labelled["user"])
    few = neighbour_quality(vectors, *columns, 100, 20, posts=12)
    assert (few["posts"] <= 12).all()
    assert few["mae"].notna().all()
    nothing = neighbour_quality(vectors, columns[0] * np.nan, *columns[1:], 5, 20)
    assert nothing["posts"].tolist() == [0] * 4
    assert nothing[["src", "mae", "mae_low"]].isna().all(axis=None)
    one = neighbour_quality(vectors, columns[0], columns[1], pd.Series("me", index=labelled.index), 5, 20)
    assert one["mae"].notna().all()
    assert one["mae_low"].isna().all()
    assert neighbour_quality({}, *columns, 5, 20).empty
