"""A small world of embeddings, written straight into a workspace as posts and clip artefacts.

Popularity depends on the image, on the title, and on both together: a product that neither alone can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from smp_ray.config import Config, build_config
from smp_ray.families.registry import find
from smp_ray.models.adapter import AdapterBank
from smp_ray.ray_session import RaySession
from smp_ray.run import Run
from smp_ray.schema import KEYS, NO_IMAGE, OK, POSTS
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import write_table
from smp_ray.store.wide import wide
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.apply import Adapters
from smp_ray.training.adapter.fit import Collate
from smp_ray.training.adapter.loop import BankTraining, Rows, in_memory
from smp_ray.training.adapter.plan import assign, plan_adapters
from smp_ray.training.adapter.rows import Embeddings
from smp_ray.training.splits import Splits, load_splits
from tests.training.runs import brought, run_with

#: All that matters, so that no test depends on what the defaults are tuned to.
FAST: dict[str, Any] = {
    "bottleneck": 8, "head_width": 16, "residual_ratio": 0.6, "dropout": 0.1, "learning_rate": 1e-2,
    "weight_decay": 1e-4, "batch_size": 64, "max_epochs": 6, "patience": 6, "holdout": 0.1,
}  # fmt: skip


@dataclass(frozen=True)
class World:
    workspace: Workspace
    posts: Manifest
    clip: Manifest
    labelled: Manifest
    folds: Manifest
    splits: Splits
    split: dict[str, Any]

    @property
    def table(self) -> pa.Table:
        """All posts with their embeddings, in the order of ingest."""
        return pa.concat_tables(wide(self.workspace, self.posts, [self.clip]))

    @property
    def embeddings(self) -> Embeddings:
        return Embeddings(self.workspace, self.labelled, "clip", ("clip_image", "clip_title"))

    def config(self, **adapter: Any) -> Config:
        return build_config(
            {
                "workspace": self.workspace.uri,
                "source": {"kind": "demo"},
                "features": {"families": ["clip"]},
                "training": {"split": self.split, "adapter": {**FAST, **adapter}},
            }
        )

    def run(self, session: RaySession | None = None, **adapter: Any) -> Run:
        return run_with(self.config(**adapter), session, gather=self.labelled, splits=self.folds)

    def adapt(self, session: RaySession, **adapter: Any) -> Manifest:
        return brought(self.run(session, **adapter), "adapt")

    def adapted(self, manifest: Manifest) -> pa.Table:
        """All posts with what the adapters of an artefact make of them, in the order of ingest."""
        return Adapters.of(self.workspace, manifest, self.folds).beside(self.table)

    def relabelled(self, rows: np.ndarray) -> Splits:
        """The splits with the labels of some posts, bool (posts,), shuffled among themselves and raised."""
        popularity = self.splits.popularity.copy()
        popularity[rows] = np.random.default_rng(9).permutation(popularity[rows]) + 1
        return replace(self.splits, popularity=popularity)


def make_world(
    folder: Path,
    posts: int = 480,
    width: int = 16,
    kind: str = "user",
    folds: int = 3,
    missing: float = 0.1,
    seed: int = 0,
) -> World:
    workspace = Workspace.open(str(folder))
    chance = np.random.default_rng(seed)
    image, title = (_unit(chance.normal(size=(posts, width))) for _ in range(2))
    no_image, no_title = chance.random((2, posts)) < missing
    directions = _unit(chance.normal(size=(4, width)))
    a, b, c, d = (
        np.sqrt(width) * side @ way for side, way in zip((image, title, image, title), directions, strict=True)
    )
    noise = chance.normal(size=posts) * 0.3
    popularity = (
        6 + np.where(no_image, 0, a) + np.where(no_title, 0, b) + np.where(no_image | no_title, 0, c * d) + noise
    )
    ids = chance.permutation(10 * posts)[:posts]
    rows = [
        {
            "row_id": int(ids[i]), "post_id": f"p{i}", "user_id": f"u{chance.integers(posts // 8)}",
            "split": "test" if i % 10 == 9 else "train", "title": None if no_title[i] else "a title",
            "popularity": None if i % 10 == 9 else float(popularity[i]),
            "posted_at": datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=int(i)),
        }
        for i in range(posts)
    ]  # fmt: skip
    cut = posts // 3
    posts_manifest = _artefact(
        workspace, "ingest", [pa.Table.from_pylist(part, POSTS) for part in (rows[:cut], rows[cut:])]
    )
    embedded = [
        {
            "row_id": int(ids[i]), "post_id": f"p{i}", "clip_status": NO_IMAGE if no_image[i] else OK,
            "clip_image": None if no_image[i] else image[i].astype(np.float16),
            "clip_title": None if no_title[i] else title[i].astype(np.float16),
        }
        for i in chance.permutation(posts)
    ]  # fmt: skip
    fields = find("clip").fields(width)
    parts = [pa.Table.from_pylist(embedded[start::2], pa.schema([*KEYS, *fields])) for start in range(2)]
    details = {
        "width": width,
        "columns": [column.name for column in fields],
        "covers": {posts_manifest.fingerprint: {}},
    }
    clip = _artefact(workspace, "features/clip", parts, details)
    split = {"kind": kind, "folds": folds}
    features = {"families": ["clip"]}
    raw = {"workspace": str(folder), "source": {"kind": "demo"}, "features": features, "training": {"split": split}}
    config = build_config(raw)
    run = run_with(config, ingest=posts_manifest, features={"clip": clip})
    labelled, made = brought(run, "gather"), brought(run, "splits")
    return World(workspace, posts_manifest, clip, labelled, made, load_splits(workspace, made), split)


def training(world: World, splits: Splits | None = None, **adapter: Any) -> tuple[BankTraining, Rows]:
    """A training that has not begun and its rows, without Ray."""
    splits = splits or world.splits
    settings = world.config(**adapter).training.adapter
    plan = plan_adapters(splits, settings, world.embeddings.present()[0])
    tables = [pq.read_table(path) for path in world.embeddings.files]
    rows = Collate(plan, world.embeddings.columns)(pa.concat_tables(tables))
    return BankTraining(settings, plan, rows["image"].shape[1]), rows


def trained(world: World, splits: Splits | None = None, **adapter: Any) -> BankTraining:
    """The same training as `adapt`, by one worker in this process."""
    torch.set_num_threads(1)
    begun, rows = training(world, splits, **adapter)
    while not begun.done:
        begun.run_epoch(in_memory(rows))
    return begun


def applied(world: World, bank: AdapterBank) -> pa.Table:
    """All posts with what a bank makes of them, in the order of ingest."""
    order = np.argsort(world.splits.row_ids)
    assigned = assign(world.splits, 0)[order]
    adapters = Adapters(bank.to_bytes(), ("clip_image", "clip_title"), world.splits.row_ids[order], assigned)
    return adapters.beside(world.table)


def _artefact(
    workspace: Workspace, stage: str, parts: Sequence[pa.Table], details: dict[str, Any] | None = None
) -> Manifest:
    key = "0123456789abcdef"
    fragments = [
        write_table(workspace, f"{stage}/{key}/part-{number}.parquet", part) for number, part in enumerate(parts)
    ]
    rows = sum(part.num_rows for part in parts)
    return workspace.commit(
        Manifest(stage=stage, fingerprint=key, config={}, rows=rows, fragments=fragments, details=details or {})
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
