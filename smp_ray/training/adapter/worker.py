"""One worker of Ray Train: reads its shard through Ray Data, trains, reports a checkpoint every epoch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.train
import ray.train.torch
import torch
from ray.data.collate_fn import ArrowBatchCollateFn
from torch import Tensor

from smp_ray.config import AdapterConfig
from smp_ray.store.join import vectors
from smp_ray.store.parquet import write_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.loop import BankTraining, Rows, Source, in_memory
from smp_ray.training.adapter.plan import AdapterPlan
from smp_ray.training.adapter.rows import ADAPTERS, HISTORY, PIECE, PROGRESS

#: Name of the dataset that Ray Train hands to its workers.
DATASET = "input"
_STATE_FILE = "state.pt"

HISTORY_SCHEMA = pa.schema(
    [
        pa.field("adapter", pa.int32(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("train_loss", pa.float64(), nullable=False),
        pa.field("heldout_loss", pa.float64(), nullable=False),
        pa.field("heldout_mae", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class AdaptTask:
    """All that a worker needs to know besides the embeddings; `folder` is the artefact's, in the workspace."""

    settings: AdapterConfig
    plan: AdapterPlan
    folds: int
    width: int
    workspace: Workspace
    folder: str

    @property
    def row_bytes(self) -> int:
        """Memory that a post takes in a worker: two float16 embeddings, label, flags and roles."""
        return 4 * self.width + 4 + 2 + self.plan.roles.shape[1]

    @property
    def kept(self) -> int:
        """Rows that a worker may keep in memory."""
        return max(1, self.settings.memory_mb * 2**20 // self.row_bytes)

    def streams(self, workers: int) -> bool:
        """Whether a worker's share of the rows is more than it may keep."""
        return self.plan.rows > self.kept * workers


def train_worker(config: dict[str, Any]) -> None:
    """What Ray Train runs in each worker; `config["task"]` is an `AdaptTask`."""
    task: AdaptTask = config["task"]
    # Ray gives a worker as many threads as CPUs at best; torch would take the whole machine in each.
    torch.set_num_threads(max(1, int(task.settings.cpus_per_worker)))
    context = ray.train.get_context()
    training = BankTraining(
        task.settings, task.plan, task.folds, task.width,
        device=ray.train.torch.get_device(), rank=context.get_world_rank(), world=context.get_world_size(),
    )  # fmt: skip
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            training.load(torch.load(Path(folder) / _STATE_FILE, map_location="cpu", weights_only=True))
    training.model = ray.train.torch.prepare_model(training.bank)
    training.starts.append(training.epoch)
    source = shard_source(ray.train.get_dataset_shard(DATASET), task, training.world)
    began = time.monotonic()
    _progress(task, training, began)
    while not training.done:
        training.run_epoch(source)
        _report(training)
        _progress(task, training, began)
    if training.rank == 0:
        _write_result(task, training)


def shard_source(shard: ray.data.DataIterator, task: AdaptTask, workers: int) -> Source:
    """A worker's rows: read once where they fit into memory, else streamed by every epoch and shuffled by Ray Data."""
    collate = Collate(task.plan)

    def stream(size: int, seed: int | None) -> Iterable[Rows]:
        buffer = None if seed is None else max(task.kept, size)
        return shard.iter_torch_batches(
            batch_size=size, collate_fn=collate, local_shuffle_buffer_size=buffer, local_shuffle_seed=seed
        )

    if task.streams(workers):
        return stream
    pieces = list(stream(PIECE, None))
    return in_memory({name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]})


class Collate(ArrowBatchCollateFn):
    """An Arrow batch as tensors, with the posts' labels and roles."""

    def __init__(self, plan: AdapterPlan) -> None:
        super().__init__()
        self._plan = plan

    def __call__(self, batch: pa.Table) -> dict[str, Tensor]:
        """The tensors of `Rows`."""
        position = batch["position"].to_numpy()
        found = {name: vectors(batch[name]) for name in ("image", "title")}
        found |= {name: batch[name].to_numpy() for name in ("has_image", "has_title")}
        found |= {"popularity": self._plan.popularity[position], "roles": self._plan.roles[position]}
        return {name: torch.tensor(values) for name, values in found.items()}


def _report(training: BankTraining) -> None:
    """Hand the state to Ray Train; every worker must come here, the first one brings the files."""
    if training.rank:
        ray.train.report({})
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(training.state(), Path(folder) / _STATE_FILE)
        ray.train.report({"epoch": training.epoch}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _progress(task: AdaptTask, training: BankTraining, began: float) -> None:
    """Leave a note for the driver, who shows it."""
    if training.rank:
        return
    now = {
        "epoch": training.epoch,
        "seconds": time.monotonic() - began,
        "workers": training.world,
        "starts": training.starts,
        "best_epochs": training.best_epoch.tolist(),
    }
    task.workspace.write_json(now, task.folder, PROGRESS)


def _write_result(task: AdaptTask, training: BankTraining) -> None:
    columns = [list(values) for values in zip(*training.history, strict=True)]
    table = pa.Table.from_arrays([pa.array(values) for values in columns], HISTORY_SCHEMA.names).cast(HISTORY_SCHEMA)
    write_table(task.workspace, f"{task.folder}/{HISTORY}", table)
    # Whoever finds the adapters finds all of them, and the history.
    task.workspace.write(training.result().to_bytes(), task.folder, ADAPTERS)
