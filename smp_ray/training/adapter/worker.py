"""One worker of Ray Train: reads the input through Ray Data, trains, reports a checkpoint every epoch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.train
import ray.train.torch
import torch
from ray.data.collate_fn import ArrowBatchCollateFn
from torch import Tensor

from smp_ray.config import AdapterConfig
from smp_ray.errors import SmpRayError
from smp_ray.store.join import vectors
from smp_ray.store.parquet import write_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.loop import BankTraining, Rows, WorkerShare
from smp_ray.training.adapter.rows import ADAPTERS, HISTORY, PIECE, PROGRESS, AdapterInput, shuffle_key

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
    """All that a worker needs to know besides the rows; small, pickled into every worker."""

    settings: AdapterConfig
    data: AdapterInput
    folds: int
    workspace: Workspace
    #: Of the artefact, relative to the workspace.
    folder: str


def train_worker(config: dict[str, Any]) -> None:
    """What Ray Train runs in each worker; `config["task"]` is an `AdaptTask`."""
    task: AdaptTask = config["task"]
    # Ray gives a worker as many threads as CPUs at best; torch would take the whole machine in each.
    torch.set_num_threads(max(1, int(task.settings.cpus_per_worker)))
    context = ray.train.get_context()
    share = WorkerShare(context.get_world_rank(), context.get_world_size())
    training = BankTraining(task.settings, task.data, task.folds, ray.train.torch.get_device())
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        training.load(_load(checkpoint))
    training.starts.append(training.epoch)
    source = RowSource(task, ray.train.get_dataset_shard(DATASET), training)
    began = time.monotonic()
    _progress(task, share, training, began)
    while not training.done:
        training.run_epoch(source, share)
        _report(training, share)
        _progress(task, share, training, began)
    if share.rank == 0:
        _write_result(task, training)


class RowSource:
    """Walks through the input as Ray Data streams it; where it fits into memory, it is streamed once and kept.

    A part has as many rows as fit into `memory_mb`. Rows are shuffled within a part, and the input is in random order
    already, so that a stream of several parts is shuffled about as well as one that is in memory as a whole.
    """

    def __init__(self, task: AdaptTask, shard: Any, training: BankTraining) -> None:
        self._shard = shard
        self._data, self._seed = task.data, task.settings.seed
        self._device = training.device
        # Whole batches, so that only the last batch of an epoch may be smaller.
        batches = max(1, task.settings.memory_mb * 2**20 // (task.data.row_bytes * training.batch))
        self.part_rows = min(task.data.rows, batches * training.batch)
        self._whole: Rows | None = None

    def __call__(self) -> Iterable[Rows]:
        """The input in parts; the last may be smaller."""
        if self._whole is not None:
            return [self._whole]
        return self._stream()

    def _stream(self) -> Iterator[Rows]:
        stream = iter(self._shard.iter_torch_batches(batch_size=PIECE, collate_fn=_Collate(), device="cpu"))
        left: Rows = {}
        key = np.zeros(1, dtype=np.uint64)
        for start in range(0, self._data.rows, self.part_rows):
            part: dict[str, Tensor] = {}
            filled, size = 0, min(self.part_rows, self._data.rows - start)
            while filled < size:
                batch = left if left else next(stream, None)
                if batch is None:
                    raise SmpRayError(f"the adapters' input ended after {start + filled:,} of {self._data.rows:,} rows")
                taken = min(size - filled, len(batch["row_id"]))
                for name, values in batch.items():
                    whole = part.setdefault(name, values.new_empty((size, *values.shape[1:])))
                    whole[filled : filled + taken] = values[:taken]
                left = {name: values[taken:] for name, values in batch.items()} if taken < len(batch["row_id"]) else {}
                filled += taken
            # Workers add up gradients of the same batches only if all see the same rows in the same order.
            key = np.append(key[-1:], shuffle_key(part.pop("row_id").numpy(), self._seed))
            if (key[1:] < key[:-1]).any():
                raise SmpRayError("Ray Data handed the adapters' input on in another order than it was written")
            rows = {name: values.to(self._device) for name, values in part.items()}
            if size == self._data.rows:
                self._whole = rows
            yield rows


class _Collate(ArrowBatchCollateFn):
    """An Arrow batch as tensors, without the detour through arrays of objects."""

    def __call__(self, batch: pa.Table) -> dict[str, Tensor]:
        found = {
            "row_id": batch["row_id"].to_numpy(),
            "image": vectors(batch["image"]),
            "title": vectors(batch["title"]),
            "has_image": batch["has_image"].to_numpy(),
            "has_title": batch["has_title"].to_numpy(),
            "popularity": batch["popularity"].to_numpy(),
            "roles": vectors(batch["roles"]),
        }
        return {name: torch.tensor(values) for name, values in found.items()}


def _load(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    with checkpoint.as_directory() as folder:
        return dict(torch.load(Path(folder) / _STATE_FILE, map_location="cpu", weights_only=True))


def _report(training: BankTraining, share: WorkerShare) -> None:
    """Hand the state to Ray Train; every worker must come here, the first one brings the files."""
    if share.rank:
        ray.train.report({})
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(training.state(), Path(folder) / _STATE_FILE)
        ray.train.report({"epoch": training.epoch}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _progress(task: AdaptTask, share: WorkerShare, training: BankTraining, began: float) -> None:
    """Leave a note for the driver, who shows it."""
    if share.rank:
        return
    now = {
        "epoch": training.epoch,
        "seconds": time.monotonic() - began,
        "workers": share.world,
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
