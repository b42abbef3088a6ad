"""Reading of single values: the same rules for every source. None always means "not given".

What cannot be read is a `ValueError` that says what was found and what is allowed.
"""

import math
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import numpy as np

from smp_ray.section import shown


def clean_text(text: str) -> str:
    """Text that can be stored as UTF-8: lone surrogates become U+FFFD; NUL is kept."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def as_text(value: Any) -> str | None:
    """A text as it was written; numbers that a table format made of texts are written out again."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, bool | int | float | Decimal | UUID):
        return str(value)
    raise _problem(value, "a text")


def as_id(value: Any) -> str | None:
    """An id as text: 775, 775.0, "775" and " 775 " are the same id; empty means none."""
    if isinstance(value, bool):
        raise _problem(value, "a text or a whole number")
    return (as_text(value) or "").strip() or None


def as_number(value: Any) -> float | None:
    """A finite number, also from a string; empty, null and NaN mean none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise _problem(value, "a number") from None
    if math.isinf(number):
        raise _problem(value, "a finite number")
    return None if math.isnan(number) else number


def as_label(value: Any, *, given: bool = False) -> float | None:
    """A popularity: a finite number; NaN is an error. Null and empty mean none, or are errors if one was `given`."""
    if not given and (value is None or (isinstance(value, str) and not value.strip())):
        return None
    number = None if isinstance(value, bool) else as_number(value)
    if number is None:
        raise _problem(value, "a finite number")
    return number


def _degrees(bound: int, value: Any) -> float | None:
    number = as_number(value)
    if number is not None and abs(number) > bound:
        raise _problem(number, f"-{bound} to {bound}")
    return number


as_latitude = partial(_degrees, 90)
as_longitude = partial(_degrees, 180)


def as_time(value: Any) -> datetime | None:
    """A moment in UTC, from epoch seconds or ISO 8601; without a zone it is UTC. Digits alone are epoch seconds."""
    try:
        if not isinstance(value, date):
            try:
                seconds = as_number(value)
            except ValueError:
                value = datetime.fromisoformat(value.strip())
            else:
                return None if seconds is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except (AttributeError, ValueError, OverflowError):
        raise _problem(value, "epoch seconds or ISO 8601, of the years 1 to 9999") from None


def as_hours(value: Any) -> float | None:
    """A time-zone offset in hours: "+05:30" is 5.5; a plain number is taken as it is."""
    offset = re.fullmatch(r"\s*([+-]?)(\d{1,2}):(\d{2})(?::\d{2})?\s*", value) if isinstance(value, str) else None
    if offset is None:
        return as_number(value)
    hours = int(offset[2]) + int(offset[3]) / 60
    return -hours if offset[1] == "-" else hours


def as_flag(value: Any) -> float | None:
    """1.0 or 0.0 from a truth value, written as one or as a number."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    return as_number(value)


def as_seconds(value: Any) -> float | None:
    """A moment as seconds since 1970 UTC; reads what `as_time` reads."""
    moment = as_time(value)
    return None if moment is None else moment.timestamp()


def as_vector(value: Any) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """A vector from numbers separated by commas in one string, or from a list; empty means none."""
    if isinstance(value, str):
        text = value.strip(" \t[],")
        value = text.split(",") if text else None
    if value is None:
        return None
    try:
        with np.errstate(over="ignore"):
            vector = np.array(value, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        raise _problem(value, "numbers separated by commas") from None
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise _problem(value, "finite numbers separated by commas")
    return vector if len(vector) else None


def as_texts(value: Any, separator: str | None = None) -> list[str] | None:
    """A list of texts without empty ones, from a list or from one string split at `separator` (None: white space)."""
    if isinstance(value, np.ndarray):  # as pandas reads a list
        value = value.tolist()
    if not isinstance(value, list):
        text = as_text(value)
        if text is None:
            return None
        value = text.split(separator)
    return [text for part in value if (text := (as_text(part) or "").strip())]


def _problem(value: Any, allowed: str) -> ValueError:
    return ValueError(f"found {shown(value)}, allowed: {allowed}")
