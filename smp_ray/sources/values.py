"""Parsing of single values: the same rules for every source. None always means "not given"."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_OFFSET = re.compile(r"([+-]?)(\d{1,2}):(\d{2})(?::\d{2})?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Seconds since 1970 of the years 1 to 9999, which every library at hand can hold.
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799


def clean_text(text: str) -> str:
    """Text that can be stored as UTF-8: lone surrogates become U+FFFD; NUL is kept."""
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


def as_text(value: Any) -> str | None:
    """A text as it was written; numbers that a table format made of texts are written out again.

    Raises:
        ValueError: a list, a mapping or the like.
    """
    if isinstance(value, str):
        return clean_text(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, bool | int | float | Decimal):
        return str(value)
    raise ValueError(f"found {_shown(value)}, allowed: a text")


def as_id(value: Any) -> str | None:
    """An id as text: 775, 775.0, "775" and " 775 " are the same id; empty means none.

    Raises:
        ValueError: a truth value, a list, a mapping or the like.
    """
    if isinstance(value, bool):
        raise ValueError(f"found {value}, allowed: a text or a whole number")
    text = as_text(value)
    return (text.strip() or None) if text is not None else None


def as_number(value: Any) -> float | None:
    """A finite number, also from a string; empty, null and NaN mean none.

    Raises:
        ValueError: anything else, infinity included.
    """
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if "_" in text:  # float() would read 1_000, which no dataset writes
            raise ValueError(f"found {_shown(value)}, allowed: a number")
        value = text
    elif not isinstance(value, bool | int | float | Decimal):
        raise ValueError(f"found {_shown(value)}, allowed: a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"found {_shown(value)}, allowed: a number") from None
    if math.isnan(number):
        return None
    if math.isinf(number):
        raise ValueError(f"found {_shown(value)}, allowed: a finite number")
    return number


def as_label(value: Any, *, given: bool = False) -> float | None:
    """A popularity: a finite number; NaN is an error. Null and empty mean none, or are errors if one was `given`.

    Raises:
        ValueError: the label is not a finite number.
    """
    if not given and (value is None or (isinstance(value, str) and not value.strip())):
        return None
    number = None if isinstance(value, bool) else as_number(value)
    if number is None:
        raise ValueError(f"found {_shown(value)}, allowed: a finite number")
    return number


def as_bounded(value: Any, low: float, high: float) -> float | None:
    """A number within bounds (a latitude, a longitude).

    Raises:
        ValueError: not a number, or out of bounds.
    """
    number = as_number(value)
    if number is not None and not low <= number <= high:
        raise ValueError(f"found {number:g}, allowed: {low:g} to {high:g}")
    return number


def as_time(value: Any) -> int | None:
    """A moment as microseconds since 1970 UTC, from epoch seconds or ISO 8601; without a zone it is UTC.

    A text of digits alone is epoch seconds.

    Raises:
        ValueError: neither, or outside the years 1 to 9999.
    """
    if isinstance(value, datetime):
        return _microseconds(value)
    if isinstance(value, str) and not re.fullmatch(r"\s*[+-]?\d*\.?\d*(?:[eE][+-]?\d+)?\s*", value):
        try:
            return _microseconds(datetime.fromisoformat(value.strip()))
        except (ValueError, OverflowError):
            raise ValueError(f"found {_shown(value)}, allowed: epoch seconds or ISO 8601") from None
    seconds = as_number(value)
    if seconds is None:
        return None
    if not _FIRST_SECOND <= seconds <= _LAST_SECOND:
        raise ValueError(f"found {seconds:g} seconds since 1970, allowed: the years 1 to 9999")
    return round(seconds * 1_000_000)


def as_hours(value: Any) -> float | None:
    """A time-zone offset in hours: "+05:30" is 5.5; a plain number is taken as it is.

    Raises:
        ValueError: neither.
    """
    match = _OFFSET.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return as_number(value)
    hours = int(match[2]) + int(match[3]) / 60
    return -hours if match[1] == "-" else hours


def as_flag(value: Any) -> float | None:
    """1.0 or 0.0 from a truth value, written as one or as a number.

    Raises:
        ValueError: neither.
    """
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    return as_number(value)


def as_seconds(value: Any) -> float | None:
    """A moment as seconds since 1970 UTC; reads what `as_time` reads."""
    moment = as_time(value)
    return None if moment is None else moment / 1_000_000


def as_vector(value: Any) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """A vector from numbers separated by commas in one string, or from a list; empty means none.

    Raises:
        ValueError: a part is not a finite number.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        text = value.strip().strip("[]").strip().strip(",")
        if not text:
            return None
        try:
            value = json.loads(f"[{text}]")
        except (ValueError, RecursionError):
            raise ValueError(f"found {_shown(value)}, allowed: numbers separated by commas") from None
    try:
        vector = np.array(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        vector = None
    if vector is None or vector.ndim != 1:
        raise ValueError(f"found {_shown(value)}, allowed: numbers separated by commas")
    with np.errstate(over="ignore"):
        narrow = vector.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise ValueError(f"found {_shown(value)}, allowed: finite numbers")
    return narrow if len(narrow) else None


def as_texts(value: Any, separator: str | None = None) -> list[str] | None:
    """A list of texts without empty ones, from a list or from one string split at `separator` (None: white space).

    Raises:
        ValueError: neither.
    """
    if isinstance(value, list):
        parts = [as_text(part) for part in value]
    else:
        text = as_text(value)
        if text is None:
            return None
        parts = list(text.split(separator))
    return [stripped for part in parts if part and (stripped := part.strip())]


def _microseconds(moment: datetime) -> int:
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _shown(value: Any) -> str:
    text = clean_text(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."
