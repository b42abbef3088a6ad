"""The adapt stage: train one CLIP-Adapter a fold with Ray Train, then give every post its adapted features.

The artefact holds `data/` (a stored family, as feature families are), `adapters.safetensors`, `history.parquet` and
`progress.json`. Interrupted, it goes on from what is there: the input, the last epoch, the trained adapters.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from smp_ray.config import ADAPTED, AdapterConfig, embeddings
from smp_ray.errors import DataError, SmpRayError
from smp_ray.progress import Reporter, polled, say
from smp_ray.run import Run
from smp_ray.store.manifest import Fragment, Made, Manifest
from smp_ray.store.parquet import read_table
from smp_ray.store.reader import FamilyReader
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.apply import Assigned, adapted_fields, apply_fragment
from smp_ray.training.adapter.plan import assign
from smp_ray.training.adapter.rows import (
    ADAPTERS,
    HISTORY,
    INPUT,
    PROGRESS,
    TRAIN,
    AdapterInput,
    Embeddings,
    write_input,
)
from smp_ray.training.splits import Splits, load_splits


def adapt(run: Run, folder: str, posts: Manifest, store: dict[str, Manifest], splits: Manifest) -> Made:
    """Train the adapters and write what they make of every post's embeddings.

    Args:
        run: the command's run.
        folder: of the artefact.
        posts: the posts artefact.
        store: the family that embeds image and title.
        splits: the splits artefact.

    Raises:
        DataError: no labelled post has an image or a title, or too few for the folds.
        ConfigError: the workers do not fit into the cluster.
        SmpRayError: the training failed for good; running again goes on from its last epoch.
    """
    embedder = embeddings(run.config)
    assert embedder is not None  # else the configuration has no adapted features
    family, (image, title) = embedder
    opened = _remote(_open).remote(run.workspace, store[family], image, title)
    return _Adapt(run, folder, posts, opened, store[family].details["width"], load_splits(run.workspace, splits)).make()


@dataclass
class _Adapt:
    run: Run
    folder: str
    posts: Manifest
    #: Reference to the posts' `Embeddings`, which Ray's workers share.
    embeddings: Any
    width: int
    splits: Splits
    #: Wall time of each part.
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def settings(self) -> AdapterConfig:
        return self.run.config.training.adapter

    @property
    def workspace(self) -> Workspace:
        return self.run.workspace

    def make(self) -> Made:
        if not self.workspace.exists(self.folder, ADAPTERS):
            with self._timed("prepare"):
                data = self._prepare()
            with self._timed("train"):
                self._train(data)
        with self._timed("apply"):
            fragments, counts = self._apply()
        made = self._made(fragments, counts)
        for leftover in (INPUT, TRAIN):
            self.workspace.delete_dir(self.folder, leftover)
        return made

    def _prepare(self) -> AdapterInput:
        # The ids of posts are long and of no use here.
        splits = replace(self.splits, post_ids=np.empty(0, dtype=object))
        folder = f"{self.folder}/{INPUT}"
        task = _remote(write_input).remote(self.embeddings, self.workspace, folder, splits, self.settings)
        _import_ray_train()  # takes seconds, so it happens while the task reads
        data: AdapterInput | None = _get(task)
        if data is None:
            raise DataError(
                f"none of the {len(self.splits.row_ids):,} labelled posts has an image or a title that was embedded, "
                f"so there is nothing to adapt; leave {ADAPTED} out of training.matrix.families"
            )
        return data

    def _train(self, data: AdapterInput) -> None:
        from smp_ray.training.adapter.fit import fit, plan_workers
        from smp_ray.training.adapter.worker import AdaptTask

        workers = plan_workers(self.settings)
        say(f"adapt: {len(data.trains)} adapters on {data.rows:,} posts, {workers.describe()}")

        def ask() -> tuple[int, int | None, str]:
            now = self.workspace.read_json(self.folder, PROGRESS)
            return (now["epoch"] if now else 0), self.settings.max_epochs, "" if now else "starting workers"

        with Reporter("adapt", unit="epochs") as reporter, polled(reporter, ask, every=1.0):
            task = AdaptTask(self.settings, data, self.splits.count, self.workspace, self.folder)
            fit(task, workers, alone=self.run.session.cores is not None)

    def _apply(self) -> tuple[list[Fragment], dict[str, int]]:
        import ray

        self.workspace.delete_dir(self.folder, "data")  # of an interrupted run
        weights = ray.put(self.workspace.read(self.folder, ADAPTERS))
        assigned = ray.put(Assigned.of(self.splits.row_ids, assign(self.splits, self.settings.seed)))
        task = _remote(apply_fragment, cpus=1)
        names = (f"{self.folder}/data/part-{number:05d}.parquet" for number in range(len(self.posts.fragments)))
        found = _get(
            [
                task.remote(weights, self.embeddings, self.workspace, posts, assigned, name)
                for posts, name in zip(self.posts.fragments, names, strict=True)
            ]
        )
        counts: Counter[str] = Counter()
        for _, part in found:
            counts.update(part)
        if counts.total() != self.posts.rows:
            raise SmpRayError(
                f"adapted {counts.total():,} posts of {self.posts.rows:,}: the posts artefact contradicts its "
                f"manifest; delete {self.workspace.path(self.posts.stage, self.posts.fingerprint)} and run again"
            )
        return [fragment for fragments, _ in found for fragment in fragments], dict(counts)

    def _made(self, fragments: list[Fragment], counts: dict[str, int]) -> Made:
        history = read_table(self.workspace, f"{self.folder}/{HISTORY}").to_pylist()
        done = self.workspace.read_json(self.folder, PROGRESS)
        mae = {(row["adapter"], row["epoch"]): round(row["heldout_mae"], 6) for row in history}
        # None where no epoch had a finite loss, so that the adapter stayed as it began.
        heldout = [mae.get((adapter, epoch)) for adapter, epoch in enumerate(done["best_epochs"])]
        known = [value for value in heldout if value is not None]
        learned = f"held-out MAE {sum(known) / len(known):.3f}" if known else "no adapter learned anything"
        details = {
            "width": self.width,
            "columns": [column.name for column in adapted_fields(self.width)],
            "covers": {self.posts.fingerprint: counts},
            "adapters": len(heldout),
            "epochs": done["epoch"],
            "best_epochs": done["best_epochs"],
            "heldout_mae": heldout,
            "workers": done["workers"],
            "starts": done["starts"],
            "seconds": {**self.seconds, "epochs": round(done["seconds"], 3)},
        }
        rows = sum(counts.values())
        note = f"{len(heldout)} adapters, {done['epoch']} epochs, {learned}; {rows:,} posts"
        return Made(rows=rows, counts=counts, fragments=fragments, details=details, note=note)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[part] = round(time.monotonic() - began, 3)


def _open(workspace: Workspace, manifest: Manifest, image: str, title: str) -> Embeddings:
    return Embeddings(FamilyReader(workspace, manifest), image, title)


def _import_ray_train() -> None:
    import smp_ray.training.adapter.fit  # noqa: F401


def _remote(work: Callable[..., Any], cpus: float = 0.25) -> Any:
    import ray

    return ray.remote(num_cpus=cpus)(work)


def _get(references: Any) -> Any:
    """Results of Ray tasks; what a task raised of our own comes as it was raised."""
    import ray

    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SmpRayError):
            raise error.cause from None
        raise
