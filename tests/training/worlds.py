"""Small stored worlds for the tests of training: posts and feature families written straight into a workspace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from smp_ray.config import Config, build_config
from smp_ray.families.registry import find
from smp_ray.schema import KEYS, POSTS
from smp_ray.store.join import locate
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import write_table
from smp_ray.store.wide import wide
from smp_ray.store.workspace import Workspace
from smp_ray.training.matrix.columns import Columns, columns_from
from smp_ray.training.splits import Splits

WIDTH = 8
#: All groups of the matrix that these worlds have columns for.
GROUPS = ("metadata", "text", "clip", "similarity", "perplexity")
FIRST = 1_500_000_000


def world_config(folder: Path, families: tuple[str, ...] = ("clip", "perplexity"), **training: Any) -> Config:
    source = {"kind": "demo"}
    raw = {"workspace": str(folder), "source": source, "features": {"families": list(families)}, "training": training}
    return build_config(raw)


def gathered(workspace: Workspace, posts: Manifest, stored: dict[str, Manifest], groups: Sequence[str]) -> Columns:
    """What some groups of the matrix are made of, for all posts, labelled or not."""
    return columns_from(wide(workspace, posts, list(stored.values())), list(stored), groups)


def aligned(row_ids: np.ndarray, splits: Splits, fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Popularity, user codes and the training mask of a fold for given posts."""
    place = locate(row_ids, splits.row_ids)
    return splits.popularity[place], splits.users[place], splits.training(fold)[place]


class World:
    """Posts with planted effects: of the user, of perplexity, of image and title."""

    def __init__(self, folder: Path, posts: int = 200, users: int = 40, seed: int = 0, unlabelled: int = 0) -> None:
        self.workspace = Workspace.open(str(folder))
        rng = np.random.default_rng(seed)
        self.ids = np.arange(10, 10 + posts, dtype=np.int64)
        self.user_numbers = rng.integers(0, users, posts)
        self.image = _unit(rng.normal(size=(posts, WIDTH)))
        self.title = _unit(rng.normal(size=(posts, WIDTH)))
        self.nll = rng.uniform(1, 9, posts)
        reach = rng.normal(size=users)[self.user_numbers]
        score = reach + 1.5 * self.image[:, 0] * np.sign(self.title[:, 1]) - 0.3 * self.nll
        self.popularity = np.round(6 + score + 0.3 * rng.normal(size=posts), 2)
        labels: list[float | None] = self.popularity.tolist()
        labels[posts - unlabelled :] = [None] * unlabelled
        self.columns: dict[str, Any] = {
            "row_id": self.ids,
            "post_id": [f"post {number}" for number in self.ids],
            "user_id": [f"user {number}" for number in self.user_numbers],
            "split": ["train"] * (posts - unlabelled) + ["test"] * unlabelled,
            "title": [
                f"a {'good' if nll < 5 else 'bad'} title{' very' * (n % 3)}, number {n}"
                for n, nll in enumerate(self.nll)
            ],
            "tags": [["one", "two"][: n % 3] for n in range(posts)],
            "posted_at": pa.array((FIRST + rng.integers(0, 10**7, posts)) * 10**6, pa.int64()),
            "category": [("animal", "food", None)[n % 3] for n in range(posts)],
            "popularity": labels,
        }
        self.extra: dict[str, Any] = {"user_photo_count": np.exp(3 + reach).round() + self.user_numbers}

    def commit(self) -> tuple[Manifest, dict[str, Manifest]]:
        """Write everything; returns the posts artefact and the families."""
        table = pa.table({f.name: self._column(f) for f in POSTS})
        for name, values in self.extra.items():
            table = table.append_column(name, pa.array(values))
        posts = self._write("ingest", "posts", table, counts={"labelled": table["popularity"].drop_null().length()})
        families = {"clip": self._clip(posts), "perplexity": self._perplexity(posts)}
        return posts, families

    def _column(self, field: pa.Field) -> pa.Array:
        values = self.columns.get(field.name)
        if values is None:
            return pa.nulls(len(self.ids), field.type)
        return values.cast(field.type) if isinstance(values, pa.Array) else pa.array(values, field.type)

    def _clip(self, posts: Manifest) -> Manifest:
        vectors = {"clip_image": self.image, "clip_title": self.title, "clip_caption": self.title}
        values: dict[str, Any] = {name: _lists(array) for name, array in vectors.items()}
        close = (self.image * self.title).sum(axis=1)
        for name in ("similarity_title_caption", "similarity_image_title", "similarity_image_caption"):
            values[name] = pa.array(close, pa.float32(), from_pandas=True)
        missing = np.isnan(self.image[:, 0])
        values["clip_status"] = ["no_image" if lacks else "ok" for lacks in missing]
        return self._family("clip", values, posts)

    def _perplexity(self, posts: Manifest) -> Manifest:
        values = {
            "title_perplexity": pa.array(np.exp(self.nll), pa.float32(), from_pandas=True),
            "title_mean_nll": pa.array(self.nll, pa.float32(), from_pandas=True),
            "title_token_count": pa.array(np.full(len(self.ids), 7), pa.int32()),
            "perplexity_status": ["no_text" if lacks else "ok" for lacks in np.isnan(self.nll)],
        }
        return self._family("perplexity", values, posts)

    def _family(self, name: str, values: dict[str, Any], posts: Manifest) -> Manifest:
        own = find(name).fields(WIDTH)
        fields = [*KEYS, *own]
        # The store's order has nothing to do with that of the posts.
        order = np.random.default_rng(5).permutation(len(self.ids))
        columns = {"row_id": self.ids, "post_id": self.columns["post_id"], **values}
        table = pa.table(
            {f.name: columns.get(f.name, pa.nulls(len(self.ids), f.type)) for f in fields}, pa.schema(fields)
        ).take(pa.array(order))
        counts = {"ok": len(self.ids)}
        details = {"covers": {posts.fingerprint: counts}, "columns": [f.name for f in own], "width": WIDTH}
        return self._write(f"features/{name}", name, table, details=details, counts=counts)

    def _write(self, stage: str, key: str, table: pa.Table, **facts: Any) -> Manifest:
        fragment = write_table(self.workspace, f"{stage}/{key}/part-0.parquet", table)
        return self.workspace.commit(
            Manifest(stage=stage, fingerprint=key, config={}, rows=table.num_rows, fragments=[fragment], **facts)
        )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _lists(vectors: np.ndarray) -> pa.Array:
    rows = [None if np.isnan(row[0]) else row.astype(np.float16) for row in vectors]
    return pa.array(rows, pa.list_(pa.float16(), WIDTH))
