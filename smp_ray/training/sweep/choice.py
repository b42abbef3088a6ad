"""Which trials stand for a sweep, and training them again.

The final models are those of the best trials by the mean objective of all folds, at its best round. What is reported of
a fold's posts must not have been chosen on them, so for each fold the other folds choose, trials and rounds alike.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from smp_ray.training.boosting.cross_fit import after_rounds, fit
from smp_ray.training.matrix.matrix import FoldData, Matrix
from smp_ray.training.splits import Splits
from smp_ray.training.sweep.records import TrialRecord
from smp_ray.training.sweep.trial import SweepTask


@dataclass(frozen=True, order=True)
class Picked:
    """A trial's model of a fold, grown for some rounds."""

    trial: int
    fold: int
    rounds: int


def by_all_folds(records: Mapping[int, TrialRecord], models: int) -> list[TrialRecord]:
    """The best trials by the mean objective of all folds, `models` of them at most; none where all failed."""
    ranked = sorted((record.objective, record.number) for record in records.values() if record.objective is not None)
    return [records[number] for _, number in ranked[:models]]


def flattered(chosen: Iterable[TrialRecord], folds: int) -> list[Picked]:
    """The models of all folds of trials that all folds chose."""
    return [Picked(record.number, fold, record.rounds) for record in chosen for fold in range(folds)]


def by_other_folds(records: Mapping[int, TrialRecord], models: int, folds: int) -> list[Picked]:
    """For each fold the best trials by the mean objective of the others, `models` at most, each at its best round."""
    picked = []
    for fold in range(folds):
        tried = {number: record.nested[fold] for number, record in records.items() if record.nested}
        ranked = sorted(tried, key=lambda number: (tried[number]["objective"], number))
        picked += [Picked(number, fold, tried[number]["rounds"]) for number in ranked[:models]]
    return picked


def refit(
    task: SweepTask,
    folds: list[FoldData],
    record: TrialRecord,
    wanted: Iterable[Picked],
    final: tuple[Matrix, np.ndarray] | None,
) -> tuple[dict[Picked, np.ndarray], str]:
    """Train again what is wanted of a trial, and its final model on a matrix and its labels. Runs as a Ray task.

    Returns:
        Predictions as they were in the sweep, float64 (validation posts,) in the order of `Splits`, and the final
        model as text, empty without one.
    """
    predictor, settings = task.predictor, task.settings
    predictions: dict[Picked, np.ndarray] = {}
    for fold in folds:
        own = {one.rounds: one for one in wanted if (one.trial, one.fold) == (record.number, fold.fold)}
        order = np.argsort(fold.validation_positions)
        found = after_rounds(predictor, fold, {**settings.params, **record.params}, settings, own) if own else {}
        predictions |= {own[rounds]: values[order] for rounds, values in found.items()}
    if final is None:
        return predictions, ""
    return predictions, fit(predictor, *final, task.complete(record.params), record.rounds).text()


def averaged(picked: Iterable[Picked], predictions: Mapping[Picked, np.ndarray], splits: Splits) -> np.ndarray:
    """Mean prediction of what was picked for each fold, float64 (posts,); NaN for posts without a fold."""
    out_of_fold, picked = np.full(len(splits.row_ids), np.nan), list(picked)
    for fold in range(splits.count):
        own = [predictions[one] for one in picked if one.fold == fold]
        out_of_fold[splits.validation(fold)] = np.mean(own, axis=0)
    return out_of_fold
