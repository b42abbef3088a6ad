"""Nothing of a judged post's label may reach what judges it: with shuffled labels there is nothing to predict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from smp_ray.config import MatrixConfig, SplitConfig, TuneConfig, build_config
from smp_ray.demo.world import write_world
from smp_ray.evaluation.bootstrap import Bootstrap, Estimate
from smp_ray.evaluation.metrics import src
from smp_ray.pipeline import open_run, run_stages
from smp_ray.ray_session import RaySession
from smp_ray.training.baselines import mean_prediction, user_mean_prediction
from smp_ray.training.boosting.cross_fit import cross_fit
from smp_ray.training.boosting.lightgbm import LightGBM
from smp_ray.training.matrix.columns import Columns
from smp_ray.training.matrix.encoder import Encoder
from smp_ray.training.matrix.matrix import FoldData, load_folds
from smp_ray.training.splits import Splits, divide, load_splits
from tests.training.runs import brought
from tests.training.test_splits import labelled
from tests.training.worlds import GROUPS, World, aligned, gathered

FOLDS = 4
#: Of the whole chain, small.
SETTINGS: dict[str, Any] = {
    "split": {"folds": FOLDS},
    "adapter": {"max_epochs": 40, "batch_size": 64, "learning_rate": 0.01},
    "matrix": {"pca_dimensions": 4, "text_dimensions": 4},
    "tune": {"trials": 4, "max_rounds": 60, "early_stopping_rounds": 20, "models": 1},
    "baselines": ["mean"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Columns, Splits]:
    """Columns of 600 posts and folds by user, with labels that belong to other posts."""
    made = World(tmp_path_factory.mktemp("leaks"), posts=600, users=300)
    posts, stored = made.commit()
    columns = gathered(made.workspace, posts, stored, GROUPS)
    folds, _ = divide(labelled([f"user {number}" for number in made.user_numbers]), SplitConfig(folds=FOLDS))
    shuffled = np.random.default_rng(3).permutation(made.popularity)
    ids = np.array([f"post {number}" for number in made.ids], dtype=object)
    return columns, Splits("user", FOLDS, made.ids, ids, made.user_numbers, shuffled, folds)


def judged(columns: Columns, splits: Splits) -> Estimate:
    """SRC with its interval of LightGBM on the project's own matrix."""
    folds = []
    for fold in range(FOLDS):
        popularity, users, training = aligned(columns.row_ids, splits, fold)
        encoder = Encoder(MatrixConfig(pca_dimensions=4, text_dimensions=4), 0)
        matrix = encoder.fit_transform(columns, training, popularity, users)
        held = splits.validation(fold)
        folds.append(
            FoldData(fold, matrix.rows(training), splits.popularity[training], matrix.rows(held),
                     splits.popularity[held], np.flatnonzero(held))
        )  # fmt: skip
    grown = cross_fit(LightGBM(), folds, {"objective": "regression", "max_bin": 63}, TuneConfig(), 60)
    return Bootstrap(splits.users).estimate(splits.popularity, grown.out_of_fold(len(splits.row_ids)))["src"]


def test_shuffled_labels_cannot_be_predicted(world: tuple[Columns, Splits]) -> None:
    found = judged(*world)
    low, high = interval(found.low, found.high)
    assert low < 0 < high


def interval(low: float | None, high: float | None) -> tuple[float, float]:
    assert low is not None
    assert high is not None
    return low, high


@pytest.mark.slow
def test_shuffled_labels_cannot_be_predicted_by_the_whole_chain(tmp_path: Path, session: RaySession) -> None:
    """From raw files to metrics.json, adapters included; the same chain does predict the labels as they were."""
    raw = tmp_path / "raw"
    write_world(raw, posts=500, seed=5, test_share=0)
    (labels,) = raw.rglob("train_label.txt")
    source = {"kind": "smpd_image", "path": str(raw), "splits": ["train"]}
    config = build_config({"workspace": str(tmp_path / "run"), "source": source, "training": SETTINGS})

    def chain() -> tuple[tuple[float, float], tuple[float, float]]:
        """Intervals of the SRC of the tuned model and of the adapters alone."""
        run = open_run(config, session)
        run_stages(run, ("tune", "evaluate"))
        tuned = run.workspace.read_json("metrics.json")["variants"]["tuned"]["pooled"]["src"]
        splits, matrix = load_splits(run.workspace, brought(run, "splits")), brought(run, "matrix")
        adapted, label, user = [], [], []
        for data in load_folds(run.workspace, matrix, splits):
            adapted.append(data.validation.values[:, data.validation.names.index("adapted_prediction")])
            label.append(data.validation_popularity)
            user.append(splits.users[data.validation_positions])
        alone = Bootstrap(np.concatenate(user)).estimate(np.concatenate(label), np.concatenate(adapted))["src"]
        return interval(tuned["low"], tuned["high"]), interval(alone.low, alone.high)

    found = chain()
    assert all(low > 0 for low, _ in found), found
    lines = labels.read_text().splitlines()
    labels.write_text("".join(f"{line}\n" for line in np.random.default_rng(0).permutation(lines)))
    found = chain()
    assert all(low < 0 < high for low, high in found), found


def test_a_planted_mean_over_all_rows_is_caught(world: tuple[Columns, Splits]) -> None:
    """The same check with a column that a careless join makes: the user's mean label, the post's own included."""
    columns, splits = world
    mean = pd.Series(splits.popularity).groupby(splits.users).transform("mean").to_numpy()
    planted = replace(
        columns, numbers={**columns.numbers, "user_mean": mean}, families={**columns.families, "user_mean": "metadata"}
    )
    found = judged(planted, splits)
    assert interval(found.low, found.high)[0] > 0.3


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
