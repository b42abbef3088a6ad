"""Running the sweep on Ray Tune: how many trials at once, on which data, quietly, and going on after a kill."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from smp_ray.config import AshaConfig, TuneConfig
from smp_ray.errors import SmpRayError
from smp_ray.progress import Reporter, polled
from smp_ray.store.workspace import Workspace
from smp_ray.training.boosting.booster import check_labels
from smp_ray.training.matrix.matrix import FoldData
from smp_ray.training.sweep.halving import OrderedASHA
from smp_ray.training.sweep.search import InOrder
from smp_ray.training.sweep.trial import TrialContext, run_trial, share_folds, trial_params
from smp_ray.training.sweep.trial_files import TrialFiles, TrialRecord

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
        slots: trials side by side by the sweep's clock: those of the cluster on which it was begun.
        startup_seconds: until the first trial of this run began: Ray, the data, the first actor.
        seconds: from there until the last trial ended.
        resumed: trials that an interrupted sweep had finished.
    """

    records: dict[int, TrialRecord]
    concurrency: int
    slots: int
    startup_seconds: float
    seconds: float
    resumed: int


def trials_at_once(settings: TuneConfig, cores: int | None) -> int:
    """How many trials the cluster's CPUs hold side by side.

    Args:
        settings: `max_concurrent` is an upper bound.
        cores: physical cores of a local Ray, whose logical CPUs may be more; None: a cluster.

    Raises:
        SmpRayError: not even one fits.
    """
    import ray

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


def run_sweep(
    settings: TuneConfig,
    max_bin: int,
    workspace: Workspace,
    folder: str,
    posts: int,
    folds: Callable[[], list[FoldData]],
    cores: int | None,
) -> Sweep:
    """Run all trials that have no record yet.

    Args:
        settings: the sweep's configuration.
        max_bin: histogram bins a column.
        workspace: where `folder` lies.
        folder: the artefact's folder: `trials/`, `sweep.json` and Ray's own files in `sweep/`.
        posts: number of posts in `Splits`.
        folds: loads the data; called only if there is a trial to run.
        cores: physical cores of a local Ray; None: a cluster.

    Raises:
        SmpRayError: a trial does not fit the cluster, or Ray Tune ended early.
        DataError: the objective is undefined for a label.
    """
    began = time.time()
    concurrency = trials_at_once(settings, cores)
    slots = _kept_slots(concurrency, workspace, folder)
    files = TrialFiles(workspace, f"{folder}/trials")
    recorded = files.records()
    used = max((record.started_after_seconds + record.seconds for record in recorded.values()), default=0.0)
    rehearsal = InOrder(settings, slots, posts, recorded, deadline=_deadline(settings, time.time() - used))
    if rehearsal.suggest("rehearsal") == InOrder.FINISHED:
        return Sweep(rehearsal.ended, concurrency, slots, round(time.time() - began, 3), 0.0, len(rehearsal.ended))
    data = folds()
    check_labels([fold.validation_popularity for fold in data], settings.objective)
    shared = share_folds(data, trial_params(settings, max_bin, 0, {}))
    del data
    clock = time.time() - used
    deadline = _deadline(settings, clock)
    context = TrialContext(uuid.uuid4().hex, settings, max_bin, posts, shared, files, clock, deadline)
    search = InOrder(settings, slots, posts, recorded, on_end=files.write_record, deadline=deadline)
    _run(context, search, concurrency, folder)
    if len(search.ended) < settings.trials and (deadline is None or time.time() < deadline):
        raise SmpRayError(f"the sweep ended after {len(search.ended)} of {settings.trials} trials; run it again")
    fresh = [record for number, record in search.ended.items() if recorded.get(number) != record]
    now = time.time() - clock  # the time budget may end before the first trial begins
    first = min((record.started_after_seconds for record in fresh), default=now) + clock
    last = max((record.started_after_seconds + record.seconds for record in fresh), default=now) + clock
    return Sweep(
        search.ended,
        concurrency,
        slots,
        round(first - began, 3),
        round(last - first, 3),
        len(search.ended) - len(fresh),
    )


class _KeepingActors(OrderedASHA):
    """Has Tune keep the actors of trials that ended, while the next ones wait for results.

    Tune keeps one idle actor and ends all others, which then take seconds to start again. Without these internals of
    Ray's the sweep only runs more slowly.
    """

    kept = 0

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        controller: Any = getattr(tune_controller, "_tune_controller", None)
        cache: Any = getattr(controller, "_actor_cache", None)
        if self.kept and hasattr(cache, "increase_max"):
            cache.increase_max(trial.placement_group_factory, by=self.kept)
            self.kept = 0


def _deadline(settings: TuneConfig, clock_began: float) -> float | None:
    return None if settings.time_budget_s is None else clock_began + settings.time_budget_s


def _kept_slots(concurrency: int, workspace: Workspace, folder: str) -> int:
    """The slots with which the sweep was begun, on whatever cluster it goes on: they decide what is suggested."""
    known = workspace.read_json(folder, "sweep.json")
    if known is None:
        known = {"slots": concurrency}
        workspace.write_json(known, folder, "sweep.json")
    return int(known["slots"])


def _run(context: TrialContext, search: Any, concurrency: int, folder: str) -> None:
    """Have Ray Tune run what `search` suggests."""
    from ray import tune

    settings, workspace = context.settings, context.files.workspace
    # Without successive halving trials have no rungs to be ended at.
    scheduler = _KeepingActors(settings.asha or AshaConfig(), settings.max_rounds, search.known_to)
    scheduler.kept = concurrency
    workspace.delete_dir(folder, "sweep")  # Ray's notes of an interrupted run; ours are in trials/
    workspace.make_dir(context.files.folder)
    with _quiet():
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, context=context), {"CPU": settings.cpus_per_trial}),
            tune_config=tune.TuneConfig(
                search_alg=search, scheduler=scheduler, max_concurrent_trials=concurrency, reuse_actors=True,
                num_samples=-1, trial_name_creator=_name, trial_dirname_creator=_name,  # -1: `search` says when to end
            ),
            run_config=tune.RunConfig(
                name="sweep", storage_path=workspace.path(folder), storage_filesystem=workspace.filesystem, verbose=0,
            ),
        )  # fmt: skip

        def ask() -> tuple[int, int | None, str]:
            ended = list(search.ended.values())
            values = [record.objective for record in ended if record.objective is not None]
            note = f"best {settings.objective.upper()} {min(values):.4g}" if values else "no result yet"
            return len(ended), settings.trials, note

        with Reporter("sweep", "trials") as reporter, polled(reporter, ask):
            tuner.fit()


def _name(trial: Any) -> str:
    return f"trial-{trial.config['number']:05d}"


@contextmanager
def _quiet() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _QUIET}
    logger = logging.getLogger("ray.tune")
    level = logger.level
    os.environ.update(_QUIET)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
