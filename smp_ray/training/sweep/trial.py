"""One trial of the sweep: all folds under one set of parameters, in a Ray actor that keeps the data between trials."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np

from smp_ray.config import TuneConfig
from smp_ray.training.boosting.booster import BinnedFold, Lockstep, bin_fold
from smp_ray.training.boosting.lightgbm_params import complete_params, dataset_params
from smp_ray.training.matrix.matrix import FoldData
from smp_ray.training.sweep.trial_files import OBJECTIVE, RECORD, ROUNDS, Status, TrialFiles, TrialRecord

#: Folds of the newest sweep that this process has seen, by the sweep's id: trials of one actor load them once.
_loaded: dict[str, list[BinnedFold]] = {}

_DEFAULT_LEARNING_RATE = 0.1
#: Seconds, and share of the trial's own time, between two reports of its progress, see `sweep_clock`.
_PROGRESS_SECONDS, _PROGRESS_SHARE = 0.5, 0.1


@dataclass(frozen=True)
class SharedFold:
    """A binned fold in Ray's object store: LightGBM's binary files as uint8 arrays, labels and places."""

    fold: int
    training: Any
    validation: Any
    popularity: Any
    positions: Any


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep share.

    Attributes:
        sweep: id of this run of the sweep.
        settings: the sweep's configuration.
        max_bin: histogram bins a column.
        posts: number of posts in `Splits`.
        folds: the data.
        files: where predictions go.
        clock_began: when the sweep's clock would have read 0, in `time.time()`.
        deadline: when trials have to end, in `time.time()`; None: no time budget.
    """

    sweep: str
    settings: TuneConfig
    max_bin: int
    posts: int
    folds: tuple[SharedFold, ...]
    files: TrialFiles
    clock_began: float
    deadline: float | None


def trial_params(settings: TuneConfig, max_bin: int, number: int, searched: Mapping[str, Any]) -> dict[str, Any]:
    """Complete LightGBM parameters of trial `number`, which its folds and the final model share.

    Trial 0 has the sweep's own seed, so it is the very model of a baseline with these settings.
    """
    given = {"max_bin": max_bin, **settings.params, **searched}
    return complete_params(given, settings.objective, settings.seed + number, settings.cpus_per_trial)


def rung_rounds(settings: TuneConfig, params: Mapping[str, Any]) -> list[int]:
    """Boosting rounds at which a trial may be ended: the grace rounds, times the reduction factor, again and again.

    They are rounds at LightGBM's default learning rate; a trial that learns more slowly has as many more to get as
    far, and none has less than the grace rounds. On 2,972 real posts (70 settings with learning rates from 0.01 to
    0.2, 5 folds) the ranks of trials after 100 such rounds and at their end correlate by 0.99, after 100 plain rounds
    by 0.33, because the best settings learn slowly. In simulations on these and on 29 further settings, halving from
    100 such rounds never lost the best setting and saved 40 to 46 % of the work, from 300 and 600 of them 15 and 5 %.
    """
    rounds: list[int] = []
    if settings.asha is not None:
        slower = max(1.0, _DEFAULT_LEARNING_RATE / float(params.get("learning_rate", _DEFAULT_LEARNING_RATE)))
        at = settings.asha.grace_rounds * slower
        while at < settings.max_rounds:
            rounds.append(int(at))
            at *= settings.asha.reduction_factor
    return rounds


def share_folds(folds: Sequence[FoldData], params: Mapping[str, Any]) -> tuple[SharedFold, ...]:
    """Bin each fold once and put it into Ray's object store: one copy a node, however many trials run there."""
    import ray

    shared = []
    with tempfile.TemporaryDirectory(prefix="smp_ray_bins_") as folder:
        for fold in folds:
            binned = bin_fold(fold, dataset_params(params))
            training, validation = (
                ray.put(_as_bytes(dataset, folder)) for dataset in (binned.training, binned.validation)
            )
            popularity, positions = ray.put(binned.popularity), ray.put(binned.positions)
            shared.append(SharedFold(fold.fold, training, validation, popularity, positions))
    return tuple(shared)


def _as_bytes(dataset: lgb.Dataset, folder: str) -> np.ndarray:
    path = os.path.join(folder, "dataset")
    dataset.save_binary(path)
    data = np.fromfile(path, dtype=np.uint8)
    os.remove(path)  # LightGBM does not write over a file
    return data


def load_folds(shared: Sequence[SharedFold], params: Mapping[str, Any]) -> list[BinnedFold]:
    """The folds as `share_folds` binned them; `params` have to be the same as far as they shape bins."""
    import ray

    kept = dataset_params(params)
    folds = []
    with tempfile.TemporaryDirectory(prefix="smp_ray_bins_") as folder:
        for fold in shared:
            training_path, validation_path = (os.path.join(folder, f"{part}-{fold.fold}") for part in "tv")
            ray.get(fold.training).tofile(training_path)
            ray.get(fold.validation).tofile(validation_path)
            training = lgb.Dataset(training_path, params=kept).construct()
            validation = lgb.Dataset(validation_path, reference=training, params=kept).construct()
            popularity, positions = ray.get([fold.popularity, fold.positions])
            folds.append(BinnedFold(fold.fold, training, validation, popularity, positions))
    return folds


def run_trial(config: dict[str, Any], context: TrialContext) -> None:
    """Ray Tune's trainable: train, report at the rungs, store predictions, report the record.

    What LightGBM raises makes a failed trial and no exception: the actor lives on for the next trial.

    Args:
        config: `number` and `params`, see `search.InOrder`.
        context: what all trials share.
    """
    # Tune gives up an actor whose thread is not gone this soon after its trial was ended, by default 2 seconds.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "120")
    trial = _Trial(context, int(config["number"]), dict(config["params"]))
    try:
        status = trial.train()
    except Exception as error:  # whatever it is, the sweep goes on and shows it in the trial's row
        trial.report("failed", error=f"{type(error).__name__}: {' '.join(str(error).split())}")
    else:
        trial.report(status)


class _Trial:
    """A trial under way."""

    def __init__(self, context: TrialContext, number: int, searched: dict[str, Any]) -> None:
        self._context, self._number, self._searched = context, number, searched
        self._began = self._reported = time.time()
        self._rungs: list[float] = []
        self._lockstep: Lockstep | None = None

    def train(self) -> Status:
        """Train to the end; ends inside `report` where the scheduler says so at a rung."""
        context, settings = self._context, self._context.settings
        params = trial_params(settings, context.max_bin, self._number, self._searched)
        lockstep = self._lockstep = Lockstep(self._folds(params), params, settings.objective)
        rungs = rung_rounds(settings, params)
        for _ in lockstep.run(settings.max_rounds, settings.early_stopping_rounds):
            if lockstep.rounds in rungs:
                self._rungs += [lockstep.best] * rungs.count(lockstep.rounds)
                self.report("stopped")  # as the record will say if the trial ends here
            now = time.time()
            if context.deadline is not None and now >= context.deadline:
                return "stopped"
            if now - self._reported >= max(_PROGRESS_SECONDS, _PROGRESS_SHARE * (now - self._began)):
                self._report({})
        # At the rungs that it did not come to it would stand with what it has.
        self._rungs += [lockstep.best] * (len(rungs) - len(self._rungs))
        return "completed"

    def _folds(self, params: dict[str, Any]) -> list[BinnedFold]:
        sweep = self._context.sweep
        if sweep not in _loaded:
            _loaded.clear()
            _loaded[sweep] = load_folds(self._context.folds, params)
        return _loaded[sweep]

    def report(self, status: Status, error: str | None = None) -> None:
        """Store the predictions, then hand Ray the record so far."""
        results: dict[str, Any] = {}
        if self._lockstep is not None and error is None:
            # Before the report: the scheduler may end the trial there and then.
            self._context.files.write_predictions(self._number, self._lockstep.out_of_fold(self._context.posts))
            results = {
                "objective": self._lockstep.best, "rounds": self._lockstep.best_round,
                "rounds_trained": self._lockstep.rounds, "rungs": self._rungs,
                "metrics": self._lockstep.pooled_metrics(), "folds": self._lockstep.fold_metrics(),
            }  # fmt: skip
        record = TrialRecord(
            self._number, self._searched, status, **results, seconds=round(time.time() - self._began, 3),
            started_after_seconds=round(self._began - self._context.clock_began, 3), error=error,
        )  # fmt: skip
        self._report({RECORD: record.to_json()})

    def _report(self, more: dict[str, str]) -> None:
        from ray import tune

        # Ray insists on a number for the objective; of a failed trial it is not used.
        grown = self._lockstep
        tune.report({OBJECTIVE: grown.best if grown else float("nan"), ROUNDS: grown.rounds if grown else 0, **more})
        self._reported = time.time()
