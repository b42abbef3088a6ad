"""Maps that keep what was together together, and neighbours held against a plain search."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import mean_absolute_error

from smp_ray.analysis.projection import AFTER, BEFORE, DIFFERENCE, Vectors, neighbour_quality, project


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module")
def labelled() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"row_id": np.arange(90) * 7, "popularity": rng.normal(6, 2, 90)})
    frame["fold"] = rng.integers(-1, 3, 90)
    frame["user_id"] = [f"u{user}" for user in rng.integers(0, 30, 90)]
    frame.loc[::15, "popularity"] = np.nan
    return frame


@pytest.fixture(scope="module")
def vectors(labelled: pd.DataFrame) -> Vectors:
    """`near` holds popularity, `raw` does not; ten titles are not embedded."""
    rng = np.random.default_rng(1)
    label = labelled["popularity"].fillna(6).to_numpy()
    near = np.stack([np.cos(label / 5), np.sin(label / 5), 0.02 * rng.normal(size=90), np.full(90, 0.2)], axis=1)
    raw = unit(rng.normal(size=(90, 8)))
    missing = raw.copy()
    missing[:10] = np.nan
    return {
        ("image", "raw"): raw, ("image", "near"): unit(near), ("title", "raw"): missing, ("title", "near"): unit(near),
    }  # fmt: skip


def test_a_map_of_two_clusters() -> None:
    rng = np.random.default_rng(2)
    tight, loose = rng.normal(size=(30, 16)) * 0.02, rng.normal(size=(30, 16)) * 0.3
    centres = np.zeros((2, 16))
    centres[0, 0] = centres[1, 1] = 3
    values = unit(np.concatenate([tight + centres[0], loose + centres[1]]))
    posts = pd.DataFrame({"row_id": np.arange(60) + 100, "popularity": [np.nan] * 5 + [7.0] * 55})
    found = project(posts, {("image", "raw"): values}, 500, 0)
    assert list(found.columns) == ["row_id", "modality", "space", "x", "y", "z", "density", "popularity"]
    pd.testing.assert_frame_equal(found[["row_id", "popularity"]], posts)
    first = found[["x", "y", "z"]].to_numpy()
    nearest = np.argsort(np.linalg.norm(first[:, None] - first, axis=2), axis=1)[:, 1:6]
    assert ((nearest < 30) == (np.arange(60) < 30)[:, None]).mean() > 0.95
    pd.testing.assert_frame_equal(found, project(posts, {("image", "raw"): values}, 500, 0))


def test_density_follows_the_tenth_neighbour(labelled: pd.DataFrame, vectors: Vectors) -> None:
    found = project(labelled, {("image", "raw"): vectors["image", "raw"]}, 60, 0)
    places = found[["x", "y", "z"]].to_numpy()
    tenth = np.sort(np.linalg.norm(places[:, None] - places, axis=2), axis=1)[:, 10]
    expected = np.log(tenth.max() / tenth) / np.log(tenth.max() / tenth.min())
    np.testing.assert_allclose(found["density"], expected, atol=1e-9)


def test_spaces_of_a_modality_show_the_same_posts(labelled: pd.DataFrame, vectors: Vectors) -> None:
    shown = project(labelled, vectors, 20, 3).groupby(["modality", "space"])["row_id"].agg(list)
    assert shown["image", "raw"] == shown["image", "near"] == sorted(shown["image", "raw"])
    assert shown["title", "raw"] == shown["title", "near"]
    assert not set(shown["title", "near"]) & set(labelled["row_id"][:10])
    assert len(shown["image", "raw"]) == len(shown["title", "raw"]) == 20
    assert len(set(shown["image", "raw"]) & set(shown["title", "raw"])) >= 10


def test_too_little_for_a_map(labelled: pd.DataFrame) -> None:
    ten = labelled.iloc[:10]
    columns = list(project(ten, {}, 50, 0).columns)
    assert columns[:3] == ["row_id", "modality", "space"]
    alike, absent = np.ones((10, 4), np.float16), np.full((10, 4), np.nan, np.float16)
    found = project(ten, {("image", "raw"): alike, ("title", "raw"): absent}, 50, 0)
    assert found.empty
    assert list(found.columns) == columns
    small = project(ten, {("image", "raw"): unit(np.eye(10) + 0.1)}, 50, 0)
    assert len(small) == 10
    assert np.isfinite(small[["x", "y", "z", "density"]]).all(axis=None)


@pytest.mark.parametrize("past_only", [False, True])
def test_neighbours_agree_with_a_plain_search(labelled: pd.DataFrame, vectors: Vectors, past_only: bool) -> None:
    found = neighbour_quality(labelled, vectors, 5, 50, past_only).set_index(["modality", "space"])
    assert len(found) == 4
    for (modality, space), row in found.iterrows():
        table = labelled.assign(vector=list(vectors[modality, space].astype(np.float64)))
        table = table[table["popularity"].notna() & ((modality == "image") | (table.index >= 10))]
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


def test_nothing_to_judge(labelled: pd.DataFrame, vectors: Vectors) -> None:
    few = neighbour_quality(labelled, vectors, 100, 20)
    assert few["mae"].notna().all()  # all there are, where there are fewer neighbours
    nothing = neighbour_quality(labelled.assign(popularity=np.nan), vectors, 5, 20)
    assert nothing["posts"].tolist() == [0] * 4
    assert nothing[["src", "mae", "mae_low"]].isna().all(axis=None)
    one = neighbour_quality(labelled.assign(user_id="me"), vectors, 5, 20)
    assert one["mae"].notna().all()
    assert one["mae_low"].isna().all()
    assert neighbour_quality(labelled, {}, 5, 20).empty


def test_after_and_before_are_compared_post_by_post(labelled: pd.DataFrame, vectors: Vectors) -> None:
    both = {("image", BEFORE): vectors["image", "raw"], ("image", AFTER): vectors["image", "near"]}
    found = neighbour_quality(labelled, both, 5, 200).set_index("space")
    assert found.index.tolist() == [BEFORE, AFTER, DIFFERENCE]
    paired = found.loc[DIFFERENCE]
    assert paired["mae"] == pytest.approx(found.loc[AFTER, "mae"] - found.loc[BEFORE, "mae"])
    assert paired["mae_high"] < 0 < paired["src_low"]  # planted: popularity lies in the one alone
