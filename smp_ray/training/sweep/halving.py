"""Which trials a sweep ends early: successive halving whose decisions do not depend on timing, see `search`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from smp_ray.config import AshaConfig
from smp_ray.training.sweep.trial_files import OBJECTIVE, RECORD, ROUNDS, TrialRecord


class OrderedASHA(ASHAScheduler):
    """Successive halving in which a trial is measured against those that its suggestion knew of.

    All of these were over before the trial began, so no decision waits for anything, and a trial that is run again
    does not find its own earlier record.

    Args:
        settings: grace rounds and reduction factor.
        max_rounds: boosting rounds of a trial at most.
        known_to: the records that count for a trial, by its number: `InOrder.known_to`.
    """

    def __init__(self, settings: AshaConfig, max_rounds: int, known_to: Callable[[int], Sequence[TrialRecord]]) -> None:
        super().__init__(
            time_attr=ROUNDS, metric=OBJECTIVE, mode="min", max_t=max_rounds,
            grace_period=min(settings.grace_rounds, max_rounds), reduction_factor=settings.reduction_factor,
        )  # fmt: skip
        self._factor, self._known_to = settings.reduction_factor, known_to

    def cutoff_at(self, number: int, rung: int) -> float | None:
        """The worst mean objective with which trial `number` goes on from a rung; None: any."""
        values = [record.rungs[rung] for record in self._known_to(number) if len(record.rungs) > rung]
        # Of fewer, the best third would be less than one trial, and a single lucky one would end all others.
        if len(values) < self._factor:
            return None
        return float(np.percentile(values, 100 / self._factor))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """End the trial or let it go on; it hands in its record at its rungs and at its end."""
        if RECORD in result:
            record = TrialRecord.from_json(result[RECORD])
            if record.status == "stopped" and record.rungs:
                cutoff = self.cutoff_at(record.number, len(record.rungs) - 1)
                if cutoff is not None and record.rungs[-1] > cutoff:
                    return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: there is one bracket, and records are found by number."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: `InOrder` keeps the record."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: there is nothing kept of a trial."""
