"""What is done to a batch of posts, step by step: fetching, decoding, each family. No Ray in here.

The actors of a pass are made of these steps; few posts go through them in one process (`Here`).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa

from smp_ray.config import ImagesConfig
from smp_ray.errors import UnreachableError
from smp_ray.families.base import IMAGE, ImageTransform
from smp_ray.families.keys import FamilyKey, naming
from smp_ray.families.registry import find
from smp_ray.features.compute import FamilyStep, needed
from smp_ray.features.decode import DecodeStep
from smp_ray.features.pace import Pace, at_most
from smp_ray.fetch import Answers, Fetcher
from smp_ray.models.identity import check_identity
from smp_ray.schema import OK

#: Pictures that are handed on together, as soon as they are there.
TOGETHER = 16


@lru_cache(maxsize=16)
def transform_of(key: FamilyKey) -> ImageTransform | None:
    """The light half of a family, None where it does not read the image; read once a process, as it takes a while."""
    family = find(key.family)
    with naming(key.family):
        check_identity(family.identity(key.pinned), key.model)
        return family.transform(key.pinned)


def family_step(key: FamilyKey, device: str, threads: int | None, tell: Callable[[str], None]) -> FamilyStep:
    """A family with its model loaded, see `Family`; what is to be said goes to `tell`."""
    transform, family = transform_of(key), find(key.family)
    settings = key.pinned.model_copy(update={"batch_size": at_most(key.pinned.batch_size, device)})
    with naming(key.family):
        model = family(settings, device, threads)
    fields = family.fields(family.width(key.pinned))
    return FamilyStep(model, fields, transform, Pace(key.pinned.batch_size, device), tell)


@lru_cache(maxsize=2)
def decode_step(images: ImagesConfig, families: tuple[FamilyKey, ...]) -> DecodeStep | None:
    """What decodes for those families that look at the image; None where none does."""
    keys = [key for key in families if IMAGE in find(key.family).reads]
    found = {key.family: transform for key in keys if (transform := transform_of(key)) is not None}
    return DecodeStep(images, found) if found else None


class FetchStep:
    """Fetches pictures, many at once; a post is handed on when its picture is there, whatever others wait for."""

    def __init__(self, images: ImagesConfig, families: Sequence[FamilyKey]) -> None:
        self._wanted = [key.family for key in families if IMAGE in find(key.family).reads]
        self._fetcher = Fetcher(images)
        self._answers = Answers(images.stop_after_unreachable)
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
        self._fetch = FetchStep(images, keys)
        self._decode = decode_step(images, tuple(keys))
        self._steps = [family_step(key, "cpu", None, tell) for key in keys]  # with as many threads as torch takes

    def __call__(self, posts: pa.Table) -> pa.Table:
        """Wide rows (see `store.wide`) of posts, in their order."""
        table = posts.append_column("place", pa.array(np.arange(len(posts))))
        if "image_bytes" not in table.column_names:
            table = table.append_column("image_bytes", pa.nulls(len(table), pa.large_binary()))
        for name in self._names:
            table = table.append_column(f"need_{name}", pa.array(np.ones(len(table), dtype=bool)))
        table = pa.concat_tables(self._fetch(table))
        if self._decode is not None:
            table = self._decode(table)
        for step in self._steps:
            table = step(table)
        table = table.sort_by("place")
        fields = [field for step in self._steps for field in step.fields]
        own = [name for name in posts.column_names if name != "image_bytes"]
        columns = {name: posts[name] for name in own} | {field.name: table[field.name] for field in fields}
        return pa.table(columns, schema=pa.schema([*(posts.schema.field(name) for name in own), *fields]))
