"""One trial of the sweep: all folds under one set of parameters, in a Ray actor that keeps the data between trials."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from smp_ray.config import TuneConfig
from smp_ray.errors import one_line
from smp_ray.training.boosting.base import Predictor
from smp_ray.training.boosting.cross_fit import Lockstep, prepare_folds
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

    def complete(self, searched: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters of a model with these of the space."""
        settings = self.settings
        params = {**settings.params, **searched}
        return self.predictor.complete(params, settings.objective, settings.seed, settings.cpus_per_trial)


class FoldTrial(tune.Trainable):
    """Grows the models of all folds; each `train` of Tune's goes as far as the next rung of the successive halving.

    A rung is reported in the very round that reaches it, so that what the halving decides does not depend on speed.
    """

    def setup(self, config: dict[str, Any], task: SweepTask) -> None:  # type: ignore[override]
        """Called once an actor, by `tune.with_parameters`, which knows the task."""
        self._task = task
        self._prepared: list[Any] | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called for each further trial of the actor."""
        self._reports = self._train(new_config["params"])
        return True

    def step(self) -> dict[str, Any]:
        """Train on; an error ends the trial, not the sweep."""
        try:
            return next(self._reports)
        except Exception as error:  # whatever it is, it is shown in the trial's row
            reason = f"{type(error).__name__}: {one_line(error)}"
            return {OBJECTIVE: float("inf"), PROGRESS: 0, RECORD: {"status": "failed", "error": reason}, "done": True}

    def _train(self, searched: dict[str, Any]) -> Iterator[dict[str, Any]]:
        predictor, settings, asha = self._task.predictor, self._task.settings, self._task.settings.asha
        params, folds = self._task.complete(searched), ray.get(self._task.folds)
        if self._prepared is None:
            self._prepared = prepare_folds(predictor, folds, params)
        models = [predictor.begin(data, params) for data in self._prepared]
        grown, pace = Lockstep(models, folds, settings.objective), predictor.pace(params)
        rungs, reported = 0, time.monotonic()
        for _ in grown.run(settings.max_rounds, settings.early_stopping_rounds):
            at_rung = asha is not None and grown.rounds * pace >= asha.grace_rounds * asha.reduction_factor**rungs
            due = at_rung or time.monotonic() - reported > _REPORT_SECONDS
            if due and grown.rounds < settings.max_rounds:  # the last round is no stop, whatever else it is
                yield _report(grown, pace, "stopped")  # as its record will say if it ends here
                rungs, reported = rungs + at_rung, time.monotonic()
        yield {**_report(grown, pace, "completed"), "done": True}


def _report(grown: Lockstep, pace: float, status: str) -> dict[str, Any]:
    record = {
        "status": status, "objective": grown.best, "rounds": grown.best_round, "rounds_trained": grown.rounds,
        "nested": [{"objective": one.objective, "rounds": one.rounds} for one in grown.nested], **grown.metrics(),
    }  # fmt: skip
    return {OBJECTIVE: grown.best, PROGRESS: grown.rounds * pace, RECORD: record}
