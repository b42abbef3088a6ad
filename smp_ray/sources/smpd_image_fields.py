"""Which column of the posts table each field of SMPD-Image's JSON files becomes, and how it is read."""

from typing import Any

import pyarrow as pa

from smp_ray.schema import POSTS
from smp_ray.sources import values as read
from smp_ray.sources.joined import Readings


def _zone_number(value: Any) -> float | None:
    """A time zone is a number in some copies of the data and a name such as Europe/London in others."""
    try:
        return read.as_number(value)
    except ValueError:
        return None


def _zone_name(value: Any) -> str | None:
    return read.as_id(value) if _zone_number(value) is None else None


#: File -> its fields; their names come in several spellings, so here they are in lower case.
PARTS: dict[str, Readings] = {
    "text": {
        "title": ("title", read.as_text),
        "media_type": ("mediatype", read.as_id),
        "tags": ("alltags", read.as_texts),
    },
    "category": {name: (name, read.as_id) for name in ("category", "subcategory", "concept")},
    "temporalspatial_information": {
        "posted_at": ("postdate", read.as_time),
        "latitude": ("latitude", read.as_latitude),
        "longitude": ("longitude", read.as_longitude),
        "geo_accuracy": ("geoaccuracy", read.as_number),
    },
    "user_data": {
        "user_photo_firstdate": ("photo_firstdate", read.as_seconds),
        "user_photo_count": ("photo_count", read.as_number),
        "user_ispro": ("ispro", read.as_flag),
        "user_canbuypro": ("canbuypro", read.as_flag),
        "user_timezone_offset": ("timezone_offset", read.as_hours),
        "user_photo_firstdatetaken": ("photo_firstdatetaken", read.as_seconds),
        "user_timezone_id": ("timezone_id", _zone_number),
        "user_timezone_name": ("timezone_id", _zone_name),
        "user_description": ("user_description", read.as_vector),
        "user_location_description": ("location_description", read.as_vector),
    },
    "additional_information": {
        "user_path_alias": ("pathalias", read.as_id),
        "is_public": ("ispublic", read.as_flag),
        "media_status": ("mediastatus", read.as_id),
    },
}
#: What is no number.
_TYPES: dict[Any, pa.DataType] = {
    read.as_id: pa.string(),
    _zone_name: pa.string(),
    read.as_vector: pa.list_(pa.float32()),
}
#: Of users and the additional information. Dates are seconds since 1970 UTC, offsets hours, flags 0 or 1.
EXTRA_FIELDS: list[pa.Field] = [
    pa.field(column, kind)
    for kind in (pa.float64(), pa.string(), pa.list_(pa.float32()))
    for readings in PARTS.values()
    for column, (_, reading) in readings.items()
    if column not in POSTS.names and _TYPES.get(reading, pa.float64()) == kind
]
