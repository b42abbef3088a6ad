"""The adapters' training as one Ray task: it writes the input, then drives one `fit()` of Ray Train."""

from __future__ import annotations

import textwrap

import numpy as np
import pyarrow.parquet as pq
import ray
import ray.data
import ray.train
from ray.train.torch import TorchTrainer

from smp_ray.config import ADAPTED, AdapterConfig
from smp_ray.errors import DataError, SmpRayError, WorkspaceError
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.plan import plan_adapters
from smp_ray.training.adapter.rows import INPUT, TRAIN, Embeddings, write_input
from smp_ray.training.adapter.worker import DATASET, AdaptTask, train_worker
from smp_ray.training.adapter.workers import READ_CPUS, Workers
from smp_ray.training.splits import Splits


def train(
    workspace: Workspace,
    folder: str,
    embeddings: Embeddings,
    splits: Splits,
    settings: AdapterConfig,
    workers: Workers,
) -> None:
    """Train until every adapter has stopped; goes on from the last epoch where an earlier run broke off.

    Args:
        workspace: where `folder` is.
        folder: of the artefact; what the training leaves there `rows` names.
        embeddings: of the posts.
        splits: the folds (post ids are not needed).
        settings: of the adapter.
        workers: how many, and what each takes.

    Raises:
        DataError: no labelled post has an image or a title, or too few for the folds.
        SmpRayError: workers failed more often than `max_failures`.
    """
    files = write_input(embeddings, workspace, f"{folder}/{INPUT}", splits.row_ids)
    if not files:
        raise DataError(
            f"none of the {len(splits.row_ids):,} labelled posts has an image or a title that was embedded, "
            f"so there is nothing to adapt; leave {ADAPTED} out of training.matrix.families"
        )
    present = np.zeros(len(splits.row_ids), dtype=bool)
    paths = [workspace.path(path) for path in files]
    for path in paths:
        present[pq.read_table(path, columns=["position"], filesystem=workspace.filesystem)["position"].to_numpy()] = (
            True
        )
    plan = plan_adapters(splits, settings, present)
    fit(AdaptTask(settings, plan, splits.count, embeddings.width, workspace, folder), paths, workers)


def fit(task: AdaptTask, paths: list[str], workers: Workers) -> None:
    """Ray Train's `fit()` over the input files."""
    workspace, name = task.workspace, task.folder.rpartition("/")[2]
    forget_what_ray_cannot_resume(workspace, task.folder, name)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.checkpoint_config = None  # left set by a feature pass, it would give the workers no rows
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"task": task},
        datasets={
            DATASET: ray.data.read_parquet(
                paths,
                filesystem=workspace.filesystem,
                partitioning=None,
                shuffle="files" if task.streams(workers.count) else None,
                num_cpus=READ_CPUS,
            )
        },
        # One worker sees the same rows in the same order each time, so a resumed training ends as an unbroken one.
        dataset_config=ray.train.DataConfig(execution_options=ray.data.ExecutionOptions(preserve_order=True)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.count, use_gpu=workers.use_gpu, resources_per_worker=workers.resources
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=workspace.path(task.folder, TRAIN),
            storage_filesystem=workspace.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=task.settings.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        trainer.fit()
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


def _cause(error: BaseException) -> str:
    """Why the training failed, on one line: the first worker's own error."""
    if isinstance(error, ray.train.WorkerGroupError):
        error = error.worker_failures[min(error.worker_failures)]
    elif isinstance(error, ray.train.ControllerError):
        error = error.controller_failure
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None:
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, SmpRayError):
        return str(error)
    return f"{type(error).__name__}: {textwrap.shorten(lines[-1], 200)}" if lines else type(error).__name__
