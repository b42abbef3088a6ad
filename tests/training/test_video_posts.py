"""The real video posts: ahead of the published bar, nothing to predict in shuffled labels, and a leak that shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from smp_ray.config import MatrixConfig, TuneConfig, build_config
from smp_ray.evaluation.bootstrap import Bootstrap
from smp_ray.evaluation.metrics import score
from smp_ray.training.boosting.cross_fit import cross_fit
from smp_ray.training.boosting.lightgbm import LightGBM
from smp_ray.training.matrix.columns import Columns
from smp_ray.training.matrix.encoder import Encoder
from smp_ray.training.matrix.matrix import FoldData
from smp_ray.training.splits import Splits, load_splits
from tests.training.runs import brought, run_with
from tests.training.worlds import aligned, gathered

#: Fixed settings in the middle of configs/smp-video.yaml's space: no sweep, so nothing is chosen on these folds.
SETTINGS: dict[str, Any] = {
    "objective": "huber", "alpha": 1.0, "learning_rate": 0.03, "num_leaves": 12, "min_data_in_leaf": 15,
    "feature_fraction": 0.3, "bagging_fraction": 0.7, "lambda_l2": 3.0, "extra_trees": True, "max_bin": 63,
}  # fmt: skip


@pytest.fixture(scope="module")
def posts(smp_video: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Columns, Splits]:
    folder = tmp_path_factory.mktemp("video")
    groups = ("metadata", "text")
    raw = {
        "workspace": str(folder), "source": {"kind": "smpd_video", "path": str(smp_video)},
        "training": {"matrix": {"families": list(groups)}},
    }  # fmt: skip
    run = run_with(build_config(raw), features={})
    taken, _, folds = brought(run, "ingest"), brought(run, "gather"), brought(run, "splits")
    return gathered(run.workspace, taken, {}, groups), load_splits(run.workspace, folds)


def fold_data(columns: Columns, splits: Splits) -> list[FoldData]:
    folds = []
    for fold in range(splits.count):
        popularity, users, training = aligned(columns.row_ids, splits, fold)
        matrix = Encoder(MatrixConfig(), 0).fit_transform(columns, training, popularity, users)
        folds.append(
            FoldData(fold, matrix.rows(training), popularity[training], matrix.rows(~training),
                     popularity[~training], np.flatnonzero(~training))
        )  # fmt: skip
    return folds


def predicted(folds: list[FoldData], posts: int, judged_by: Any = "mae", **changes: Any) -> np.ndarray:
    settings = {name: value for name, value in {**SETTINGS, **changes}.items() if value is not None}
    return cross_fit(LightGBM(), folds, settings, TuneConfig(objective=judged_by, max_rounds=1500)).out_of_fold(posts)


@pytest.mark.slow
def test_without_any_sweep_it_is_ahead_of_the_published_bar(posts: tuple[Columns, Splits]) -> None:
    """The published bar, with all 4,000 posts: SRC .736, MAE 1.464, MAPE .223, each by another opponent."""
    columns, splits = posts
    folds = fold_data(columns, splits)
    found = score(splits.popularity, predicted(folds, len(splits.row_ids)))
    assert found["src"] is not None
    assert found["mae"] is not None
    assert found["src"] > 0.736
    assert found["mae"] < 1.464
    weighted = score(
        splits.popularity, predicted(folds, len(splits.row_ids), "mape", objective=None, alpha=None, extra_trees=None)
    )
    assert weighted["mape"] is not None
    assert weighted["mape"] < 0.223


@pytest.mark.slow
def test_shuffled_labels_and_a_planted_user_mean(posts: tuple[Columns, Splits]) -> None:
    columns, splits = posts
    shuffled = replace(splits, popularity=np.random.default_rng(0).permutation(splits.popularity))
    none = Bootstrap(splits.users).estimate(
        shuffled.popularity, predicted(fold_data(columns, shuffled), len(splits.row_ids))
    )["src"]
    assert none.low is not None
    assert none.high is not None
    assert none.low < 0 < none.high
    mean = pd.Series(shuffled.popularity).groupby(splits.users).transform("mean").to_numpy()
    planted = replace(
        columns, numbers={**columns.numbers, "user_mean": mean}, families={**columns.families, "user_mean": "metadata"}
    )
    leaked = score(shuffled.popularity, predicted(fold_data(planted, shuffled), len(splits.row_ids)))["src"]
    assert leaked is not None
    assert leaked > 0.9
