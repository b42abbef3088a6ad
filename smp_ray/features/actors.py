"""What runs inside Ray: the preparing function and the actors that hold models. The work itself is in `compute`."""

import time
import uuid
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
        images: how images are fetched and decoded.
        families: those that are computed.
        schema: columns of the files that the pass writes.
        known: reference to what `survey` found in the store.
        stats: handle of the `PassStats` actor.
    """

    images: ImagesConfig
    families: tuple[FamilyKey, ...]
    schema: pa.Schema
    known: Any
    stats: Any

    @property
    def image_families(self) -> tuple[FamilyKey, ...]:
        """Families of this pass that look at the image."""
        return tuple(key for key in self.families if IMAGE in find(key.family).reads)


@lru_cache(maxsize=16)
def transform_of(key: FamilyKey) -> ImageTransform | None:
    """The light half of a family, None where it does not read the image; read once a process, as it takes a while.

    Raises:
        ModelError: the model's files here are not those that were fingerprinted.
    """
    family = find(key.family)
    with naming(key.family):
        check_identity(family.identity(key.pinned), key.model)
        return family.transform(key.pinned)


def load(key: FamilyKey, schema: pa.Schema, device: str, threads: int | None) -> FamilyStep:
    """The model of a family on its device."""
    transform, family = transform_of(key), find(key.family)
    with naming(key.family):
        model = family(key.pinned, "cpu" if key.pinned.num_gpus == 0 else device, threads)
    return FamilyStep(model, [schema.field(field.name) for field in family.fields()], transform)


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
    return decode(table, spec) if spec.image_families else table


def decode(table: pa.Table, spec: PassSpec) -> pa.Table:
    """Fetch and decode the images of a batch."""
    began = time.monotonic()
    out = _decode_step(spec.images, spec.image_families)(table)
    spec.stats.add.remote("decode", table.num_rows, time.monotonic() - began)
    return out


@lru_cache(maxsize=2)
def _decode_step(images: ImagesConfig, families: tuple[FamilyKey, ...]) -> DecodeStep:
    found = {key.family: transform_of(key) for key in families}
    return DecodeStep(images, {name: transform for name, transform in found.items() if transform is not None})


class ModelActor:
    """Holds the models of one or several families and computes them one after the other.

    Args:
        spec: the pass.
        families: names of those that this actor computes.
        device: "cuda" or "cpu", as placement decided.
        threads: torch threads, None for torch's own choice.
        inside: whether preparing and decoding are done inside the actor, where nobody else does.
        last: whether this actor hands on to the writer, so that only stored columns remain.
    """

    def __init__(
        self, spec: PassSpec, families: tuple[str, ...], device: str, threads: int | None, inside: bool, last: bool
    ) -> None:
        began = time.monotonic()
        self._spec = spec
        self._name = uuid.uuid4().hex
        self._inside = inside
        self._last = last
        self._steps = {
            key.family: load(key, spec.schema, device, threads) for key in spec.families if key.family in families
        }
        if inside and spec.image_families:
            _decode_step(spec.images, spec.image_families)
        spec.stats.loaded.remote("+".join(families), time.monotonic() - began)

    def __call__(self, table: pa.Table) -> pa.Table:
        """One batch of posts; adds the families' columns."""
        if self._inside:
            table = prepare(table, self._spec)
        for family, step in self._steps.items():
            began = time.monotonic()
            table = step(table)
            self._spec.stats.add.remote(family, table.num_rows, time.monotonic() - began)
        if self._last:
            table = table.select(self._spec.schema.names).cast(self._spec.schema)
            self._spec.stats.finished.remote(self._name, table.num_rows)
        return table


def actor_class(families: tuple[str, ...]) -> type[ModelActor]:
    """The class of a pool's actors, so named that Ray's tools show which model it is."""
    return type("".join(family.title() for family in families) + "Actor", (ModelActor,), {})
