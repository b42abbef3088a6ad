"""Running the sweep on Ray Tune: how many trials at once, their records, quietly, and going on after a kill."""

import logging
import os
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler

from smp_ray.config import TuneConfig
from smp_ray.errors import SmpRayError
from smp_ray.progress import Reporter, polled
from smp_ray.store.workspace import Workspace
from smp_ray.training.boosting.space import default_point
from smp_ray.training.sweep.records import TrialRecord, read_records, write_record
from smp_ray.training.sweep.search import OBJECTIVE, Suggestions
from smp_ray.training.sweep.trial import PROGRESS, RECORD, FoldTrial, SweepTask

#: Lost processes that a trial survives.
MAX_FAILURES = 3
#: Ray Tune as a library: no tables, no loggers that write files for each trial, no traceback of a failed trial on the
#: terminal, the working folder left alone, and Ctrl-C that interrupts.
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0", "TUNE_DISABLE_SIGINT_HANDLER": "1",
}  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
        records: of every trial, by number.
        concurrency: trials side by side.
        startup_seconds: until the first trial of this run began: Ray Tune, the first actor.
        seconds: from there until the last trial ended.
        resumed: trials that an interrupted sweep had finished.
    """

    records: dict[int, TrialRecord]
    concurrency: int
    startup_seconds: float
    seconds: float
    resumed: int


@dataclass
class Recorder(tune.Callback):
    """Writes the record of each trial, as soon as it has ended, into a folder of the workspace.

    Attributes:
        records: of the trials that have ended, by number; grows.
        clock_began: when the sweep's clock would have read 0, in `time.time()`.
        deadline: when the time budget ends, in `time.time()`.
    """

    workspace: Workspace
    folder: str
    records: dict[int, TrialRecord]
    clock_began: float
    deadline: float
    _began: dict[str, float] = field(default_factory=dict)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called again where a trial's process died and it begins anew."""
        self._began[trial.trial_id] = time.time()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """It came to its end, or the halving stopped it."""
        self._keep(trial, trial.last_result[RECORD])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Its process died too often."""
        last = str(trial.get_error() or "Ray's log tells more").strip().splitlines()[-1]
        self._keep(
            trial, {"status": "failed", "error": f"its process died (out of memory?) or could not start: {last}"}
        )

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Ray Tune does not tell which trials the time budget stopped; a sweep ended by Ctrl-C tries them again."""
        for trial in trials:
            if (
                trial.config["number"] not in self.records
                and time.time() >= self.deadline
                and RECORD in trial.last_result
            ):
                self._keep(trial, trial.last_result[RECORD])

    def _keep(self, trial: Trial, result: dict[str, Any]) -> None:
        now, config = time.time(), trial.config
        began = self._began.get(trial.trial_id, now)
        record = TrialRecord(
            number=config["number"], params=config["params"], seconds=round(now - began, 3),
            started_after_seconds=round(began - self.clock_began, 3), **result,
        )  # fmt: skip
        write_record(self.workspace, self.folder, record)
        self.records[record.number] = record


def trials_at_once(settings: TuneConfig, cores: int | None) -> int:
    """How many trials the cluster's CPUs hold side by side.

    Args:
        settings: `max_concurrent` is an upper bound.
        cores: physical cores of a local Ray, whose logical CPUs may be more; None: a cluster.

    Raises:
        SmpRayError: not even one fits.
    """
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    if cores is not None:
        nodes = [min(cores, sum(nodes))]
    fit = sum(cpus // settings.cpus_per_trial for cpus in nodes)
    if not fit:
        raise SmpRayError(
            f"training.tune.cpus_per_trial is {settings.cpus_per_trial}, but the largest node has "
            f"{max(nodes, default=0)} CPUs; set it lower"
        )
    return min(fit, settings.max_concurrent or fit, settings.trials)


def run_sweep(task: SweepTask, workspace: Workspace, folder: str, cores: int | None) -> Sweep:
    """Run as many trials as have no record yet.

    Args:
        task: predictor, settings and data.
        workspace: where `folder` lies.
        folder: the artefact's folder, in which `trials/` is.
        cores: physical cores of a local Ray; None: a cluster.

    Raises:
        SmpRayError: a trial does not fit the cluster, or the time budget ended before any trial had a result.
    """
    settings = task.settings
    concurrency = trials_at_once(settings, cores)
    records = read_records(workspace, folder)
    kept, used = set(records), max((r.started_after_seconds + r.seconds for r in records.values()), default=0.0)
    budget = None if settings.time_budget_s is None else max(settings.time_budget_s - used, 0.0)
    if len(records) < settings.trials and (budget != 0 or not records):
        clock = time.time() - used
        recorder = Recorder(workspace, folder, records, clock, clock + (settings.time_budget_s or float("inf")))
        _run(task, list(records.values()), recorder, concurrency, budget, lambda: _progress(records, settings))
        if not records:
            raise SmpRayError(f"no trial had a result within training.tune.time_budget_s ({budget} s); set it higher")
    fresh = [record for number, record in records.items() if number not in kept]
    first = min((record.started_after_seconds for record in fresh), default=used)
    last = max((record.started_after_seconds + record.seconds for record in fresh), default=used)
    return Sweep(records, concurrency, round(first - used, 3), round(last - first, 3), len(kept))


def _progress(records: dict[int, TrialRecord], settings: TuneConfig) -> tuple[int, int, str]:
    values = [record.objective for record in list(records.values()) if record.objective is not None]
    note = f"best {settings.objective.upper()} {min(values):.4g}" if values else "no result yet"
    return len(records), settings.trials, note


def _run(
    task: SweepTask, recorded: list[TrialRecord], recorder: Recorder, concurrency: int, budget: float | None, ask: Any
) -> None:
    """Have Ray Tune run what is lacking."""
    settings = task.settings
    os.environ.update(_QUIET)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    space = settings.space
    search = Suggestions(space, default_point(space, task.predictor.defaults), settings.seed, recorded)
    asha = settings.asha
    halving = None if asha is None else ASHAScheduler(
        time_attr=PROGRESS, metric=OBJECTIVE, mode="min", max_t=settings.max_rounds,
        grace_period=min(asha.grace_rounds, settings.max_rounds), reduction_factor=asha.reduction_factor,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="smp_ray_tune_") as notes:  # Ray Tune's own, which nothing goes on from
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(FoldTrial, task=task), {"CPU": settings.cpus_per_trial}),
            tune_config=tune.TuneConfig(
                search_alg=search, scheduler=halving, num_samples=settings.trials - len(recorded), reuse_actors=True,
                max_concurrent_trials=concurrency, time_budget_s=budget,
                trial_name_creator=_name, trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="sweep", storage_path=notes, verbose=0, callbacks=[recorder],
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )  # fmt: skip
        with Reporter("sweep", "trials") as reporter, polled(reporter, ask):
            tuner.fit()


def _name(trial: Trial) -> str:
    return f"trial-{trial.config['number']:05d}"
