"""One trial of the sweep: all folds under one set of parameters, in a Ray actor that keeps the data between trials."""

import time
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from smp_ray.config import TuneConfig
from smp_ray.training.boosting.base import Predictor
from smp_ray.training.boosting.cross_fit import Lockstep, PreparedFold, prepare_folds
from smp_ray.training.matrix.matrix import FoldData
from smp_ray.training.sweep.search import OBJECTIVE

#: Keys of what a trial reports to Ray Tune: how far it is, in rounds at the predictor's usual pace, and its record.
PROGRESS, RECORD = "progress", "record"
#: Between two reports, at most: what a time budget can cost.
_REPORT_SECONDS = 2.0


@dataclass(frozen=True)
class SweepTask:
    """What all trials of a sweep share: the data come from Ray's object store, one copy a node."""

    predictor: Predictor
    settings: TuneConfig
    folds: ray.ObjectRef[list[FoldData]]

    def complete(self, params: dict[str, Any]) -> dict[str, Any]:
        """Complete parameters of a trial, which its folds and the final model share."""
        settings = self.settings
        return self.predictor.complete(
            {**settings.params, **params}, settings.objective, settings.seed, settings.cpus_per_trial
        )


class FoldTrial(tune.Trainable):
    """Grows the models of all folds; each `train` of Tune's goes as far as the next rung of the successive halving.

    A rung is reported in the very round that reaches it, so that what the halving decides does not depend on speed.
    """

    def setup(self, config: dict[str, Any], task: SweepTask) -> None:  # type: ignore[override]
        """Called once an actor, by `tune.with_parameters`, which knows the task."""
        self._task = task
        self._folds: list[PreparedFold] | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called for each further trial of the actor."""
        self._params = self._task.complete(new_config["params"])
        self._lockstep: Lockstep | None = None
        self._rungs = 0
        return True

    def step(self) -> dict[str, Any]:
        """Train on; an error ends the trial, not the sweep."""
        try:
            return self._grow()
        except Exception as error:  # whatever it is, it is shown in the trial's row
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return {OBJECTIVE: float("inf"), PROGRESS: 0, RECORD: {"status": "failed", "error": reason}, "done": True}

    def _grow(self) -> dict[str, Any]:
        task, settings, began = self._task, self._task.settings, time.monotonic()
        if self._folds is None:
            data = ray.get(task.folds)
            self._folds = prepare_folds(task.predictor, data, self._params)
        if self._lockstep is None:
            self._lockstep = Lockstep(task.predictor, self._folds, self._params, settings.objective)
            self._rounds = self._lockstep.run(settings.max_rounds, settings.early_stopping_rounds)
        for _ in self._rounds:
            if self._reaches_rung() or time.monotonic() - began > _REPORT_SECONDS:
                return self._report("stopped")  # as its record will say if it ends here
        return {**self._report("completed"), "done": True}

    def _progress(self) -> float:
        assert self._lockstep is not None
        return self._lockstep.rounds * self._task.predictor.pace(self._params)

    def _reaches_rung(self) -> bool:
        asha = self._task.settings.asha
        if asha is None or self._progress() < asha.grace_rounds * asha.reduction_factor**self._rungs:
            return False
        self._rungs += 1
        return True

    def _report(self, status: str) -> dict[str, Any]:
        grown = self._lockstep
        assert grown is not None
        record = {
            "status": status, "objective": grown.best, "rounds": grown.best_round, "rounds_trained": grown.rounds,
            **grown.metrics(),
        }  # fmt: skip
        return {OBJECTIVE: grown.best, PROGRESS: self._progress(), RECORD: record}
