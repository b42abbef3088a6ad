"""Lockstep training of all folds against LightGBM's own cross-validation and single models.

It also tests `training/boosting/base.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest

from smp_ray.config import TuneConfig
from smp_ray.errors import DataError, SmpRayError
from smp_ray.training.boosting.base import Growing
from smp_ray.training.boosting.cross_fit import Lockstep, after_rounds, cross_fit, fit, prepare_folds
from smp_ray.training.boosting.lightgbm import LightGBM
from smp_ray.training.matrix.matrix import FoldData
from tests.training.fold_data import POSTS, small_folds, small_matrix, small_splits

LIGHTGBM = LightGBM()
# With the absolute error all gradients are alike, and goss has nothing to choose from.
GOSS: dict[str, Any] = {"boosting": "goss", "bagging_fraction": 0.5, "learning_rate": 0.5, "objective": "regression"}
BAGGED: dict[str, Any] = {"learning_rate": 0.2, "num_leaves": 7, "bagging_fraction": 0.7, "feature_fraction": 0.6}
DART: dict[str, Any] = {"boosting": "dart", "learning_rate": 0.3, "drop_rate": 0.5, "skip_drop": 0.0, "num_leaves": 7}


def run(
    prepared: list[Any], params: dict[str, Any], rounds: int, patience: int | None, folds: list[FoldData] | None = None
) -> tuple[Lockstep, list[float]]:
    models = [LIGHTGBM.begin(data, params) for data in prepared]
    lockstep = Lockstep(models, folds or small_folds(), "mae")
    return lockstep, list(lockstep.run(rounds, patience))


def crossed(given: dict[str, Any], rounds: int | None = None, **more: Any) -> Lockstep:
    settings = TuneConfig(**{"max_rounds": 30, "early_stopping_rounds": 5, **more})
    return cross_fit(LIGHTGBM, small_folds(), given, settings, rounds)


def single_model(fold: int, params: dict[str, Any], rounds: int) -> lgb.Booster:
    """LightGBM's own training of one fold's model."""
    data = small_folds()[fold]
    binned, _ = LIGHTGBM.prepare(data.training, data.training_popularity, None, params)
    return lgb.train(params, binned, rounds)


@pytest.mark.parametrize("patience", [None, 5])
def test_lockstep_is_lightgbms_own_cross_validation(patience: int | None) -> None:
    params = LIGHTGBM.complete(BAGGED, "mae", seed=3, threads=1)
    matrix, popularity = small_matrix()
    splits = small_splits()
    full, _ = LIGHTGBM.prepare(matrix, popularity, None, params)
    parts = [(np.flatnonzero(splits.training(fold)), np.flatnonzero(splits.validation(fold))) for fold in range(3)]
    callbacks = [lgb.early_stopping(patience, verbose=False)] if patience else []
    expected = lgb.cv({**params, "metric": "l1"}, full, 80, folds=parts, callbacks=callbacks)["valid l1-mean"]
    # The same Datasets as cv makes: parts of one that was binned on all posts.
    prepared = [tuple(full.subset(sorted(rows)).construct() for rows in part) for part in parts]
    folds = [
        replace(fold, validation_popularity=popularity[validation], validation_positions=validation)
        for fold, (_, validation) in zip(small_folds(), parts, strict=True)
    ]
    lockstep, means = run(prepared, params, 80, patience, folds)
    assert lockstep.best_round == len(expected)
    np.testing.assert_allclose(means[: len(expected)], expected, rtol=0, atol=1e-10)
    if patience:
        assert len(means) == len(expected) + patience < 80
        assert lockstep.best == min(means)


@pytest.mark.parametrize("given", [BAGGED, DART])
def test_predictions_are_those_of_the_round_that_the_other_folds_choose(given: dict[str, Any]) -> None:
    params = LIGHTGBM.complete(given, "mae", seed=1, threads=1)
    lockstep, _ = run(prepare_folds(LIGHTGBM, small_folds(), params), params, 150, 8)
    assert 0 < lockstep.best_round < lockstep.rounds  # later rounds were grown, and changed dart's earlier trees
    prediction = lockstep.out_of_fold(POSTS)
    for fold, data in enumerate(small_folds()):
        nested, best = lockstep.nested[fold], lockstep.best_predictions[fold]
        for values, rounds in ((prediction[data.validation_positions], nested.rounds), (best, lockstep.best_round)):
            expected = single_model(fold, params, rounds).predict(data.validation.values)
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)
        # What the sweep publishes: as many rounds again, from the record, to the last bit.
        wanted = {nested.rounds, lockstep.best_round}
        again = after_rounds(LIGHTGBM, data, given, TuneConfig(seed=1), wanted)
        assert set(again) == wanted
        np.testing.assert_array_equal(again[nested.rounds], nested.prediction)
        np.testing.assert_array_equal(again[lockstep.best_round], best)
    assert np.isnan(prediction[:40]).all()
    assert np.isfinite(prediction[40:]).all()
    again = crossed(given, lockstep.best_round, seed=1)
    assert again.best == lockstep.best
    assert {one.rounds for one in again.nested} == {lockstep.best_round}  # nothing is chosen where rounds are given


class Drawn(Growing):
    """Predicts anew in every round, whatever the labels are."""

    def __init__(self, posts: int, seed: int) -> None:
        self.posts, self.rng = posts, np.random.default_rng(seed)

    def grow(self) -> np.ndarray:
        return 8 + self.rng.normal(size=self.posts)

    def text(self) -> str:
        return ""


def drawn(folds: list[FoldData], seed: int = 0) -> Lockstep:
    """Folds that `Drawn` models have gone through, to the same end whatever the labels are."""
    models = [Drawn(len(fold.validation_popularity), 10 * seed + fold.fold) for fold in folds]
    lockstep = Lockstep(models, folds, "mae")
    list(lockstep.run(60, 60))
    return lockstep


@pytest.mark.parametrize("fold", range(3))
def test_a_folds_labels_have_no_say_in_its_rounds(fold: int) -> None:
    folds = small_folds()
    before = drawn(folds)
    labels = np.random.default_rng(7).permutation(folds[fold].validation_popularity) * 3
    folds[fold] = replace(folds[fold], validation_popularity=labels)
    after = drawn(folds)
    assert after.best != before.best
    own, others = (before.nested[fold], after.nested[fold]), [at for at in range(3) if at != fold]
    assert (own[0].rounds, own[0].objective) == (own[1].rounds, own[1].objective)
    np.testing.assert_array_equal(own[0].prediction, own[1].prediction)
    assert all(after.nested[at].objective != before.nested[at].objective for at in others)
    # Each is the lowest mean of the others over the rounds.
    curves = np.array([[np.abs(one.validation_popularity - values).mean() for values in rounds]
                       for one, rounds in zip(folds, grown(folds), strict=True)])  # fmt: skip
    for at, nested in enumerate(after.nested):
        means = np.delete(curves, at, axis=0).mean(axis=0)
        assert (nested.rounds, nested.objective) == (1 + means.argmin(), pytest.approx(means.min(), abs=1e-12))


def grown(folds: list[FoldData]) -> list[list[np.ndarray]]:
    """What `Drawn` predicts for each fold, round by round."""
    models = [Drawn(len(fold.validation_popularity), fold.fold) for fold in folds]
    return [[model.grow() for _ in range(60)] for model in models]


def test_mape_is_exact_and_refuses_a_label_of_zero() -> None:
    result, folds = crossed({}, objective="mape"), small_folds()
    prediction = result.out_of_fold(POSTS)
    shares = [
        np.mean(np.abs(fold.validation_popularity - values) / fold.validation_popularity)
        for fold, values in zip(folds, result.best_predictions, strict=True)
    ]
    assert result.best == pytest.approx(np.mean(shares), abs=1e-12)
    assert [fold["mape"] for fold in result.metrics()["folds"]] == pytest.approx(shares, abs=1e-12)
    assert np.nanmax(np.abs(crossed({}).out_of_fold(POSTS) - prediction)) > 0.01
    folds[1].validation_popularity[3] = 0
    with pytest.raises(DataError, match=r"mape.*fold 1 has 1 such post;"):
        cross_fit(LIGHTGBM, folds, {}, TuneConfig(objective="mape"), 3)


@pytest.mark.parametrize("given", [BAGGED, DART, GOSS])
def test_the_same_seed_gives_the_same_predictions(given: dict[str, Any]) -> None:
    first = crossed(given, seed=5).out_of_fold(POSTS)
    np.testing.assert_array_equal(crossed(given, seed=5, cpus_per_trial=2).out_of_fold(POSTS), first)
    assert not np.array_equal(crossed(given, seed=6).out_of_fold(POSTS), first, equal_nan=True)


def test_without_early_stopping_the_last_round_counts() -> None:
    params = LIGHTGBM.complete({**BAGGED, "learning_rate": 1.0}, "mae", 0, 1)
    lockstep, means = run(prepare_folds(LIGHTGBM, small_folds(), params), params, 60, None)
    assert (lockstep.best_round, lockstep.best) == (60, means[-1])
    assert lockstep.best > min(means)


def test_prepared_folds_serve_all_parameters() -> None:
    shared = prepare_folds(LIGHTGBM, small_folds(), LIGHTGBM.complete({}, "mae", 0, 1))
    for given in ({"min_data_in_leaf": 120}, {"min_data_in_leaf": 2, "num_leaves": 5}, DART, BAGGED):
        params = LIGHTGBM.complete(given, "mae", 0, 1)
        own = prepare_folds(LIGHTGBM, small_folds(), params)
        assert run(shared, params, 15, None)[1] == run(own, params, 15, None)[1]


def test_fit_is_lightgbms_own_training_and_its_text_loads_anywhere() -> None:
    matrix, popularity = small_matrix()
    params = LIGHTGBM.complete({"max_bin": 15, **BAGGED}, "mae", seed=2, threads=1)
    text = fit(LIGHTGBM, matrix, popularity, params, 12).text()
    data = lgb.Dataset(matrix.values, popularity, categorical_feature=[7], params={"max_bin": 15, "verbosity": -1})
    expected = lgb.train(params, data, 12).predict(matrix.values)
    assert lgb.Booster(model_str=text).num_trees() == 12
    np.testing.assert_array_equal(lgb.Booster(model_str=text).predict(matrix.values), expected)
    model = LIGHTGBM.load(text)
    assert model.columns == len(matrix.names)
    np.testing.assert_array_equal(model.predict(matrix), expected)


def test_predictions_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(SmpRayError, match="not finite after round 1"):
        crossed({"objective": "regression", "learning_rate": 1e308})
