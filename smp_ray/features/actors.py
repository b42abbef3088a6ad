"""What runs inside Ray: the preparing function and the actors that hold models. The work itself is in `compute`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray

from smp_ray.config import ImagesConfig
from smp_ray.errors import ModelError
from smp_ray.families.base import IMAGE, TITLE, Family, FamilySettings, ImageTransform
from smp_ray.families.registry import columns_of, find
from smp_ray.features.compute import FamilyStep
from smp_ray.features.decode import DecodeStep
from smp_ray.models.identity import check_identity
from smp_ray.schema import KEYS
from smp_ray.store.join import locate_sorted, taken

Result = TypeVar("Result")


@dataclass
class Known:
    """What the store holds already, for the families that a pass computes; lives once in the object store of a node.

    Attributes:
        covered: for each family, sorted int64 ids of the posts that need not be computed again.
        carried: for each column that a family of the pass reads of another, the posts that have it: sorted int64 ids
            and the values.
    """

    covered: dict[str, np.ndarray] = field(default_factory=dict)
    carried: dict[str, tuple[np.ndarray, pa.Table]] = field(default_factory=dict)


@dataclass(frozen=True)
class Computed:
    """A family as the workers of a pass need to know it; plain data, so that each worker finds its class itself.

    Attributes:
        name: of the family.
        settings: its section as JSON, revision and dtype pinned.
        identity: of the model that was fingerprinted.
        width: of its vectors.
    """

    name: str
    settings: str
    identity: dict[str, Any] = field(hash=False)
    width: int

    @property
    def family(self) -> type[Family]:
        """The class, of what is installed where this is asked."""
        return find(self.name)

    def section(self) -> FamilySettings:
        """The settings as the family's own class."""
        return self.family.Settings.model_validate_json(self.settings)

    def load(self, device: str, threads: int | None) -> FamilyStep:
        """The model on its device."""
        transform, section = transform_of(self), self.section()
        device = "cpu" if section.num_gpus == 0 else device
        return FamilyStep(self.explained(lambda: self.family(section, device, threads)), self.width, transform)

    def explained(self, work: Callable[[], Result]) -> Result:
        """Do something with the model; what cannot be done is said with the family's name."""
        try:
            return work()
        except ModelError as error:
            raise ModelError(f"{self.name}: {error}") from error


@lru_cache(maxsize=16)
def transform_of(computed: Computed) -> ImageTransform | None:
    """The light half of a family, None where it does not read the image; read once a process, as it takes a while.

    Raises:
        ModelError: the model's files here are not those that were fingerprinted.
    """

    def checked() -> ImageTransform | None:
        section = computed.section()
        check_identity(computed.family.identity(section), computed.identity)
        return computed.family.transform(section)

    return computed.explained(checked)


@dataclass(frozen=True)
class PassSpec:
    """All that the workers of a pass need to know; small, pickled into every task."""

    images: ImagesConfig
    families: tuple[Computed, ...]
    #: Reference to a `Known`, or None where the store is empty.
    known: Any = None
    #: Handle of the `PassStats` actor.
    stats: Any = None

    @property
    def image_families(self) -> tuple[Computed, ...]:
        """Families of this pass that look at the image."""
        return tuple(computed for computed in self.families if IMAGE in computed.family.reads)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the files that the pass writes."""
        return pa.schema([*KEYS, *(f for computed in self.families for f in computed.family.fields(computed.width))])


def carried_columns(families: list[str]) -> list[str]:
    """Columns of other families, or of their own pass, that some families read."""
    return list(dict.fromkeys(name for family in families for name in find(family).reads if name not in (IMAGE, TITLE)))


def prepare(table: pa.Table, spec: PassSpec) -> pa.Table:
    """Flag what each post needs, drop posts that need nothing, and attach what the store has of other families."""
    known: Known = ray.get(spec.known) if spec.known is not None else Known()
    ids = table["row_id"].to_numpy()
    nothing = np.zeros(0, np.int64)
    flags = {
        computed.name: locate_sorted(ids, known.covered.get(computed.name, nothing)) < 0 for computed in spec.families
    }  # fmt: skip
    for family, flag in flags.items():
        table = table.append_column(f"need_{family}", pa.array(flag))
    names = [computed.name for computed in spec.families]
    for name in carried_columns(names):
        if name in known.carried:
            have, values = known.carried[name]
            column = taken(values, locate_sorted(ids, have))[name]
        else:
            kinds = columns_of(names)
            kind = kinds[name].type if name in kinds else None
            column = pa.nulls(len(ids), kind or pa.null())
        table = table.append_column(name, column)
    keep = np.any(list(flags.values()), axis=0)
    return table if keep.all() else table.filter(pa.array(keep))


def decode(table: pa.Table, spec: PassSpec) -> pa.Table:
    """Fetch and decode the images of a batch (a CPU task of its own in `spread` and on GPUs)."""
    began = time.monotonic()
    out = _decode_step(spec.images, spec.image_families)(table)
    _report(spec, "decode", table.num_rows, began)
    return out


@lru_cache(maxsize=2)
def _decode_step(images: ImagesConfig, families: tuple[Computed, ...]) -> DecodeStep:
    found = {computed.name: transform_of(computed) for computed in families}
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
            computed.name: computed.load(device, threads) for computed in spec.families if computed.name in families
        }
        if inside and spec.image_families:
            _decode_step(spec.images, spec.image_families)
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
            table = table.select(self._spec.schema.names).cast(self._spec.schema)
            if self._spec.stats is not None:
                self._spec.stats.finished.remote(self._name, table.num_rows)
        return table


def actor_class(families: tuple[str, ...]) -> type[ModelActor]:
    """The class of a pool's actors, so named that Ray's tools show which model it is."""
    return type("".join(family.title() for family in families) + "Actor", (ModelActor,), {})


def _report(spec: PassSpec, what: str, rows: int, began: float) -> None:
    if spec.stats is not None:
        spec.stats.add.remote(what, rows, time.monotonic() - began)
