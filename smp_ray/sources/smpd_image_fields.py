"""Which column of the posts table each field of SMPD-Image's JSON files becomes, and how it is read."""

from typing import Any

import pyarrow as pa

from smp_ray.schema import POSTS
from smp_ray.sources.joined import Readings
from smp_ray.sources.values import (
    as_flag,
    as_hours,
    as_id,
    as_latitude,
    as_longitude,
    as_number,
    as_seconds,
    as_text,
    as_texts,
    as_time,
    as_vector,
)


def _zone_number(value: Any) -> float | None:
    """A time zone is a number in some copies of the data and a name such as Europe/London in others."""
    try:
        return as_number(value)
    except ValueError:
        return None


def _zone_name(value: Any) -> str | None:
    return as_id(value) if _zone_number(value) is None else None


#: File -> its fields; their names come in several spellings, so here they are in lower case.
PARTS: dict[str, Readings] = {
    "text": {
        "title": ("title", as_text),
        "media_type": ("mediatype", as_id),
        "tags": ("alltags", as_texts),
    },
    "category": {
        "category": ("category", as_id),
        "subcategory": ("subcategory", as_id),
        "concept": ("concept", as_id),
    },
    "temporalspatial_information": {
        "posted_at": ("postdate", as_time),
        "latitude": ("latitude", as_latitude),
        "longitude": ("longitude", as_longitude),
        "geo_accuracy": ("geoaccuracy", as_number),
    },
    "user_data": {
        "user_photo_firstdate": ("photo_firstdate", as_seconds),
        "user_photo_count": ("photo_count", as_number),
        "user_ispro": ("ispro", as_flag),
        "user_canbuypro": ("canbuypro", as_flag),
        "user_timezone_offset": ("timezone_offset", as_hours),
        "user_photo_firstdatetaken": ("photo_firstdatetaken", as_seconds),
        "user_timezone_id": ("timezone_id", _zone_number),
        "user_timezone_name": ("timezone_id", _zone_name),
        "user_description": ("user_description", as_vector),
        "user_location_description": ("location_description", as_vector),
    },
    "additional_information": {
        "user_path_alias": ("pathalias", as_id),
        "is_public": ("ispublic", as_flag),
        "media_status": ("mediastatus", as_id),
    },
}
_TYPES = {
    **dict.fromkeys((as_number, as_seconds, as_flag, as_hours, _zone_number), pa.float64()),
    **dict.fromkeys((as_id, _zone_name), pa.string()),
    as_vector: pa.list_(pa.float32()),
}
#: Of users and the additional information. Dates are seconds since 1970 UTC, offsets hours, flags 0 or 1.
EXTRA_FIELDS: list[pa.Field] = [
    pa.field(column, kind)
    for kind in (pa.float64(), pa.string(), pa.list_(pa.float32()))
    for readings in PARTS.values()
    for column, (_, read) in readings.items()
    if column not in POSTS.names and _TYPES[read] == kind
]


def lower_case(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the names of its fields as `PARTS` has them."""
    written = {key.lower(): value for key, value in record.items()}
    return {"title": written["tile"], **written} if "tile" in written else written  # as in the documentation


def place(values: dict[str, Any]) -> None:
    """Make the place null where there is none: half of one, or 0, 0 with accuracy 0, which Flickr writes for none."""
    where = [values.get(name) for name in ("latitude", "longitude", "geo_accuracy")]
    if where[0] is None or where[1] is None or where == [0, 0, 0]:
        values.update(latitude=None, longitude=None, geo_accuracy=None)
