"""Which column of the posts table each field of SMPD-Image's JSON files becomes, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pyarrow as pa

from smp_ray.sources.base import Intake
from smp_ray.sources.values import (
    as_bounded,
    as_flag,
    as_hours,
    as_id,
    as_number,
    as_seconds,
    as_text,
    as_texts,
    as_time,
    as_vector,
)

#: File -> (column, names of the field in lower case, reading). Names come in several spellings, whence the case.
PARTS: dict[str, list[tuple[str, tuple[str, ...], Callable[[Any], Any]]]] = {
    "text": [
        ("title", ("title", "tile"), as_text),  # the documentation says `Tile`
        ("media_type", ("mediatype",), as_id),
        ("tags", ("alltags",), as_texts),
    ],
    "category": [
        ("category", ("category",), as_id),
        ("subcategory", ("subcategory",), as_id),
        ("concept", ("concept",), as_id),
    ],
    "temporalspatial_information": [
        ("posted_at", ("postdate",), as_time),
        ("latitude", ("latitude",), lambda value: as_bounded(value, -90, 90)),
        ("longitude", ("longitude",), lambda value: as_bounded(value, -180, 180)),
        ("geo_accuracy", ("geoaccuracy",), as_number),
    ],
    "user_data": [
        ("user_photo_firstdate", ("photo_firstdate",), as_seconds),
        ("user_photo_count", ("photo_count",), as_number),
        ("user_ispro", ("ispro",), as_flag),
        ("user_canbuypro", ("canbuypro",), as_flag),
        ("user_timezone_offset", ("timezone_offset",), as_hours),
        ("user_photo_firstdatetaken", ("photo_firstdatetaken",), as_seconds),
        ("user_timezone_id", ("timezone_id",), as_id),  # split into number and name below
        ("user_description", ("user_description",), as_vector),
        ("user_location_description", ("location_description",), as_vector),
    ],
    "additional_information": [
        ("user_path_alias", ("pathalias",), as_id),
        ("is_public", ("ispublic",), as_flag),
        ("media_status", ("mediastatus",), as_id),
    ],
}

_TEXTS = ("user_timezone_name", "user_path_alias", "media_status")
_VECTORS = ("user_description", "user_location_description")
_NUMBERS = (
    "user_photo_firstdate", "user_photo_count", "user_ispro", "user_canbuypro", "user_timezone_offset",
    "user_photo_firstdatetaken", "user_timezone_id", "is_public",
)  # fmt: skip

#: Of users and the additional information. Dates are seconds since 1970 UTC, offsets hours, flags 0 or 1.
EXTRA_FIELDS: list[pa.Field] = [
    *(pa.field(name, pa.float64()) for name in _NUMBERS),
    *(pa.field(name, pa.string()) for name in _TEXTS),
    *(pa.field(name, pa.list_(pa.float32())) for name in _VECTORS),
]


def fill_part(part: str, record: dict[str, Any], values: dict[str, Any], intake: Intake) -> None:
    """Read one file's record of a post into `values`.

    A field that cannot be read is null and counted as `unreadable_<column>`: the post itself is still good.
    """
    for column, key, parse in _fields(part, tuple(record)):
        try:
            values[column] = parse(record[key])
        except ValueError:
            values[column] = None
            intake.count(f"unreadable_{column}")
    if part == "user_data":
        _split_timezone(values)


@lru_cache(maxsize=1024)
def _fields(part: str, keys: tuple[str, ...]) -> list[tuple[str, str, Callable[[Any], Any]]]:
    """Column, key and reading of the fields that records with these keys have; all records of a file have the same."""
    written = {key.lower(): key for key in keys}
    found = [
        (column, next((written[name] for name in names if name in written), None), parse)
        for column, names, parse in PARTS[part]
    ]
    return [(column, key, parse) for column, key, parse in found if key is not None]


def record_ids(record: Any) -> tuple[str, str] | None:
    """(Uid, Pid) of a record of any file, or None where it lacks one."""
    if not isinstance(record, dict):
        return None
    user_key, post_key = _id_keys(tuple(record))
    try:
        user_id, post_id = as_id(record.get(user_key)), as_id(record.get(post_key))
    except ValueError:
        return None
    return (user_id, post_id) if user_id and post_id else None


@lru_cache(maxsize=1024)
def _id_keys(keys: tuple[str, ...]) -> tuple[str, str]:
    written = {key.lower(): key for key in keys}
    return written.get("uid", "Uid"), written.get("pid", "Pid")


def place(values: dict[str, Any]) -> None:
    """Make the place null where there is none: half of one, or 0, 0 with accuracy 0, which Flickr writes for none."""
    where = [values.get(name) for name in ("latitude", "longitude", "geo_accuracy")]
    if where[0] is None or where[1] is None or where == [0, 0, 0]:
        values.update(latitude=None, longitude=None, geo_accuracy=None)


def _split_timezone(values: dict[str, Any]) -> None:
    """A time zone is a number in some copies of the data and a name such as Europe/London in others."""
    zone = values.pop("user_timezone_id", None)
    try:
        values["user_timezone_id"] = as_number(zone)
    except ValueError:
        values["user_timezone_id"], values["user_timezone_name"] = None, zone
