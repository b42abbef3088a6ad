"""What stands for a sweep: a fold has no say in it, and noise looks predictable only where the judged posts chose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from smp_ray.config import TuneConfig
from smp_ray.training.boosting.cross_fit import Lockstep, after_rounds, prepare_folds
from smp_ray.training.boosting.lightgbm import LightGBM
from smp_ray.training.matrix.matrix import FoldData
from smp_ray.training.sweep.choice import Picked, by_all_folds, by_other_folds, flattered
from smp_ray.training.sweep.records import TrialRecord
from tests.training.boosting.test_cross_fit import drawn
from tests.training.fold_data import FOLDS, POSTS, small_folds, small_splits

#: So few rounds that none stops early.
SETTINGS = TuneConfig(max_rounds=6, early_stopping_rounds=6)
TRIALS, WORLDS = 12, 24


def noise(seed: int) -> list[FoldData]:
    """The small table's folds with labels that nothing predicts."""
    labels = np.random.default_rng(seed).normal(size=POSTS)
    splits = small_splits()
    return [
        replace(
            fold, training_popularity=labels[splits.training(fold.fold)],
            validation_popularity=labels[fold.validation_positions],
        )
        for fold in small_folds()
    ]  # fmt: skip


def params_of(number: int) -> dict[str, Any]:
    """A trial's: they differ in the columns and posts that they draw."""
    return {"num_leaves": 8, "learning_rate": 0.4, "feature_fraction": 0.3, "bagging_fraction": 0.5,
            "bagging_freq": 1, "bagging_seed": number, "feature_fraction_seed": number}  # fmt: skip


def swept(folds: list[FoldData]) -> dict[int, TrialRecord]:
    """Records of trials as a sweep leaves them."""
    predictor, records = LightGBM(), {}
    prepared = prepare_folds(predictor, folds, predictor.complete({}, "mae", 0, 1))
    for number in range(TRIALS):
        params = predictor.complete(params_of(number), "mae", 0, 1)
        grown = Lockstep([predictor.begin(data, params) for data in prepared], folds, "mae")
        list(grown.run(SETTINGS.max_rounds, SETTINGS.early_stopping_rounds))
        records[number] = record_of(number, grown)
    return records


def record_of(number: int, grown: Lockstep) -> TrialRecord:
    nested = [{"objective": one.objective, "rounds": one.rounds} for one in grown.nested]
    return TrialRecord(number, {}, "completed", grown.best, grown.best_round, nested=nested)


def error(folds: list[FoldData], picked: list[Picked]) -> float:
    """MAE of what was picked, less that of the mean label of the training posts."""
    found, simple = [], []
    for fold in folds:
        (one,) = (one for one in picked if one.fold == fold.fold)
        predicted = after_rounds(LightGBM(), fold, params_of(one.trial), SETTINGS, [one.rounds])[one.rounds]
        found.append(np.abs(fold.validation_popularity - predicted))
        simple.append(np.abs(fold.validation_popularity - fold.training_popularity.mean()))
    return float(np.concatenate(found).mean() - np.concatenate(simple).mean())


def test_noise_looks_predictable_only_where_the_judged_posts_chose() -> None:
    seeming, honest = [], []
    for seed in range(WORLDS):
        folds = noise(seed)
        records = swept(folds)
        seeming.append(error(folds, flattered(by_all_folds(records, 1), FOLDS)))
        honest.append(error(folds, by_other_folds(records, 1, FOLDS)))
    # 7 standard errors below 0, and as many above.
    assert np.mean(seeming) < 0 < np.mean(honest)


@pytest.mark.parametrize("fold", range(FOLDS))
def test_a_folds_labels_have_no_say_in_its_trials_and_rounds(fold: int) -> None:
    folds = small_folds()

    def picked() -> list[Picked]:
        records = {number: record_of(number, drawn(folds, number)) for number in range(20)}
        records[20] = TrialRecord(20, {}, "failed")
        return by_other_folds(records, 3, FOLDS)

    before = picked()
    assert [one.fold for one in before] == np.repeat(range(FOLDS), 3).tolist()
    labels = np.random.default_rng(7).permutation(folds[fold].validation_popularity) * 3
    folds[fold] = replace(folds[fold], validation_popularity=labels)
    after = picked()
    assert [one for one in after if one.fold == fold] == [one for one in before if one.fold == fold]
    assert after != before
