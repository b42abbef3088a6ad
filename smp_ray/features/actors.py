"""What runs inside Ray: choosing posts, fetching, decoding, and the actors that hold models. The work is elsewhere."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from smp_ray.config import ImagesConfig
from smp_ray.errors import ModelError
from smp_ray.families.keys import FamilyKey
from smp_ray.features.compute import needed
from smp_ray.features.ledger import LOADS, Step, asked, guarded
from smp_ray.features.steps import decode_step, family_step, with_all_read
from smp_ray.features.survey import Known
from smp_ray.models.device import keep_to


@dataclass(frozen=True)
class PassSpec:
    """All that the workers of a pass need to know; small, pickled into every task.

    Attributes:
        schema: columns of the files that the pass writes.
        known: reference to the `Known` of a survey.
        ledger: handle of the `Ledger` actor.
    """

    images: ImagesConfig
    families: tuple[FamilyKey, ...]
    schema: pa.Schema
    known: Any
    ledger: Any


def choose(table: pa.Table, spec: PassSpec) -> pa.Table:
    """Drop posts that need nothing, and attach what the store has of other families."""
    files = pc.unique(table["path"]).to_pylist()
    if len(files) > 1:
        parts = [choose(table.filter(pc.equal(table["path"], file)), spec) for file in files]
        return pa.concat_tables(parts, promote_options="default")
    families = [key.family for key in spec.families]
    known: Known = ray.get(spec.known)
    table = known.attached(table.drop_columns(["path"]), files[0] if files else None, families)
    table = with_all_read(table, families)
    return table.filter(pa.array(np.any([needed(table, family) for family in families], axis=0)))


def decode(table: pa.Table, spec: PassSpec) -> pa.Table:
    """A batch of posts with the inputs of the families that look at the image; for tasks that only decode."""
    try:
        step = decode_step(spec.images, spec.families)
    except KeyboardInterrupt:
        # Ray ended the pass, and keeps this process for the tasks of the next. There torch, half imported, cannot be
        # imported again: `SystemError: bad call flags`, or a crash.
        os._exit(1)
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
        share = ray.get_runtime_context().get_assigned_resources().get("GPU", 0)
        if threads is None and 0 < share < 1:
            keep_to(share)
        self._steps = []
        if inside and (decoding := decode_step(spec.images, spec.families)) is not None:
            self._steps.append(Step("decoding", decoding, decoding.killed))
        for key in spec.families:
            if key.family not in families:
                continue
            device = "cuda" if threads is None and key.pinned.num_gpus != 0 else "cpu"
            step = family_step(key, device, threads, self._tell)
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
        asked(self._spec.ledger.note.remote(line), None)  # waited for: it may be this worker's last word


def actor_class(families: tuple[str, ...]) -> type[ModelActor]:
    """The class of a pool's actors, so named that Ray's tools show which model it is."""
    return type("".join(family.title() for family in families) + "Actor", (ModelActor,), {})
