"""The driver's side of the adapters' training: how many workers, do they fit, and one `fit()` of Ray Train."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any

import ray
import ray.data
import ray.train
from ray.data import DataContext, ExecutionOptions
from ray.train.torch import TorchTrainer

from smp_ray.config import AdapterConfig
from smp_ray.errors import ConfigError, SmpRayError, WorkspaceError
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.rows import FILE_BYTES, TRAIN
from smp_ray.training.adapter.worker import DATASET, AdaptTask, train_worker

#: CPUs of a task that reads the input for a worker.
READ_CPUS = 0.25
#: Seconds between two looks of Ray Train at its workers; every epoch's report waits for one. Ray's own 2 s would make
#: an epoch of a small dataset take 2 s.
_HEALTH_CHECK = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1"}
#: Tries to start workers, on a busy cluster of a minute each; Ray sets itself no limit.
_START_TRIES = 10
#: No cloud takes nodes away from a Ray of our own; watching for it would cost another process.
_ALONE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


@dataclass(frozen=True)
class Workers:
    """The workers of a training and what each takes."""

    count: int
    use_gpu: bool
    cpus: float

    def describe(self) -> str:
        """For the terminal."""
        each = f"{self.cpus:g} CPU{' and a GPU' if self.use_gpu else ''}"
        return f"1 worker with {each}" if self.count == 1 else f"{self.count} workers with {each} each"


def plan_workers(settings: AdapterConfig) -> Workers:
    """Decide from the running Ray's own resources.

    Raises:
        ConfigError: the workers do not fit; Ray would wait for them in silence.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    use_gpu = gpus >= 1 if settings.use_gpu is None else settings.use_gpu
    workers = Workers(settings.workers or (max(1, int(gpus)) if use_gpu else 1), use_gpu, settings.cpus_per_worker)
    room = sum(_room(node, workers) for node in nodes)
    if room < workers.count or workers.count * workers.cpus + READ_CPUS > cpus + 1e-6:
        more = "set use_gpu to false" if use_gpu else "set ray.num_cpus (local)"
        raise ConfigError(
            f"training.adapter: {workers.describe()}, and {READ_CPUS:g} CPU to read, do not fit into a cluster of "
            f"{len(nodes)} node{'' if len(nodes) == 1 else 's'} with {cpus:g} CPUs and {gpus:g} GPUs in all; "
            f"lower training.adapter.workers or cpus_per_worker, or {more}"
        )
    return workers


def _room(node: dict[str, float], workers: Workers) -> int:
    by_cpu = int((node.get("CPU", 0.0) + 1e-6) // workers.cpus)
    return min(by_cpu, int(node.get("GPU", 0.0))) if workers.use_gpu else by_cpu


def fit(task: AdaptTask, workers: Workers, *, alone: bool) -> None:
    """Train until every adapter has stopped; goes on from the last epoch where an earlier run broke off.

    Args:
        task: what the workers are told.
        workers: how many, and what each takes.
        alone: whether Ray is this command's own, so that all of it ends with the command.

    Raises:
        SmpRayError: workers failed more often than `max_failures`.
    """
    name = task.folder.rsplit("/", 1)[-1]
    forget_what_ray_cannot_resume(task.workspace, task.folder, name)
    with _data_context(), _default_environment({**_HEALTH_CHECK, **(_ALONE if alone else {})}):
        trainer = (_LocalTrainer if alone else TorchTrainer)(
            train_worker,
            train_loop_config={"task": task},
            datasets={DATASET: _dataset(task)},
            # All workers see all rows, in the same order.
            dataset_config=ray.train.DataConfig(
                datasets_to_split=[], execution_options=ExecutionOptions(preserve_order=True)
            ),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers.count,
                use_gpu=workers.use_gpu,
                resources_per_worker={"CPU": workers.cpus, **({"GPU": 1} if workers.use_gpu else {})},
            ),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=task.workspace.path(task.folder, TRAIN),
                storage_filesystem=task.workspace.filesystem,
                failure_config=ray.train.FailureConfig(
                    max_failures=task.settings.max_failures, controller_failure_limit=_START_TRIES
                ),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            ),
        )
        try:
            _in_thread(trainer.fit)
        except ray.train.TrainingFailedError as error:
            raise SmpRayError(
                f"the adapters' training stopped: {_cause(error)}; running again goes on from its last epoch"
            ) from error


def forget_what_ray_cannot_resume(workspace: Workspace, folder: str, name: str) -> None:
    """Delete the checkpoints of a run whose record was torn by a kill or is of another version of Ray.

    Ray Train would refuse such a record in this run and in every later one.
    """
    try:
        record = workspace.read_json(folder, TRAIN, name, "checkpoint_manager_snapshot.json")
        if record is None or record.get("ray_version") == ray.__version__:
            return
    except WorkspaceError:
        pass
    workspace.delete_dir(folder, TRAIN)


class _LocalTrainer(TorchTrainer):
    """Without the actor that frees a cluster's resources after a crash.

    It asks Ray's dashboard whether the training is alive. A Ray of our own has no dashboard and dies as a whole, and
    the actor would only keep every training waiting for 12 s at its end.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]


def _dataset(task: AdaptTask) -> ray.data.Dataset:
    paths = [task.workspace.path(path) for path in task.data.files]
    size = task.data.rows * task.data.row_bytes
    return ray.data.read_parquet(
        paths,
        filesystem=task.workspace.filesystem,
        partitioning=None,
        override_num_blocks=max(len(paths), size // FILE_BYTES),
        num_cpus=READ_CPUS,
    )


@contextmanager
def _data_context() -> Iterator[None]:
    """Ray Data's settings for the training: a checkpoint of rows left set by a feature pass would give it no rows."""
    context = DataContext.get_current()
    before = (context.use_datasource_v2, context.enable_progress_bars, context.checkpoint_config)
    context.use_datasource_v2 = False  # the newer reader ignores override_num_blocks
    context.enable_progress_bars = False
    context.checkpoint_config = None
    try:
        yield
    finally:
        context.use_datasource_v2, context.enable_progress_bars, context.checkpoint_config = before


@contextmanager
def _default_environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a while, save those that the user has set."""
    missing = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def _in_thread(work: Callable[[], Any]) -> None:
    """Run Ray Train's `fit` outside the main thread.

    In the main thread it would replace the handler of Ctrl-C for good, by one that ends the command with status 0.
    """
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=run, name="ray-train", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _cause(error: BaseException) -> str:
    """Why the training failed, on one line: the first worker's own error."""
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    current = failures[min(failures)]
    while isinstance(inner := getattr(current, "cause", None) or current.__cause__, BaseException):
        current = inner
    lines = [line.strip() for line in str(current).splitlines() if line.strip()]
    if isinstance(current, SmpRayError):
        return str(current)
    return f"{type(current).__name__}: {textwrap.shorten(lines[-1], 200)}" if lines else type(current).__name__
