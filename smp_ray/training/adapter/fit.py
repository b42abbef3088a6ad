"""The adapters' training on Ray Train.

One task drives one `fit()`; each worker reads its shard of the gathered posts through Ray Data, trains, and reports a
checkpoint every epoch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import ray
import ray.data
import ray.train
import ray.train.torch
import torch
from ray.data.collate_fn import ArrowBatchCollateFn

from smp_ray.config import AdapterConfig
from smp_ray.errors import ConfigError, WorkspaceError
from smp_ray.resources import Node, described
from smp_ray.store.parquet import write_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter import rows
from smp_ray.training.adapter.loop import BankTraining, Rows, Source, in_memory
from smp_ray.training.adapter.plan import AdapterPlan, plan_adapters
from smp_ray.training.ray_train import RUNS, failing, run_config
from smp_ray.training.splits import Splits

#: CPUs of a task that reads the input for a worker.
READ_CPUS = 0.25
_DATASET, _STATE_FILE = "input", "state.pt"
_HISTORY = ("adapter", "epoch", "train_loss", "heldout_loss", "heldout_mae")


def train(
    workspace: Workspace,
    folder: str,
    embeddings: rows.Embeddings,
    splits: Splits,
    settings: AdapterConfig,
    nodes: Sequence[Node],
) -> None:
    """Train until every adapter has stopped; goes on from the last epoch where an earlier run broke off."""
    scaling = scaling_config(settings, nodes)
    present, width = embeddings.present()
    plan = plan_adapters(splits, settings, present)
    # Of a post, a worker keeps two float16 embeddings, a label, two flags and its roles.
    kept = max(1, settings.memory_mb * 2**20 // (4 * width + 6 + plan.roles.shape[1]))
    streamed = kept if len(plan.roles) > kept * scaling.num_workers else None
    name = folder.rpartition("/")[2]
    forget_what_ray_cannot_resume(workspace, folder, name)
    context = ray.data.DataContext.get_current()
    context.use_datasource_v2 = False  # the newer reader needs 10 s more for its first row
    context.enable_progress_bars = False
    context.checkpoint_config = None  # left set by a feature pass, it would give the workers no rows
    data = ray.data.read_parquet(
        embeddings.files, filesystem=workspace.filesystem, columns=["row_id", *embeddings.columns], partitioning=None,
        shuffle="files" if streamed else None, num_cpus=READ_CPUS,
    )  # fmt: skip
    collate = Collate(plan, embeddings.columns)
    trainer = ray.train.torch.TorchTrainer(
        partial(train_worker, settings, collate, width, workspace, folder, streamed),
        datasets={_DATASET: data},
        # One worker sees the same rows in the same order each time, so a resumed training ends as an unbroken one.
        dataset_config=ray.train.DataConfig(
            datasets_to_split="all" if scaling.num_workers != 1 else [],  # dividing costs a process
            execution_options=ray.data.ExecutionOptions(preserve_order=True),
        ),
        scaling_config=scaling,
        run_config=run_config(workspace, folder, name, settings.max_failures),
    )
    with failing("the adapters' training, which goes on from its last epoch when it is run again,"):
        trainer.fit()


def scaling_config(settings: AdapterConfig, nodes: Sequence[Node]) -> ray.train.ScalingConfig:
    """How many workers, and what each takes, decided from the cluster's nodes.

    Raises:
        ConfigError: the workers do not fit; Ray would wait for them in silence.
    """
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    use_gpu = gpus >= 1 if settings.use_gpu is None else settings.use_gpu
    each = {"CPU": settings.cpus_per_worker, **({"GPU": 1.0} if use_gpu else {})}
    count = settings.workers or (max(1, gpus) if use_gpu else 1)
    fit = [int((node.cpus + 1e-6) // settings.cpus_per_worker) for node in nodes]
    room = sum(min(workers, node.gpus) if use_gpu else workers for workers, node in zip(fit, nodes, strict=True))
    if room < count or count * settings.cpus_per_worker + READ_CPUS > cpus + 1e-6:
        raise ConfigError(
            f"training.adapter: {count} workers of {each}, and {READ_CPUS:g} CPU to read, do not fit into a cluster "
            f"with {described(nodes)}; lower training.adapter.workers or cpus_per_worker, set use_gpu to false, or "
            "raise ray.num_cpus (local)"
        )
    return ray.train.ScalingConfig(num_workers=count, use_gpu=use_gpu, resources_per_worker=each)


def forget_what_ray_cannot_resume(workspace: Workspace, folder: str, name: str) -> None:
    """Delete the checkpoints of a run whose record was torn by a kill or is of another version of Ray.

    Ray Train would refuse such a record in this run and in every later one.
    """
    try:
        record = workspace.read_json(folder, RUNS, name, "checkpoint_manager_snapshot.json")
    except WorkspaceError:
        record = {}
    if record is not None and record.get("ray_version") != ray.__version__:
        workspace.delete_dir(folder, RUNS)


def train_worker(
    settings: AdapterConfig, collate: Collate, width: int, workspace: Workspace, folder: str, streamed: int | None
) -> None:
    """What Ray Train runs in each worker; `folder` is the artefact's, `streamed` as in `shard_source`."""
    # Ray gives a worker as many threads as CPUs at best; torch would take the whole machine in each.
    torch.set_num_threads(max(1, int(settings.cpus_per_worker)))
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    training = BankTraining(settings, collate.plan, width, ray.train.torch.get_device(), rank, world)
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as saved:
            training.load(torch.load(Path(saved) / _STATE_FILE, map_location="cpu", weights_only=True))
    training.model = ray.train.torch.prepare_model(training.bank)
    # A kill may lose an epoch's checkpoint, but not the note of where each start went on.
    before = workspace.read_json(folder, rows.PROGRESS) or {"starts": []}
    starts = [*before["starts"], training.epoch]
    source = shard_source(ray.train.get_dataset_shard(_DATASET), collate, streamed)
    while True:
        if rank == 0:
            workspace.write_json({"epoch": training.epoch, "workers": world, "starts": starts}, folder, rows.PROGRESS)
        if training.done:
            break
        training.run_epoch(source)
        checkpoint = None
        with tempfile.TemporaryDirectory() as saved:
            if rank == 0:
                torch.save(training.state(), Path(saved) / _STATE_FILE)
                checkpoint = ray.train.Checkpoint.from_directory(saved)
            ray.train.report({}, checkpoint=checkpoint)  # every worker must come here
    if rank == 0:
        history = pa.table(dict(zip(_HISTORY, map(pa.array, zip(*training.history, strict=True)), strict=True)))
        write_table(workspace, f"{folder}/{rows.HISTORY}", history)
        # Whoever finds the adapters finds all of them, and the history.
        workspace.write(training.result().to_bytes(), folder, rows.ADAPTERS)


def shard_source(shard: ray.data.DataIterator, collate: Collate, streamed: int | None) -> Source:
    """A worker's rows: read once, or streamed by every epoch and shuffled in parts of so many `streamed` rows."""

    def stream(size: int, seed: int | None) -> Iterable[Rows]:
        buffer = None if seed is None or streamed is None else max(streamed, size)
        return shard.iter_torch_batches(
            batch_size=size, collate_fn=collate, local_shuffle_buffer_size=buffer, local_shuffle_seed=seed
        )

    if streamed is not None:
        return stream
    pieces = list(stream(rows.PIECE, None))
    return in_memory({name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]})


@dataclass
class Collate(ArrowBatchCollateFn):
    """An Arrow batch as tensors, with the posts' labels and roles; `columns` are those of the embeddings."""

    plan: AdapterPlan
    columns: tuple[str, str]

    def __call__(self, batch: pa.Table) -> dict[str, torch.Tensor]:  # type: ignore[override]  # Ray's is a type variable
        """The tensors of `Rows`."""
        position = self._index.get_indexer(batch["row_id"].to_numpy())
        found = {"popularity": self.plan.popularity[position], "roles": self.plan.roles[position]}
        return {name: torch.tensor(values) for name, values in (found | rows.inputs(batch, self.columns)).items()}

    @cached_property
    def _index(self) -> pd.Index:
        return pd.Index(self.plan.row_ids)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_index"}
