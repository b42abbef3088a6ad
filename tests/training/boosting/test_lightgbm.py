"""LightGBM's parameters: what is always set, what cannot be searched, and its own settings as a point."""

from __future__ import annotations

import numpy as np
import pytest

from smp_ray.config import Choice, FloatRange, IntRange, SearchRange, TuneConfig
from smp_ray.errors import ConfigError
from smp_ray.training.boosting.cross_fit import fit
from smp_ray.training.boosting.lightgbm import LightGBM
from tests.training.fold_data import POSTS, small_matrix

LIGHTGBM = LightGBM()


def test_the_objective_picks_the_loss() -> None:
    assert LIGHTGBM.complete({}, "mape", 0, 1)["objective"] == "mape"
    assert LIGHTGBM.complete({}, "mae", 0, 1)["objective"] == "regression_l1"
    assert LIGHTGBM.complete({"objective": "huber"}, "mape", 0, 1)["objective"] == "huber"
    assert "objective" not in LIGHTGBM.complete({"application": "huber"}, "mape", 0, 1)


def test_bagging_is_switched_on_with_its_fraction() -> None:
    assert LIGHTGBM.complete({"bagging_fraction": 0.5}, "mae", 0, 1)["bagging_freq"] == 1
    assert LIGHTGBM.complete({"bagging_fraction": 0.5, "bagging_freq": 3}, "mae", 0, 1)["bagging_freq"] == 3
    for kind in ("boosting", "boosting_type", "data_sample_strategy"):
        assert "bagging_freq" not in LIGHTGBM.complete({"bagging_fraction": 0.5, kind: "goss"}, "mae", 0, 1)
    # Whatever it is called; where nothing is drawn, the frequency does nothing.
    matrix, popularity = small_matrix()
    texts = {}
    for name in ("bagging_fraction", "subsample", ""):
        params = {name: 0.5} if name else {}
        booster = fit(LIGHTGBM, matrix, popularity, LIGHTGBM.complete(params, "mae", 0, 1), 5)
        texts[name] = LIGHTGBM.load(booster.text()).predict(matrix).tolist()
    assert texts["bagging_fraction"] == texts["subsample"] != texts[""]
    plain = {**LIGHTGBM.complete({}, "mae", 0, 1), "bagging_freq": 0}
    assert LIGHTGBM.load(fit(LIGHTGBM, matrix, popularity, plain, 5).text()).predict(matrix).tolist() == texts[""]


def test_slow_learners_have_farther_to_go() -> None:
    assert [LIGHTGBM.pace({"learning_rate": rate}) for rate in (0.05, 0.1, 0.2)] == [0.5, 1.0, 1.0]
    assert LIGHTGBM.pace({}) == 1.0
    assert LIGHTGBM.pace({"eta": 0.05}) == 0.5


def test_the_default_point_lies_in_the_space() -> None:
    space: dict[str, SearchRange] = {
        "learning_rate": FloatRange(type="float", low=0.01, high=0.05, log=True),
        "num_leaves": IntRange(type="int", low=8, high=256, log=True),
        "lambda_l2": FloatRange(type="float", low=1e-3, high=1, log=True),
        "boosting": Choice(type="choice", values=("dart", "gbdt")),
        "tree_learner": Choice(type="choice", values=("serial", "feature")),
        "refit_decay_rate": FloatRange(type="float", low=0.3, high=0.5),
    }
    assert {name: range_.nearest(LIGHTGBM.defaults.get(name)) for name, range_ in space.items()} == {
        "learning_rate": 0.05, "num_leaves": 31, "lambda_l2": 1e-3, "boosting": "gbdt", "tree_learner": "serial",
        "refit_decay_rate": 0.3,
    }  # fmt: skip


def test_what_shapes_the_bins_is_not_searched() -> None:
    LIGHTGBM.check(TuneConfig().space, {"linear_tree": False})
    with pytest.raises(ConfigError, match=r"training\.tune\.space: max_bin"):
        LIGHTGBM.check({"max_bin": IntRange(type="int", low=15, high=255)}, {})
    with pytest.raises(ConfigError, match=r"training\.tune: linear_tree: linear trees give no reasons"):
        LIGHTGBM.check({}, {"linear_tree": True})


def test_a_rare_column_is_kept_for_small_leaves() -> None:
    # LightGBM drops, when it bins, what no leaf of min_data_in_leaf (by default 20) posts can split.
    matrix, popularity = small_matrix()
    rare = np.arange(POSTS) % 40 == 0
    matrix.values[:, 0] = rare
    params = LIGHTGBM.complete({"min_data_in_leaf": 2, "objective": "regression"}, "mae", 0, 1)
    text = fit(LIGHTGBM, matrix, popularity + 50 * rare, params, 3).text()
    assert "column_0=" in text.split("feature_importances:")[1]
