"""One worker of Ray Train: reads its shard through Ray Data, trains, reports a checkpoint every epoch."""

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

_HISTORY = ("adapter", "epoch", "train_loss", "heldout_loss", "heldout_mae")


@dataclass(frozen=True)
class AdaptTask:
    """All that a worker needs to know besides the embeddings; `folder` is the artefact's, in the workspace."""

    settings: AdapterConfig
    plan: AdapterPlan
    folds: int
    width: int
    workspace: Workspace
    folder: str
    #: Rows that a worker keeps in memory, where there are more.
    streamed: int | None


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
    # A kill may lose an epoch's checkpoint, but not the note of where each start went on.
    before = task.workspace.read_json(task.folder, PROGRESS) or {"starts": []}
    starts = [*before["starts"], training.epoch]
    source = shard_source(ray.train.get_dataset_shard(DATASET), task.plan, task.streamed)
    began = time.monotonic()
    while True:
        if training.rank == 0:
            _progress(task, training, starts, time.monotonic() - began)
        if training.done:
            break
        training.run_epoch(source)
        _report(training)
    if training.rank == 0:
        history = dict(zip(_HISTORY, map(pa.array, zip(*training.history, strict=True)), strict=True))
        write_table(task.workspace, f"{task.folder}/{HISTORY}", pa.table(history))
        # Whoever finds the adapters finds all of them, and the history.
        task.workspace.write(training.result().to_bytes(), task.folder, ADAPTERS)


def shard_source(shard: ray.data.DataIterator, plan: AdapterPlan, streamed: int | None) -> Source:
    """A worker's rows: read once where they fit into memory, else streamed by every epoch and shuffled by Ray Data."""

    def stream(size: int, seed: int | None) -> Iterable[Rows]:
        buffer = None if seed is None or streamed is None else max(streamed, size)
        return shard.iter_torch_batches(
            batch_size=size, collate_fn=Collate(plan), local_shuffle_buffer_size=buffer, local_shuffle_seed=seed
        )

    if streamed is not None:
        return stream
    pieces = list(stream(PIECE, None))
    return in_memory({name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]})


class Collate(ArrowBatchCollateFn):
    """An Arrow batch as tensors, with the posts' labels and roles."""

    def __init__(self, plan: AdapterPlan) -> None:
        super().__init__()
        self._plan = plan

    def __call__(self, batch: pa.Table) -> dict[str, Tensor]:  # type: ignore[override]  # Ray's is a bare type variable
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


def _progress(task: AdaptTask, training: BankTraining, starts: list[int], seconds: float) -> None:
    """Leave a note for the driver, who shows it."""
    now = {"epoch": training.epoch, "seconds": seconds, "workers": training.world, "starts": starts,
           "best_epochs": training.best_epoch.tolist()}  # fmt: skip
    task.workspace.write_json(now, task.folder, PROGRESS)
