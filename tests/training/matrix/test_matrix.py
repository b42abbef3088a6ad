"""The stored matrices; it also tests `training/matrix/post_columns.py` and `training/matrix/text.py`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.decomposition import PCA

from smp_ray.config import MatrixConfig, build_config, matrix_groups
from smp_ray.errors import ConfigError
from smp_ray.evaluation.metrics import src
from smp_ray.ray_session import RaySession
from smp_ray.training.examples import POSTS, example_pieces
from smp_ray.training.matrix.build import suspicious
from smp_ray.training.matrix.columns import Columns, columns_from
from smp_ray.training.matrix.encoder import Encoder
from smp_ray.training.matrix.matrix import Matrix, load_final, load_folds
from smp_ray.training.splits import load_splits
from tests.training.runs import brought, run_with
from tests.training.worlds import GROUPS, WIDTH, World, aligned, gathered, world_config


def loaded(world: World) -> Columns:
    posts, stored = world.commit()
    return gathered(world.workspace, posts, stored, GROUPS)


def encoded(columns: Columns, world: World, training: np.ndarray, **settings: object) -> Matrix:
    encoder = Encoder(MatrixConfig.model_validate(settings), 0)
    return encoder.fit_transform(columns, training, world.popularity, world.user_numbers)


def column(matrix: Matrix, name: str) -> np.ndarray:
    return matrix.values[:, matrix.names.index(name)]


def test_features_are_joined_by_id_and_missing_stays_missing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.nll[3] = np.nan
    world.image[5] = np.nan
    columns = loaded(world)
    assert np.allclose(columns.numbers["title_mean_nll"], world.nll, equal_nan=True, rtol=1e-6)
    assert np.allclose(columns.vectors["clip_image"].astype(float), world.image, atol=1e-3, equal_nan=True)
    matrix = encoded(columns, world, np.ones(len(columns), dtype=bool))
    assert np.isnan(column(matrix, "title_mean_nll")[3])
    assert np.isnan(column(matrix, "clip_image_pc00")[5])
    assert np.isfinite(column(matrix, "clip_title_pc00")).all()


def test_metadata_says_what_pandas_says(tmp_path: Path) -> None:
    world = World(tmp_path)
    columns = loaded(world)
    posted = pd.to_datetime(pd.Series(world.columns["posted_at"].to_pylist()), unit="us", utc=True)
    assert (columns.numbers["post_weekday"] == posted.dt.dayofweek).all()
    assert np.allclose(columns.numbers["post_hour"], posted.dt.hour + posted.dt.minute / 60)
    titles = pd.Series(world.columns["title"])
    assert (columns.numbers["title_characters"] == titles.str.len()).all()
    assert (columns.numbers["title_words"] == titles.str.replace(",", " ").str.split().str.len()).all()
    assert (columns.numbers["tag_count"] == [len(tags) for tags in world.columns["tags"]]).all()
    counts = np.asarray(world.extra["user_photo_count"])
    assert np.allclose(columns.numbers["log_user_photo_count"], np.log1p(counts))
    before = posted.rank().groupby(pd.Series(world.columns["user_id"])).rank() - 1
    assert (column(encoded(columns, world, np.arange(200) < 120), "user_posts_before") == before).all()


def test_dates_become_ages_vectors_are_reduced_and_the_uninformative_goes(tmp_path: Path) -> None:
    world = World(tmp_path)
    seconds = np.array(world.columns["posted_at"].to_pylist()) / 1e6
    vectors = np.random.default_rng(1).normal(size=(200, 5)).astype(np.float32)
    world.extra |= {
        "user_photo_firstdate": seconds - 86_400 * 10.0,
        "user_heart_count": world.extra["user_photo_count"],
        "user_friend_count": np.zeros(200),
        "user_path_alias": [f"alias{n}" for n in range(200)],
        "user_description": pa.array([*vectors[:-1].tolist(), None], pa.list_(pa.float32())),
    }
    matrix = encoded(loaded(world), world, np.ones(200, dtype=bool))
    # Ten days for everyone say nothing, nor does what is the same for all, or as another, or a name of one user.
    gone = {"user_friend_count", "user_heart_count", "days_since_user_photo_firstdate", "user_path_alias_posts"}
    assert not gone & set(matrix.names)
    assert {"user_photo_count", "user_description_pc00"} <= set(matrix.names)
    assert np.isnan(column(matrix, "user_description_pc00")[-1])


def test_any_year_and_any_number_of_a_source_is_taken(tmp_path: Path) -> None:
    world = World(tmp_path)
    moments = world.columns["posted_at"].to_pylist()
    first, last = (int(datetime(year, 1, 2, tzinfo=UTC).timestamp()) * 10**6 for year in (1, 9999))
    joined = pa.array(
        [moment - 5 * 86_400 * 10**6 for moment in (first, last, *moments[2:])], pa.timestamp("us", "UTC")
    )
    world.columns["posted_at"] = pa.array([first, last, *moments[2:]], pa.int64())
    world.extra |= {"user_large": pa.array([2**60 + n for n in range(200)]), "user_joined": joined}
    found = loaded(world).numbers
    assert found["post_month"][:2].tolist() == [1, 1]
    assert found["post_days_since_1970"][0] == pytest.approx(-719_161, abs=1)
    assert set(found["days_since_user_joined"]) == {5.0}
    assert found["user_large"][0] == 2.0**60


def test_what_has_date_within_a_word_is_no_date(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.extra |= {"user_updates_count": np.arange(200.0), "user_validated": np.arange(200) % 2 == 0}
    found = loaded(world).numbers
    assert (found["user_updates_count"] == np.arange(200)).all()
    assert set(found["user_validated"]) == {0.0, 1.0}


def test_nothing_fitted_looks_at_posts_outside_training(tmp_path: Path) -> None:
    """Other labels, texts and vectors of the held-out posts leave the training posts' columns as they are."""
    first, second = World(tmp_path / "a"), World(tmp_path / "b")
    training = first.user_numbers % 4 != 0
    rng = np.random.default_rng(9)
    for name in ("image", "title"):
        getattr(second, name)[~training] = rng.permutation(getattr(first, name)[~training])
    second.popularity[~training] = rng.permutation(first.popularity[~training])
    for place in np.flatnonzero(~training):
        second.columns["title"][place] = f"unheard of, words {place}"
        second.columns["category"][place] = "only here"
    one, other = (encoded(loaded(world), world, training) for world in (first, second))
    assert one.names == other.names
    varying = {"title_characters", "title_words", "title_letter_share", "title_digit_share", "title_symbols"}
    for name in set(one.names) - varying:
        assert np.array_equal(column(one, name)[training], column(other, name)[training], equal_nan=True), name
    assert np.isnan(column(other, "category")[~training]).all()


def test_pca_is_that_of_the_training_posts(tmp_path: Path) -> None:
    world = World(tmp_path)
    columns = loaded(world)
    training = np.arange(200) < 120
    matrix = encoded(columns, world, training, pca_dimensions=3)
    vectors = columns.vectors["clip_image"].astype(np.float32)
    expected = PCA(3, svd_solver="covariance_eigh").fit(vectors[training]).transform(vectors)
    found = np.stack([column(matrix, f"clip_image_pc0{place}") for place in range(3)], axis=1)
    assert np.allclose(found, expected, atol=1e-5)
    raw = encoded(columns, world, training, embeddings="raw")
    assert np.array_equal(column(raw, "clip_image_d03"), vectors[:, 3])
    assert sum(name.startswith("clip_image_d") for name in raw.names) == WIDTH


def test_the_text_prediction_is_cross_fitted(tmp_path: Path) -> None:
    """It learns from other users' words, and a post's own label does not reach its own number."""
    world = World(tmp_path, posts=400, users=80)
    world.popularity = 10 - world.nll + 0.01 * world.popularity
    columns = loaded(world)
    training = world.user_numbers % 5 != 0
    found = column(encoded(columns, world, training), "text_prediction")
    for part in (training, ~training):
        ranks = src(world.popularity[part], found[part])
        assert ranks is not None
        assert ranks > 0.6
    user = world.user_numbers[training][0]
    world.popularity = world.popularity.copy()
    world.popularity[world.user_numbers == user] += 100
    again = column(encoded(columns, world, training), "text_prediction")
    assert np.array_equal(found[world.user_numbers == user], again[world.user_numbers == user])
    assert not np.array_equal(found, again)


def test_stored_matrices(tmp_path: Path, session: RaySession) -> None:
    world = World(tmp_path, unlabelled=30)
    config = world_config(tmp_path, split={"folds": 3}, matrix={"families": GROUPS})
    posts, stored = world.commit()
    run = run_with(config, session, ingest=posts, features=stored)
    examples = brought(run, "gather")
    splits, matrix = load_splits(world.workspace, brought(run, "splits")), brought(run, "matrix")
    seen = np.zeros(len(splits.row_ids), dtype=int)
    for fold in range(3):
        (data,) = load_folds(world.workspace, matrix, splits, [fold])
        seen[data.validation_positions] += 1
        assert (data.validation_popularity == splits.popularity[splits.validation(fold)]).all()
        assert len(data.training.values) == splits.training(fold).sum()
        nll = column(data.validation, "title_mean_nll")
        assert np.allclose(nll, world.nll[:170][splits.validation(fold)], rtol=1e-6)
        popularity, users, trains = aligned(splits.row_ids, splits, fold)
        pieces = example_pieces(world.workspace, examples, (POSTS, *stored))
        columns = columns_from(pieces, list(stored), GROUPS)
        alone = Encoder(config.training.matrix, 0).fit_transform(columns, trains, popularity, users)
        assert np.array_equal(alone.values[trains], data.training.values, equal_nan=True)
        assert data.training.levels == alone.levels
    assert (seen == 1).all()
    final, row_ids = load_final(world.workspace, matrix)
    assert (row_ids == world.ids[:170]).all()
    assert final.only(("perplexity",)).names == ("title_perplexity", "title_mean_nll")  # 7 tokens for all: no column
    assert matrix.details["warnings"] == []


def test_a_column_that_holds_the_label_is_named(tmp_path: Path, session: RaySession) -> None:
    world = World(tmp_path, posts=120, users=2000)
    means = pd.Series(world.popularity).groupby(world.user_numbers).transform("mean")
    world.extra["user_mean_label"] = means.to_numpy()
    config = world_config(tmp_path, split={"folds": 3}, matrix={"families": ["metadata"]})
    posts, stored = world.commit()
    run = run_with(config, session, ingest=posts, features=stored)
    matrix = [brought(run, name) for name in ("gather", "splits", "matrix")][-1]
    assert [line.split()[0] for line in matrix.details["warnings"]] == ["user_mean_label"]


def test_an_honest_strong_column_is_not_suspected() -> None:
    rng = np.random.default_rng(0)
    labels = rng.normal(size=500)
    values = np.stack([labels + 0.5 * rng.normal(size=500), labels + 0.05 * rng.normal(size=500)], axis=1)
    matrix = Matrix(values.astype(np.float32), ("honest", "leak"), ("metadata", "metadata"), {})
    assert [line.split()[0] for line in suspicious(matrix, labels)] == ["leak"]


def test_a_family_without_its_features_is_an_error() -> None:
    config = world_config(Path("unused"), families=("perplexity",))
    assert matrix_groups(config) == ("metadata", "text", "perplexity")
    with pytest.raises(ConfigError, match=r"'similarity' needs clip in features\.families"):
        world_config(Path("unused"), families=("perplexity",), matrix={"families": ["metadata", "similarity"]})


def test_history_is_there_by_time_and_where_a_delay_is_known() -> None:
    for kind, delay, there in (("time", 3, True), ("time", 0, True), ("time", None, False), ("user", 3, False)):
        training = {"split": {"kind": kind}, "matrix": {"history_delay_days": delay}}
        config = build_config({"workspace": "x", "source": {"kind": "demo"}, "training": training})
        assert ("history" in matrix_groups(config)) == there
