"""Posts given as a pandas frame, or on the command line, as rows of the posts table that a predictor knows."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.errors import DataError
from smp_ray.families.registry import find
from smp_ray.predictor.unpack import EMPTY
from smp_ray.schema import POSTS
from smp_ray.sources import values as read
from smp_ray.sources.table import READINGS

IMAGE = "image"
#: How a column that the source added is read, by its type.
_BY_TYPE: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], Any]], ...] = (
    (pa.types.is_string, read.as_id),
    (lambda kind: pa.types.is_list(kind) and pa.types.is_string(kind.value_type), read.as_texts),
    (lambda kind: pa.types.is_list(kind), read.as_vector),
    (lambda kind: True, read.as_flag),
)


def posts_of(frame: pd.DataFrame, schema: pa.Schema, families: Sequence[str], tell: Callable[[str], None]) -> pa.Table:
    """The posts table of a frame; what it lacks is missing, what nobody knows is left out, and both are said.

    Args:
        frame: a row a post. Columns have the names of the posts table (`title`, `posted_at`, `user_…`); `image`, or
            `image_uri`, is a path, an address or bytes. Without a `post_id` posts are numbered from 1. Popularity is
            not looked at.
        schema: of the wide rows that the predictor was trained on.
        families: those among them.
        tell: says a line to the user.

    Raises:
        DataError: a value cannot be read.
    """
    own = _own(schema, families)
    given = {str(name): name for name in frame.columns}
    image = IMAGE if IMAGE in given else "image_uri"
    described = {field.name for field in own} - {"row_id", "split", "popularity", "image_uri", "post_id"}
    said(described - _empty(own) - given.keys(), given.keys() - described - {image, "post_id", "popularity"}, tell)
    columns = {field.name: pa.nulls(len(frame), field.type) for field in own}
    columns["row_id"] = pa.array(np.arange(len(frame)))
    columns["post_id"] = pa.array([str(number + 1) for number in range(len(frame))])
    columns["split"] = pa.array(["test"] * len(frame))
    for field in own:
        if field.name in given and field.name in described | {"post_id"}:
            reading = READINGS.get(field.name) or next(how for fits, how in _BY_TYPE if fits(field.type))
            columns[field.name] = pa.array(_read(frame[given[field.name]], field.name, reading), field.type)
    if {"latitude", "longitude"} <= columns.keys():  # half a place is none
        whole = pc.and_(columns["latitude"].is_valid(), columns["longitude"].is_valid())
        for name in {"latitude", "longitude", "geo_accuracy"} & columns.keys():
            columns[name] = pc.if_else(whole, columns[name], None)
    images = _read(frame[given[image]], image, _picture) if image in given else [None] * len(frame)
    addresses = [None if isinstance(image, bytes) else _address(image) for image in images]
    columns["image_uri"] = pa.array(addresses, pa.string())
    table = pa.table({field.name: columns[field.name] for field in own})
    held = [image if isinstance(image, bytes) else None for image in images]
    return table.append_column("image_bytes", pa.array(held, POSTS.field("image_bytes").type))


def aligned(table: pa.Table, schema: pa.Schema, families: Sequence[str], tell: Callable[[str], None]) -> pa.Table:
    """Wide rows with the posts' columns that a predictor knows, in their types; what they lack is null, and said.

    The columns of `families` stay as they were computed. A DataError where a column is of another type.
    """
    own, features = _own(schema, families), _features(families)
    names = {field.name for field in own}
    there = {name for name in table.column_names if name not in features and table[name].null_count < len(table)}
    said(
        names - _empty(own) - there - {"row_id", "post_id", "split", "popularity"},
        there - names - {"image_bytes"},
        tell,
    )
    columns = {}
    for field in own:
        try:
            column = table[field.name].cast(field.type) if field.name in there else pa.nulls(len(table), field.type)
        except pa.ArrowException as error:
            raise DataError(f"{field.name}: {error}; the predictor knows it as {field.type}") from None
        columns[field.name] = column
    computed = {name: table[name] for name in table.column_names if name in features}
    return pa.table(columns | computed)


def _features(families: Sequence[str]) -> set[str]:
    return {field.name for family in families for field in find(family).fields()}


def _own(schema: pa.Schema, families: Sequence[str]) -> list[pa.Field]:
    """What of wide rows are columns of the posts themselves."""
    features = _features(families)
    return [field for field in schema if field.name not in features]


def _empty(fields: Sequence[pa.Field]) -> set[str]:
    """Those that training had no value of, so that nobody misses them."""
    return {field.name for field in fields if (field.metadata or {}).items() >= EMPTY.items()}


def said(lacking: set[str], unknown: set[str], tell: Callable[[str], None]) -> None:
    """Say what posts lack, and what of them nobody asks for."""
    if lacking:
        tell(f"missing in these posts, and so missing values: {', '.join(sorted(lacking))}")
    if unknown:
        tell(f"not known to the predictor, and left out: {', '.join(sorted(unknown))}")


def _read(values: pd.Series, name: str, reading: Callable[[Any], Any]) -> list[Any]:
    found = []
    for place, value in enumerate(values):
        try:
            empty = value is None or (pd.api.types.is_scalar(value) and pd.isna(value))
            found.append(None if empty else reading(value))
        except ValueError as error:
            raise DataError(f"row {place + 1}: {name}: {error}") from None
    return found


def _picture(value: Any) -> str | bytes | None:
    found: str | bytes | None = READINGS[IMAGE](str(value) if isinstance(value, os.PathLike) else value)
    return found


def _address(image: str | None) -> str | None:
    return image if image is None or "://" in image else os.path.abspath(os.path.expanduser(image))
