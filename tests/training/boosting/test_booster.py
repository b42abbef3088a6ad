"""Lockstep training of all folds against LightGBM's own cross-validation and single models."""

from __future__ import annotations

from typing import Any

import lightgbm as lgb
import numpy as np
import pytest

from smp_ray.config import Choice, FloatRange, IntRange, TuneConfig
from smp_ray.errors import ConfigError, DataError, SmpRayError
from smp_ray.training.boosting.booster import BinnedFold, Lockstep, bin_fold, bin_matrix, fit, out_of_fold
from smp_ray.training.boosting.lightgbm_params import check_space, complete_params, dataset_params, default_point
from tests.training.fold_data import POSTS, small_folds, small_matrix, small_splits

# With the absolute error all gradients are alike, and goss has nothing to choose from.
GOSS: dict[str, Any] = {"boosting": "goss", "bagging_fraction": 0.5, "learning_rate": 0.5, "objective": "regression"}
BAGGED: dict[str, Any] = {"learning_rate": 0.2, "num_leaves": 7, "bagging_fraction": 0.7, "feature_fraction": 0.6}
DART: dict[str, Any] = {"boosting": "dart", "learning_rate": 0.3, "drop_rate": 0.5, "skip_drop": 0.0, "num_leaves": 7}


def binned(params: dict[str, Any]) -> list[BinnedFold]:
    return [bin_fold(fold, dataset_params(params)) for fold in small_folds()]


def run(
    folds: list[BinnedFold], params: dict[str, Any], rounds: int, patience: int | None
) -> tuple[Lockstep, list[float]]:
    lockstep = Lockstep(folds, params, "mae")
    return lockstep, list(lockstep.run(rounds, patience))


def single_model(fold: int, params: dict[str, Any], rounds: int) -> lgb.Booster:
    """LightGBM's own training of one fold's model, on a Dataset of its own."""
    data = small_folds()[fold]
    return lgb.train(params, bin_matrix(data.training, data.training_popularity, dataset_params(params)), rounds)


@pytest.mark.parametrize("patience", [None, 5])
def test_lockstep_is_lightgbms_own_cross_validation(patience: int | None) -> None:
    params = complete_params(BAGGED, "mae", seed=3, threads=1)
    matrix, popularity = small_matrix()
    splits = small_splits()
    full = bin_matrix(matrix, popularity, dataset_params(params))
    parts = [(np.flatnonzero(splits.training(fold)), np.flatnonzero(splits.validation(fold))) for fold in range(3)]
    callbacks = [lgb.early_stopping(patience, verbose=False)] if patience else []
    expected = lgb.cv({**params, "metric": "l1"}, full, 80, folds=parts, callbacks=callbacks, eval_train_metric=False)[
        "valid l1-mean"
    ]
    # The same Datasets as cv makes: parts of one that was binned on all posts.
    folds = [
        BinnedFold(
            fold, full.subset(sorted(training)).construct(), full.subset(sorted(validation)).construct(),
            popularity[validation], validation,
        )
        for fold, (training, validation) in enumerate(parts)
    ]  # fmt: skip
    lockstep, means = run(folds, params, 80, patience)
    assert lockstep.best_round == len(expected)
    np.testing.assert_allclose(means[: len(expected)], expected, rtol=0, atol=1e-10)
    if patience:
        assert len(means) == len(expected) + patience < 80
        assert lockstep.best == min(means)


@pytest.mark.parametrize("given", [BAGGED, DART])
def test_predictions_are_those_of_the_best_round(given: dict[str, Any]) -> None:
    params = complete_params(given, "mae", seed=1, threads=1)
    lockstep, _ = run(binned(params), params, 150, 8)
    assert 0 < lockstep.best_round < lockstep.rounds  # later rounds were grown, and changed dart's earlier trees
    prediction = lockstep.out_of_fold(POSTS)
    for fold, data in enumerate(small_folds()):
        model = single_model(fold, params, lockstep.best_round)
        expected = model.predict(data.validation.values)
        np.testing.assert_allclose(prediction[data.validation_positions], expected, rtol=0, atol=1e-12)
    assert np.isnan(prediction[:40]).all()
    assert np.isfinite(prediction[40:]).all()


def test_a_dart_model_cut_short_is_another_model() -> None:
    # Why Lockstep copies predictions: if this did not hold, the test above would say nothing of dart.
    params = complete_params(DART, "mae", seed=1, threads=1)
    values = small_folds()[0].validation.values
    cut = single_model(0, params, 30).predict(values, num_iteration=15)
    assert np.abs(np.asarray(cut) - np.asarray(single_model(0, params, 15).predict(values))).max() > 0.01


def test_mape_is_exact_and_picks_its_loss() -> None:
    folds = small_folds()
    assert complete_params({}, "mape", 0, 1)["objective"] == "mape"
    assert complete_params({}, "mae", 0, 1)["objective"] == "regression_l1"
    assert complete_params({"objective": "huber"}, "mape", 0, 1)["objective"] == "huber"
    assert "objective" not in complete_params({"application": "huber"}, "mape", 0, 1)
    result = out_of_fold(folds, {}, objective="mape", max_rounds=30, early_stopping_rounds=5, posts=POSTS)
    shares = [
        np.mean(np.abs(fold.validation_popularity - result.prediction[fold.validation_positions])
                / fold.validation_popularity)
        for fold in folds
    ]  # fmt: skip
    assert result.objective == pytest.approx(np.mean(shares), abs=1e-12)
    assert [fold["mape"] for fold in result.folds] == pytest.approx(shares, abs=1e-12)
    other = out_of_fold(folds, {}, objective="mae", max_rounds=30, early_stopping_rounds=5, posts=POSTS)
    assert np.nanmax(np.abs(other.prediction - result.prediction)) > 0.01


def test_mape_with_a_label_of_zero_is_refused() -> None:
    folds = small_folds()
    folds[1].validation_popularity[3] = 0
    with pytest.raises(DataError, match=r"mape.*fold 1 has 1 such post;"):
        out_of_fold(folds, {}, objective="mape", max_rounds=3, early_stopping_rounds=5, posts=POSTS)


@pytest.mark.parametrize("given", [BAGGED, DART, GOSS])
def test_the_same_seed_gives_the_same_predictions(given: dict[str, Any]) -> None:
    def predicted(**more: Any) -> np.ndarray:
        settings: dict[str, Any] = {"objective": "mae", "max_rounds": 20, "early_stopping_rounds": 5, "posts": POSTS}
        return out_of_fold(small_folds(), given, **settings, **more).prediction

    first = predicted(seed=5)
    np.testing.assert_array_equal(predicted(seed=5), first)
    np.testing.assert_array_equal(predicted(seed=5, threads=2), first)
    assert not np.array_equal(predicted(seed=6), first, equal_nan=True)


def test_without_early_stopping_the_last_round_counts() -> None:
    given = {**BAGGED, "learning_rate": 1.0}
    params = complete_params(given, "mae", 0, 1)
    folds = binned(params)
    lockstep, means = run(folds, params, 60, None)
    assert (lockstep.best_round, lockstep.best) == (60, means[-1])
    assert lockstep.best > min(means)
    result = out_of_fold(small_folds(), given, objective="mae", max_rounds=60, early_stopping_rounds=None, posts=POSTS)
    assert (result.rounds, result.objective) == (60, means[-1])
    np.testing.assert_array_equal(result.prediction, lockstep.out_of_fold(POSTS))


def test_binned_folds_serve_all_parameters() -> None:
    shared = binned(complete_params({}, "mae", 0, 1))
    for given in ({"min_data_in_leaf": 120}, {"min_data_in_leaf": 2, "num_leaves": 5}, DART, BAGGED):
        params = complete_params(given, "mae", 0, 1)
        reused, fresh = run(shared, params, 15, None)[1], run(binned(params), params, 15, None)[1]
        assert reused == fresh


def test_fit_is_lightgbms_own_training() -> None:
    matrix, popularity = small_matrix()
    params = complete_params({"max_bin": 15, **BAGGED}, "mae", seed=2, threads=1)
    model = fit(matrix, popularity, params, 12)
    assert model.num_trees() == 12
    data = lgb.Dataset(matrix.values, popularity, categorical_feature=[7], params={"max_bin": 15, "verbosity": -1})
    expected = lgb.train(params, data, 12).predict(matrix.values)
    np.testing.assert_array_equal(model.predict(matrix.values), expected)


def test_bagging_is_switched_on_with_its_fraction() -> None:
    assert complete_params({"bagging_fraction": 0.5}, "mae", 0, 1)["bagging_freq"] == 1
    assert complete_params({"bagging_fraction": 0.5, "bagging_freq": 3}, "mae", 0, 1)["bagging_freq"] == 3
    assert "bagging_freq" not in complete_params({"bagging_fraction": 0.5, "boosting": "goss"}, "mae", 0, 1)
    assert "bagging_freq" not in complete_params({}, "mae", 0, 1)


def test_predictions_that_are_not_finite_are_an_error() -> None:
    params = {"objective": "regression", "learning_rate": 1e308}
    with pytest.raises(SmpRayError, match="not finite after round 1"):
        out_of_fold(small_folds(), params, objective="mae", max_rounds=9, early_stopping_rounds=None, posts=POSTS)


def test_the_default_point_lies_in_the_space() -> None:
    space = {
        "learning_rate": FloatRange(type="float", low=0.01, high=0.05, log=True),
        "num_leaves": IntRange(type="int", low=8, high=256, log=True),
        "lambda_l2": FloatRange(type="float", low=1e-3, high=1, log=True),
        "boosting": Choice(type="choice", values=("dart", "gbdt")),
        "tree_learner": Choice(type="choice", values=("serial", "feature")),
        "refit_decay_rate": FloatRange(type="float", low=0.3, high=0.5),
    }
    assert default_point(space) == {
        "learning_rate": 0.05, "num_leaves": 31, "lambda_l2": 1e-3, "boosting": "gbdt", "tree_learner": "serial",
        "refit_decay_rate": 0.3,
    }  # fmt: skip


def test_what_shapes_the_bins_is_not_searched() -> None:
    check_space(TuneConfig())
    space: Any = {"max_bin": {"type": "int", "low": 15, "high": 255}}
    with pytest.raises(ConfigError, match=r"training\.tune\.space: max_bin"):
        check_space(TuneConfig(space=space))


def test_a_rare_column_is_kept_for_small_leaves() -> None:
    # LightGBM drops, when it bins, what no leaf of min_data_in_leaf (by default 20) posts can split.
    matrix, popularity = small_matrix()
    rare = np.arange(POSTS) % 40 == 0
    matrix.values[:, 0] = rare
    given = {"min_data_in_leaf": 2, "objective": "regression"}
    model = fit(matrix, popularity + 50 * rare, complete_params(given, "mae", 0, 1), 3)
    assert model.feature_importance()[0] > 0
