"""Nothing of a judged post's label may reach what judges it: with shuffled labels there is nothing to predict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from smp_ray.config import MatrixConfig, SplitConfig, TuneConfig
from smp_ray.evaluation.bootstrap import Bootstrap, Estimate
from smp_ray.evaluation.metrics import src
from smp_ray.training.baselines import mean_prediction, user_mean_prediction
from smp_ray.training.boosting.cross_fit import cross_fit
from smp_ray.training.boosting.lightgbm import LightGBM
from smp_ray.training.matrix.build import aligned
from smp_ray.training.matrix.columns import Columns
from smp_ray.training.matrix.encoder import encode
from smp_ray.training.matrix.gather import load_columns
from smp_ray.training.matrix.matrix import FoldData
from smp_ray.training.splits import Splits, divide
from tests.training.test_splits import labelled
from tests.training.worlds import World

GROUPS = ("metadata", "text", "clip", "similarity", "perplexity")
FOLDS = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Columns, Splits]:
    """Columns of 600 posts and folds by user, with labels that belong to other posts."""
    made = World(tmp_path_factory.mktemp("leaks"), posts=600, users=300)
    posts, stored = made.commit()
    columns = load_columns(made.workspace, posts, stored, GROUPS)
    folds, _ = divide(labelled([f"user {number}" for number in made.user_numbers]), SplitConfig(folds=FOLDS))
    shuffled = np.random.default_rng(3).permutation(made.popularity)
    ids = np.array([f"post {number}" for number in made.ids], dtype=object)
    return columns, Splits("user", FOLDS, made.ids, ids, made.user_numbers, shuffled, folds)


def judged(columns: Columns, splits: Splits) -> Estimate:
    """SRC with its interval of LightGBM on the project's own matrix."""
    folds = []
    for fold in range(FOLDS):
        popularity, users, training = aligned(columns.row_ids, splits, fold)
        matrix = encode(columns, training, popularity, users, MatrixConfig(pca_dimensions=4, text_dimensions=4), 0)
        held = splits.validation(fold)
        folds.append(
            FoldData(fold, matrix.rows(training), splits.popularity[training], matrix.rows(held),
                     splits.popularity[held], np.flatnonzero(held))
        )  # fmt: skip
    grown = cross_fit(LightGBM(), folds, {"objective": "regression", "max_bin": 63}, TuneConfig(), 60)
    return Bootstrap(splits.users).estimate(splits.popularity, grown.out_of_fold(len(splits.row_ids)))["src"]


def test_shuffled_labels_cannot_be_predicted(world: tuple[Columns, Splits]) -> None:
    found = judged(*world)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high


def test_a_planted_mean_over_all_rows_is_caught(world: tuple[Columns, Splits]) -> None:
    """The same check with a column that a careless join makes: the user's mean label, the post's own included."""
    columns, splits = world
    mean = pd.Series(splits.popularity).groupby(splits.users).transform("mean").to_numpy()
    planted = replace(
        columns, numbers={**columns.numbers, "user_mean": mean}, families={**columns.families, "user_mean": "metadata"}
    )
    found = judged(planted, splits)
    assert found.low is not None
    assert found.low > 0.3


def test_mean_and_user_mean_look_at_training_folds_only() -> None:
    users = np.array([0, 0, 1, 1, 2, 2])
    popularity = np.array([1.0, 3.0, 5.0, 7.0, 100.0, 200.0])
    folds = np.array([0, 1, 0, 1, 0, 0])
    splits = Splits("random", 2, np.arange(6), np.arange(6).astype(object), users, popularity, folds)
    first, second = popularity[folds == 1].mean(), popularity[folds == 0].mean()
    assert mean_prediction(splits).tolist() == [first, second, first, second, first, first]
    # User 2 has no training post when fold 0 is judged, so there it is the mean of all.
    assert user_mean_prediction(splits).tolist() == [3, 1, 7, 5, first, first]


def test_under_user_disjoint_folds_user_mean_knows_no_more_than_mean(world: tuple[Columns, Splits]) -> None:
    _, splits = world
    assert np.array_equal(mean_prediction(splits), user_mean_prediction(splits))


def test_the_first_block_in_time_has_no_prediction() -> None:
    folds = np.array([-1, -1, 0, 0, 1, 1])
    labels = np.arange(6.0)
    splits = Splits("time", 2, np.arange(6), np.arange(6).astype(object), np.zeros(6, dtype=int), labels, folds)
    found = mean_prediction(splits)
    assert np.isnan(found[:2]).all()
    assert found[2:].tolist() == [0.5, 0.5, 1.5, 1.5]
    assert src(labels[2:], found[2:]) is not None
