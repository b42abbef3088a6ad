"""The adapters' training as one Ray task: it writes the input, then drives one `fit()` of Ray Train."""

import textwrap

import ray
import ray.data
import ray.train
from ray.train.torch import TorchTrainer

from smp_ray.config import ADAPTED, AdapterConfig
from smp_ray.errors import ConfigError, DataError, SmpRayError, WorkspaceError
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.plan import plan_adapters
from smp_ray.training.adapter.rows import INPUT, TRAIN, Embeddings, write_input
from smp_ray.training.adapter.worker import DATASET, AdaptTask, train_worker
from smp_ray.training.splits import Splits

#: CPUs of a task that reads the input for a worker.
READ_CPUS = 0.25


def train(workspace: Workspace, folder: str, embeddings: Embeddings, splits: Splits, settings: AdapterConfig) -> None:
    """Train until every adapter has stopped; goes on from the last epoch where an earlier run broke off.

    Raises:
        ConfigError: the workers do not fit into the cluster.
        DataError: no labelled post has an image or a title, or too few for the folds.
        SmpRayError: workers failed more often than `max_failures`.
    """
    scaling = scaling_config(settings)
    files, present = write_input(embeddings, workspace, f"{folder}/{INPUT}", splits.row_ids)
    if not present.any():
        raise DataError(
            f"none of the {len(splits.row_ids):,} labelled posts has an image or a title that was embedded, "
            f"so there is nothing to adapt; leave {ADAPTED} out of training.matrix.families"
        )
    plan = plan_adapters(splits, settings, present)
    width = int(embeddings.reader.schema.field(embeddings.image).type.list_size)
    # Of a post, a worker keeps two float16 embeddings, a label, two flags and its roles.
    kept = max(1, settings.memory_mb * 2**20 // (4 * width + 6 + plan.roles.shape[1]))
    streamed = kept if plan.rows > kept * scaling.num_workers else None
    name = folder.rpartition("/")[2]
    forget_what_ray_cannot_resume(workspace, folder, name)
    context = ray.data.DataContext.get_current()
    context.use_datasource_v2 = False  # the newer reader needs 10 s more for its first row
    context.enable_progress_bars = False
    context.checkpoint_config = None  # left set by a feature pass, it would give the workers no rows
    data = ray.data.read_parquet(
        [workspace.path(path) for path in files], filesystem=workspace.filesystem, partitioning=None,
        shuffle="files" if streamed else None, num_cpus=READ_CPUS,
    )  # fmt: skip
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"task": AdaptTask(settings, plan, splits.count, width, workspace, folder, streamed)},
        datasets={DATASET: data},
        # One worker sees the same rows in the same order each time, so a resumed training ends as an unbroken one.
        dataset_config=ray.train.DataConfig(
            datasets_to_split="all" if scaling.num_workers != 1 else [],  # dividing costs a process
            execution_options=ray.data.ExecutionOptions(preserve_order=True),
        ),
        scaling_config=scaling,
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=workspace.path(folder, TRAIN),
            storage_filesystem=workspace.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        failure = textwrap.shorten(str(error).strip().splitlines()[-1], 200)
        raise SmpRayError(
            f"the adapters' training stopped: {failure}; running again goes on from its last epoch"
        ) from error


def scaling_config(settings: AdapterConfig) -> ray.train.ScalingConfig:
    """How many workers, and what each takes, decided from what Ray's nodes have.

    Raises:
        ConfigError: the workers do not fit; Ray would wait for them in silence.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    use_gpu = gpus >= 1 if settings.use_gpu is None else settings.use_gpu
    each = {"CPU": settings.cpus_per_worker, **({"GPU": 1.0} if use_gpu else {})}
    count = settings.workers or (max(1, int(gpus)) if use_gpu else 1)
    room = sum(min(int((node.get(kind, 0.0) + 1e-6) // need) for kind, need in each.items()) for node in nodes)
    if room < count or count * settings.cpus_per_worker + READ_CPUS > cpus + 1e-6:
        raise ConfigError(
            f"training.adapter: {count} workers with {settings.cpus_per_worker:g} CPU{' and a GPU' if use_gpu else ''} "
            f"each, and {READ_CPUS:g} CPU to read, do not fit into a cluster of {len(nodes)} nodes with {cpus:g} CPUs "
            f"and {gpus:g} GPUs in all; lower training.adapter.workers or cpus_per_worker, or "
            f"{'set use_gpu to false' if use_gpu else 'set ray.num_cpus (local)'}"
        )
    return ray.train.ScalingConfig(num_workers=count, use_gpu=use_gpu, resources_per_worker=each)


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
