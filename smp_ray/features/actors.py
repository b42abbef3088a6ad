"""What runs inside Ray: choosing posts, fetching, decoding, and the actors that hold models. The work is elsewhere."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from smp_ray.config import ImagesConfig
from smp_ray.errors import ModelError, UnreachableError
from smp_ray.families.base import IMAGE, ImageTransform
from smp_ray.families.keys import FamilyKey, naming
from smp_ray.families.registry import find
from smp_ray.features.compute import FamilyStep, needed
from smp_ray.features.decode import DecodeStep
from smp_ray.features.ledger import LOADS, Step, asked, guarded
from smp_ray.fetch import Answers, Fetcher
from smp_ray.models.identity import check_identity
from smp_ray.schema import OK
from smp_ray.store.join import locate_sorted

#: Pictures that a fetching actor hands on together, as soon as it has them.
TOGETHER = 16


@dataclass(frozen=True)
class PassSpec:
    """All that the workers of a pass need to know; small, pickled into every task.

    Attributes:
        schema: columns of the files that the pass writes.
        known: reference to what `survey` found in the store.
        ledger: handle of the `Ledger` actor.
    """

    images: ImagesConfig
    families: tuple[FamilyKey, ...]
    schema: pa.Schema
    known: Any
    ledger: Any


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


def choose(table: pa.Table, spec: PassSpec) -> pa.Table:
    """Drop posts that need nothing, and attach what the store has of other families."""
    known: pa.Table = ray.get(spec.known)
    found = known.take(pa.array(locate_sorted(table["row_id"].to_numpy(), known["row_id"].to_numpy())))
    for name in known.column_names[1:]:
        table = table.append_column(name, found[name])
    for name in {name for key in spec.families for name in find(key.family).reads} - {IMAGE, *table.column_names}:
        table = table.append_column(name, pa.nulls(table.num_rows))  # nobody has computed it yet
    return table.filter(pa.array(np.any([needed(table, key.family) for key in spec.families], axis=0)))


class FetchActor:
    """Fetches pictures, many at once; a post is handed on when its picture is there, whatever others wait for."""

    def __init__(self, spec: PassSpec) -> None:
        self._wanted = [key.family for key in spec.families if IMAGE in find(key.family).reads]
        self._fetcher = Fetcher(spec.images)
        self._answers = Answers(spec.images.stop_after_unreachable)
        self._lock = Lock()

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Posts with `image_bytes`, or `image_status` and `image_error`.

        Raises:
            UnreachableError: too many of the last pictures could not be had for now.
        """
        wanted = np.any([needed(table, family) for family in self._wanted], axis=0)
        inline = table["image_bytes"].is_valid().to_numpy()
        places = np.flatnonzero(wanted & ~inline)
        rest = np.flatnonzero(~wanted | inline)
        nothing = pa.nulls(len(rest), pa.string())
        yield _with_pictures(table.take(pa.array(rest)), table["image_bytes"].take(pa.array(rest)), nothing, nothing)
        uris = table["image_uri"].take(pa.array(places)).to_pylist()
        here: list[int] = []
        data: list[bytes | None] = []
        verdicts: list[tuple[str | None, str | None]] = []
        for number, (place, fetched) in enumerate(self._fetcher.fetch(uris), start=1):
            with self._lock:
                self._answers.note(fetched)
            here.append(int(places[place]))
            data.append(fetched.data)
            verdicts.append((None, None) if fetched.status == OK else (fetched.status, fetched.reason))
            if len(here) == TOGETHER or number == len(uris):
                with self._lock:
                    if (why := self._answers.stop()) is not None:
                        raise UnreachableError(why)
                columns = [pa.array([verdict[side] for verdict in verdicts], pa.string()) for side in range(2)]
                yield _with_pictures(table.take(pa.array(here)), pa.array(data, pa.large_binary()), *columns)
                here, data, verdicts = [], [], []


def _with_pictures(table: pa.Table, data: Any, status: Any, error: Any) -> pa.Table:
    table = table.set_column(table.column_names.index("image_bytes"), "image_bytes", data)
    return table.append_column("image_status", status).append_column("image_error", error)


def decode(table: pa.Table, spec: PassSpec) -> pa.Table:
    """A batch of posts with the inputs of the families that look at the image; for tasks that only decode."""
    step = _decode_step(spec.images, spec.families)
    if step is None:
        return table
    return guarded(spec.ledger, "decode", [Step("decoding", step, step.killed)], table)


class ModelActor:
    """Holds the models of one or several families and computes them one after the other.

    Args:
        families: names of those that this actor computes.
        threads: torch threads; None: on a GPU, where torch has its own choice.
        inside: whether decoding is done inside the actor, where nobody else does.
        last: whether this actor hands on to the writer, so that only stored columns remain.

    Raises:
        ModelError: a model cannot be loaded, or killed the worker that loads it.
    """

    def __init__(
        self, spec: PassSpec, families: tuple[str, ...], threads: int | None, inside: bool, last: bool
    ) -> None:
        self._spec = spec
        self._last = last
        self._stage = "+".join(families)
        self._worker = ray.get_runtime_context().get_actor_id()
        if asked(spec.ledger.loading.remote(self._worker), 1) > LOADS:
            raise ModelError(f"{self._stage}: a worker died {LOADS} times while it loaded the models (out of memory?)")
        self._steps = []
        if inside and (decoding := _decode_step(spec.images, spec.families)) is not None:
            self._steps.append(Step("decoding", decoding, decoding.killed))
        for key in spec.families:
            if key.family not in families:
                continue
            transform, family = transform_of(key), find(key.family)
            with naming(key.family):
                model = family(key.pinned, "cuda" if threads is None and key.pinned.num_gpus != 0 else "cpu", threads)
            fields = [spec.schema.field(field.name) for field in family.fields()]
            step = FamilyStep(model, fields, transform, key.pinned.batch_size, self._tell)
            self._steps.append(Step(key.family, step, step.killed))
        spec.ledger.loaded.remote(self._worker)

    def __call__(self, table: pa.Table) -> pa.Table:
        """One batch of posts; adds the families' columns."""
        table = guarded(self._spec.ledger, self._stage, self._steps, table)
        if self._last:
            table = table.select(self._spec.schema.names).cast(self._spec.schema)
            self._spec.ledger.finished.remote(self._worker, table.num_rows)
        return table

    def _tell(self, line: str) -> None:
        self._spec.ledger.note.remote(line)


def actor_class(families: tuple[str, ...]) -> type[ModelActor]:
    """The class of a pool's actors, so named that Ray's tools show which model it is."""
    return type("".join(family.title() for family in families) + "Actor", (ModelActor,), {})
