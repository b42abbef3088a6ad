"""What is done to a batch of posts, step by step: fetching, decoding, each family. No Ray in here.

The actors of a pass are made of these steps; few posts go through them in one process (`Here`).
"""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from smp_ray.config import ImagesConfig
from smp_ray.families.base import IMAGE, ImageTransform
from smp_ray.families.keys import FamilyKey, naming
from smp_ray.families.registry import find, looking
from smp_ray.features.compute import FamilyStep
from smp_ray.features.decode import DecodeStep
from smp_ray.features.pace import Pace, at_most
from smp_ray.models.identity import check_identity

#: Posts whose pictures are held at once, where few are computed in one process.
FEW = 256


@contextmanager
def loading() -> Iterator[None]:
    """While models and their libraries are loaded, Python does not look for garbage, and later not among them.

    There is none, and looking costs a sixth of the seconds that importing open_clip takes.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


@lru_cache(maxsize=16)
def transform_of(key: FamilyKey) -> ImageTransform | None:
    """The light half of a family, None where it does not read the image; read once a process, as it takes a while."""
    family = find(key.family)
    with naming(key.family), loading():
        check_identity(family.identity(key.pinned), key.model)
        return family.transform(key.pinned)


def family_step(key: FamilyKey, device: str, threads: int | None, tell: Callable[[str], None]) -> FamilyStep:
    """A family with its model loaded, see `Family`; what is to be said goes to `tell`."""
    transform, family = transform_of(key), find(key.family)
    update: dict[str, Any] = {"batch_size": at_most(key.pinned.batch_size, device)}
    if device == "cpu" and getattr(key.pinned, "dtype", None) == "float16":
        update["dtype"] = "float32"  # of a GPU's family, on a CPU: some four to fourteen times as fast, and more exact
    settings = key.pinned.model_copy(update=update)
    with naming(key.family), loading():
        model = family(settings, device, threads)
    fields = family.fields(family.width(key.pinned))
    return FamilyStep(model, fields, transform, Pace(key.pinned.batch_size, device), tell)


@lru_cache(maxsize=2)
def decode_step(images: ImagesConfig, families: tuple[FamilyKey, ...]) -> DecodeStep | None:
    """What decodes for those families that look at the image; None where none does."""
    keys = [key for key in families if looking([key.family])]
    found = {key.family: transform for key in keys if (transform := transform_of(key)) is not None}
    return DecodeStep(images, found) if found else None


def with_all_read(table: pa.Table, families: Iterable[str]) -> pa.Table:
    """Posts with nulls in those columns of families that some of these read and that nobody has computed yet."""
    reads = {name for family in families for name in find(family).reads} - {IMAGE, *table.column_names}
    for name in sorted(reads):
        table = table.append_column(name, pa.nulls(len(table)))
    return table


class Here:
    """All families of few posts, in this process on its CPU; the models are loaded once.

    Args:
        images: the section of the config.
        keys: of the families, in the order in which they are computed.
        tell: says a line to the user.

    Raises:
        ModelError: a model cannot be loaded, or is not the one of the key.
    """

    def __init__(self, images: ImagesConfig, keys: Sequence[FamilyKey], tell: Callable[[str], None]) -> None:
        self._names = [key.family for key in keys]
        self._decode = decode_step(images, tuple(keys))
        self._steps = [family_step(key, "cpu", None, tell) for key in keys]  # with as many threads as torch takes

    def __call__(self, posts: pa.Table) -> pa.Table:
        """Wide rows (see `store.wide`) of posts, at least one, in their order; the pictures of few are held at once."""
        return pa.concat_tables(self._computed(posts.slice(start, FEW)) for start in range(0, len(posts), FEW))

    def _computed(self, posts: pa.Table) -> pa.Table:
        table = posts.append_column("place", pa.array(np.arange(len(posts))))
        if "image_bytes" not in table.column_names:
            table = table.append_column("image_bytes", pa.nulls(len(table), pa.large_binary()))
        for name in self._names:
            table = table.append_column(f"need_{name}", pa.array(np.ones(len(table), dtype=bool)))
        table = with_all_read(table, self._names)
        if self._decode is not None:
            table = self._decode(table)
        for step in self._steps:
            table = step(table)
        table = table.sort_by("place")
        fields = [field for step in self._steps for field in step.fields]
        own = [name for name in posts.column_names if name != "image_bytes"]
        columns = {name: posts[name] for name in own} | {field.name: table[field.name] for field in fields}
        return pa.table(columns, schema=pa.schema([*(posts.schema.field(name) for name in own), *fields]))
