"""Running the sweep on Ray Tune: how many trials at once, their records, quietly, and going on after a kill."""

import logging
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler

from smp_ray.config import TuneConfig
from smp_ray.progress import Reporter, polled
from smp_ray.resources import Node
from smp_ray.store.workspace import Workspace
from smp_ray.training.sweep.records import TrialRecord, clock
from smp_ray.training.sweep.search import OBJECTIVE, Suggestions
from smp_ray.training.sweep.trial import PROGRESS, RECORD, FoldTrial, SweepTask

#: Ray Tune as a library: no tables, no loggers that write files for each trial, no traceback of a failed trial on the
#: terminal, the working folder left alone, and Ctrl-C that interrupts.
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0", "TUNE_DISABLE_SIGINT_HANDLER": "1",
}  # fmt: skip


@dataclass
class Recorder(tune.Callback):
    """Adds each trial's record to `records` and writes it, as soon as the trial has ended.

    Attributes:
        began: when the sweep's clock would have read 0, in `time.time()`.
    """

    workspace: Workspace
    folder: str
    records: dict[int, TrialRecord]
    began: float

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """It came to its end, or the halving or the time budget stopped it."""
        self._keep(trial, **trial.last_result[RECORD])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Its process died too often."""
        last = str(trial.get_error() or "Ray's log tells more").strip().splitlines()[-1]
        self._keep(trial, status="failed", error=f"its process died (out of memory?) or could not start: {last}")

    def _keep(self, trial: Trial, **result: Any) -> None:
        seconds = (trial.last_result or {}).get("time_total_s", 0.0)
        started = round(time.time() - seconds - self.began, 3)
        record = TrialRecord(**trial.config, **result, seconds=round(seconds, 3), started_after_seconds=started)
        self.workspace.write_json(asdict(record), self.folder, "trials", f"{record.number:05d}.json")
        self.records[record.number] = record


def trials_at_once(settings: TuneConfig, nodes: Sequence[Node]) -> int:
    """How many trials the cluster's CPUs hold side by side, `max_concurrent` at most; at least one fits."""
    fit = sum(node.threads // settings.cpus_per_trial for node in nodes)
    return min(fit, settings.max_concurrent or fit, settings.trials)


def run_sweep(
    task: SweepTask, workspace: Workspace, folder: str, records: dict[int, TrialRecord], concurrency: int
) -> None:
    """Have Ray Tune run as many trials as have no record yet, and add theirs to the records in the artefact's folder.

    Until the time budget ends, but one trial is always tried.
    """
    settings, asha, began = task.settings, task.settings.asha, time.time() - clock(records)
    deadline = began + (settings.time_budget_s or float("inf"))
    if len(records) >= settings.trials or (records and time.time() >= deadline):
        return
    os.environ.update(_QUIET)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    halving = None if asha is None else ASHAScheduler(
        time_attr=PROGRESS, metric=OBJECTIVE, mode="min", max_t=settings.max_rounds,
        grace_period=min(asha.grace_rounds, settings.max_rounds), reduction_factor=asha.reduction_factor,
    )  # fmt: skip

    def progress() -> tuple[int, int, str]:
        values = [record.objective for record in list(records.values()) if record.objective is not None]
        note = f"best {settings.objective.upper()} {min(values):.4g}" if values else "no result yet"
        return len(records), settings.trials, note

    with (
        tempfile.TemporaryDirectory(prefix="smp_ray_tune_") as notes,  # Ray Tune's own, which nothing goes on from
        Reporter("sweep", "trials") as reporter,
        polled(reporter, progress),
    ):
        tune.Tuner(
            tune.with_resources(tune.with_parameters(FoldTrial, task=task), {"CPU": settings.cpus_per_trial}),
            tune_config=tune.TuneConfig(
                search_alg=Suggestions(
                    settings.space, task.predictor.defaults, settings.seed, list(records.values()), deadline,
                    settings.trials,
                ),
                scheduler=halving, num_samples=-1, reuse_actors=True,  # the suggestions come to an end
                max_concurrent_trials=concurrency,
            ),
            run_config=tune.RunConfig(
                storage_path=notes, verbose=0, callbacks=[Recorder(workspace, folder, records, began)],
                stop=lambda trial, result: time.time() >= deadline,
                failure_config=tune.FailureConfig(max_failures=3),  # lost processes that a trial survives
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()  # fmt: skip
