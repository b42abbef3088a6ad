"""What runs inside Ray: the preparing function and the actors that hold models. The work itself is in `compute`."""

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from smp_ray.config import ImagesConfig
from smp_ray.families.base import IMAGE, ImageTransform
from smp_ray.families.keys import FamilyKey, naming
from smp_ray.families.registry import find
from smp_ray.features.compute import FamilyStep, needed
from smp_ray.features.decode import DecodeStep
from smp_ray.models.identity import check_identity
from smp_ray.store.join import locate_sorted


@dataclass(frozen=True)
class PassSpec:
    """All that the workers of a pass need to know; small, pickled into every task.

    Attributes:
        schema: columns of the files that the pass writes.
        known: reference to what `survey` found in the store.
        stats: handle of the `PassStats` actor.
    """

    images: ImagesConfig
    families: tuple[FamilyKey, ...]
    schema: pa.Schema
    known: Any
    stats: Any


@lru_cache(maxsize=16)
def transform_of(key: FamilyKey) -> ImageTransform | None:
    """The light half of a family, None where it does not read the image; read once a process, as it takes a while."""
    family = find(key.family)
    with naming(key.family):
        check_identity(family.identity(key.pinned), key.model)
        return family.transform(key.pinned)


@lru_cache(maxsize=2)
def _decode_step(images: ImagesConfig, families: tuple[FamilyKey, ...]) -> DecodeStep | None:
    """What decodes for those families that look at the image; None where none does."""
    keys = [key for key in families if IMAGE in find(key.family).reads]
    found = {key.family: transform for key in keys if (transform := transform_of(key)) is not None}
    return DecodeStep(images, found) if found else None


def prepare(table: pa.Table, spec: PassSpec) -> pa.Table:
    """Drop posts that need nothing, attach what the store has of other families, fetch and decode the images."""
    known: pa.Table = ray.get(spec.known)
    found = known.take(pa.array(locate_sorted(table["row_id"].to_numpy(), known["row_id"].to_numpy())))
    for name in known.column_names[1:]:
        table = table.append_column(name, found[name])
    for name in {name for key in spec.families for name in find(key.family).reads} - {IMAGE, *table.column_names}:
        table = table.append_column(name, pa.nulls(table.num_rows))  # nobody has computed it yet
    keep = np.any([needed(table, key.family) for key in spec.families], axis=0)
    table = table.filter(pa.array(keep))
    step = _decode_step(spec.images, spec.families)
    return table if step is None else step(table)


class ModelActor:
    """Holds the models of one or several families and computes them one after the other.

    Args:
        families: names of those that this actor computes.
        threads: torch threads, None for torch's own choice.
        gpu: whether placement gave it one.
        inside: whether preparing and decoding are done inside the actor, where nobody else does.
        last: whether this actor hands on to the writer, so that only stored columns remain.
    """

    def __init__(
        self, spec: PassSpec, families: tuple[str, ...], threads: int | None, gpu: bool, inside: bool, last: bool
    ) -> None:
        self._spec = spec
        self._inside = inside
        self._last = last
        self._steps = []
        for key in spec.families:
            if key.family not in families:
                continue
            transform, family = transform_of(key), find(key.family)
            with naming(key.family):
                model = family(key.pinned, "cuda" if gpu and key.pinned.num_gpus != 0 else "cpu", threads)
            fields = [spec.schema.field(field.name) for field in family.fields()]
            self._steps.append(FamilyStep(model, fields, transform))
        if inside:
            _decode_step(spec.images, spec.families)  # its transforms count as loading

    def __call__(self, table: pa.Table) -> pa.Table:
        """One batch of posts; adds the families' columns."""
        if self._inside:
            table = prepare(table, self._spec)
        for step in self._steps:
            table = step(table)
        if self._last:
            table = table.select(self._spec.schema.names).cast(self._spec.schema)
            self._spec.stats.finished.remote(ray.get_runtime_context().get_actor_id(), table.num_rows)
        return table


def actor_class(families: tuple[str, ...]) -> type[ModelActor]:
    """The class of a pool's actors, so named that Ray's tools show which model it is."""
    return type("".join(family.title() for family in families) + "Actor", (ModelActor,), {})


class PassStats:
    """An actor that counts what is handed to the writer; losing it loses no data. Its clock began `elapsed` s ago."""

    def __init__(self, elapsed: float) -> None:
        self._began = time.monotonic() - elapsed
        self._actors: set[str] = set()
        self._posts = self._steady = 0
        self._first: float | None = None
        self._start = self._last = 0.0

    def finished(self, actor: str, rows: int) -> None:
        """An actor of the last pool handed a batch to the writer."""
        self._last = time.monotonic() - self._began
        self._posts += rows
        self._steady += rows
        if actor not in self._actors:
            self._actors.add(actor)
            self._first = self._first or self._last
            self._start, self._steady = self._last, 0

    def snapshot(self) -> dict[str, Any]:
        """Posts, seconds to the first batch, and the rate since every actor of the last pool had finished one batch."""
        rate = self._steady / (self._last - self._start) if self._last > self._start else None
        return {"computed": self._posts, "first_batch_seconds": self._first, "rows_per_second_steady": rate}
