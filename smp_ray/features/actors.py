"""What runs inside Ray: the preparing function and one actor class a model. The work itself is in `families`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from smp_ray.config import Family, FeaturesConfig
from smp_ray.features.families import DecodeStep, PixelTransform, caption_step, clip_step, perplexity_step
from smp_ray.schema import feature_schema


@dataclass
class Known:
    """What the store holds already, for the families that a pass computes; lives once in the object store of a node.

    Attributes:
        covered: for each family, sorted int64 ids of the posts that need not be computed again.
        caption_ids: sorted int64 ids of `captions`, where captions are taken from the store.
        captions: the captions of these posts.
    """

    covered: dict[Family, np.ndarray] = field(default_factory=dict)
    caption_ids: np.ndarray | None = None
    captions: pa.ChunkedArray | None = None


@dataclass(frozen=True)
class PassSpec:
    """All that the workers of a pass need to know; small, pickled into every task."""

    settings: FeaturesConfig
    families: tuple[Family, ...]
    clip_width: int
    #: Reference to a `Known`, or None where the store is empty.
    known: Any = None
    #: Handle of the `PassStats` actor.
    stats: Any = None

    @property
    def image_families(self) -> tuple[Family, ...]:
        """Families of this pass that look at the image."""
        return tuple(family for family in self.families if family != "perplexity")


def prepare(table: pa.Table, spec: PassSpec) -> pa.Table:
    """Flag what each post needs, drop posts that need nothing, and attach captions known from the store."""
    known: Known = ray.get(spec.known) if spec.known is not None else Known()
    ids = table["row_id"].to_numpy()
    flags = {
        family: ~_member(ids, known.covered[family]) if family in known.covered else np.ones(len(ids), dtype=bool)
        for family in spec.families
    }
    for family, flag in flags.items():
        table = table.append_column(f"need_{family}", pa.array(flag))
    table = table.append_column("caption", _captions(ids, known))
    keep = np.any(list(flags.values()), axis=0)
    return table if keep.all() else table.filter(pa.array(keep))


def decode(table: pa.Table, spec: PassSpec) -> pa.Table:
    """Fetch and decode the images of a batch (a CPU task of its own in `spread` and on GPUs)."""
    began = time.monotonic()
    out = _decode_step(spec.settings, spec.image_families)(table)
    _report(spec, "decode", table.num_rows, began)
    return out


@lru_cache(maxsize=2)
def _decode_step(settings: FeaturesConfig, families: tuple[Family, ...]) -> DecodeStep:
    # Once a worker process, not once a block: reading a processor's configuration takes a while.
    return DecodeStep(settings, {family: _transform(settings, family) for family in families})


def _transform(settings: FeaturesConfig, family: Family) -> PixelTransform:
    if family == "caption":
        from smp_ray.models.captioner import CaptionTransform

        return CaptionTransform(settings.captioner)
    from smp_ray.models.clip import ClipTransform

    return ClipTransform(settings.clip)


class ModelActor:
    """Holds the models of one or several families and computes them one after the other.

    A subclass a model gives each its own name in Ray's tools; `colocated` placement uses this class itself.

    Args:
        spec: the pass.
        families: which families this actor computes.
        device: "cuda" or "cpu", as placement decided.
        threads: torch threads, None for torch's own choice.
        inside: steps done inside the actor before the models: preparing and decoding where nobody else does.
        last: whether this actor hands on to the writer, so that only stored columns remain.
    """

    def __init__(
        self, spec: PassSpec, families: tuple[Family, ...], device: str, threads: int | None, inside: bool, last: bool
    ) -> None:
        began = time.monotonic()
        self._spec = spec
        self._name = uuid.uuid4().hex
        self._inside = inside
        self._last = last
        self._steps: dict[Family, Callable[[pa.Table], pa.Table]] = {
            family: _load(spec.settings, family, device, threads) for family in families
        }
        if inside and spec.image_families:
            _decode_step(spec.settings, spec.image_families)
        if spec.stats is not None:
            spec.stats.loaded.remote("+".join(families), time.monotonic() - began)

    def __call__(self, table: pa.Table) -> pa.Table:
        """One batch of posts; adds the families' columns."""
        if self._inside:
            table = prepare(table, self._spec)
            if self._spec.image_families:
                table = decode(table, self._spec)
        for family, step in self._steps.items():
            began = time.monotonic()
            table = step(table)
            _report(self._spec, family, table.num_rows, began)
        if self._last:
            table = finish(table, self._spec)
            if self._spec.stats is not None:
                self._spec.stats.finished.remote(self._name, table.num_rows)
        return table


class CaptionActor(ModelActor):
    """An image-to-text model."""


class ClipActor(ModelActor):
    """An open_clip model: image, title and caption embeddings."""


class PerplexityActor(ModelActor):
    """A causal language model."""


ACTORS: dict[Family, type[ModelActor]] = {
    "caption": CaptionActor,
    "clip": ClipActor,
    "perplexity": PerplexityActor,
}


def finish(table: pa.Table, spec: PassSpec) -> pa.Table:
    """Keep the stored columns of this pass, in the store's types and order."""
    schema = feature_schema(spec.families, spec.clip_width)
    return table.select(schema.names).cast(schema)


def _load(settings: FeaturesConfig, family: Family, device: str, threads: int | None) -> Callable[[pa.Table], pa.Table]:
    if family == "caption":
        from smp_ray.models.captioner import Captioner, CaptionTransform

        captioner, caption_size = (
            Captioner(settings.captioner, device, threads),
            CaptionTransform(settings.captioner).size,
        )
        return lambda table: caption_step(table, captioner, caption_size)
    if family == "clip":
        from smp_ray.models.clip import ClipEmbedder, ClipTransform

        embedder, clip_size = ClipEmbedder(settings.clip, device, threads), ClipTransform(settings.clip).size
        return lambda table: clip_step(table, embedder, clip_size)
    from smp_ray.models.perplexity import PerplexityScorer

    scorer = PerplexityScorer(settings.perplexity, device, threads)
    return lambda table: perplexity_step(table, scorer)


def _member(ids: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    if not len(ordered):
        return np.zeros(len(ids), dtype=bool)
    found = np.minimum(np.searchsorted(ordered, ids), len(ordered) - 1)
    return np.asarray(ordered[found] == ids)


def _captions(ids: np.ndarray, known: Known) -> pa.Array:
    if known.captions is None or known.caption_ids is None or not len(known.caption_ids):
        return pa.nulls(len(ids), pa.string())
    found = np.minimum(np.searchsorted(known.caption_ids, ids), len(known.caption_ids) - 1)
    missing = known.caption_ids[found] != ids
    taken = known.captions.take(pa.array(found, mask=missing))
    return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken


def _report(spec: PassSpec, what: str, rows: int, began: float) -> None:
    if spec.stats is not None:
        spec.stats.add.remote(what, rows, time.monotonic() - began)


@ray.remote(num_cpus=0)
class PassStats:
    """Counts what the workers report, so that the driver can show it; losing it loses no data."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._rows: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._loads: dict[str, list[float]] = {}
        self._batches: list[tuple[float, int]] = []
        self._first_batches: dict[str, float] = {}

    def add(self, what: str, rows: int, seconds: float) -> None:
        """A worker spent `seconds` on one step of a batch."""
        self._rows[what] = self._rows.get(what, 0) + rows
        self._seconds[what] = self._seconds.get(what, 0.0) + seconds

    def loaded(self, what: str, seconds: float) -> None:
        """An actor has its models."""
        self._loads.setdefault(what, []).append(seconds)

    def finished(self, actor: str, rows: int) -> None:
        """An actor of the last pool handed a batch to the writer."""
        now = time.monotonic() - self._began
        self._first_batches.setdefault(actor, now)
        self._rows["posts"] = self._rows.get("posts", 0) + rows
        self._batches.append((now, rows))
        # Enough for a rate; a long pass must not grow the actor.
        del self._batches[:-10_000]

    def snapshot(self) -> dict[str, Any]:
        """Rows and busy seconds by step, load seconds by actor, seconds to the first and latest batch, steady rate.

        The steady rate counts what was handed on after every actor of the last pool had finished its first batch:
        loading and warming up are not in it, and no work done before the window is credited beyond one batch.
        """
        steady = None
        if self._batches:
            start, last = max(self._first_batches.values()), self._batches[-1][0]
            rows = sum(count for moment, count in self._batches if moment > start)
            steady = rows / (last - start) if rows else None
        return {
            "rows": dict(self._rows),
            "seconds": dict(self._seconds),
            "loads": {name: list(values) for name, values in self._loads.items()},
            "first_batch_seconds": min(self._first_batches.values(), default=None),
            "last_batch_seconds": self._batches[-1][0] if self._batches else None,
            "rows_per_second_steady": steady,
        }
