"""Reading text and JSON of any size piece by piece; what cannot be read names the file and the place in it."""

import json
from collections.abc import Iterator
from typing import Any

import ijson

from smp_ray.errors import DataError
from smp_ray.sources.location import Location, reading

#: A longer line is cut, which keeps memory bounded and makes it unreadable.
_LONGEST_LINE = 2**26


class _Utf8:
    """A text file as ijson reads it: valid UTF-8, whatever the bytes of the file are."""

    def __init__(self, location: Location, name: str) -> None:
        self._text = location.text(name)

    def read(self, size: int) -> bytes:
        return self._text.read(size).encode("utf-8", "replace")


def json_records(location: Location, name: str) -> Iterator[Any]:
    """The records of a JSON file: the elements of a list, or the rows of an object of columns as pandas writes it.

    Raises:
        DataError: the file is neither, or breaks off; the message says in which record.
    """
    shown = location.path(name)
    with reading(shown), location.text(name) as text:
        first = text.read(1000).lstrip()[:1]
    if first not in ("[", "{"):
        found = f"found {first!r}" if first else "an empty file"
        raise DataError(f"{shown}: {found}, allowed: a list of records or an object of columns")
    done = 0
    try:
        with reading(shown):
            listed = ijson.items(_Utf8(location, name), "item", use_float=True)
            for record in listed if first == "[" else _rows(location, name):
                yield record
                done += 1
    except ijson.JSONError as error:
        reason = " ".join(str(error).partition("(right here)")[0].split())
        raise DataError(f"{shown}: record {done + 1}: not readable as JSON: {reason}") from None


def _rows(location: Location, name: str) -> Iterator[dict[str, Any]]:
    """The rows of `{"Uid": {"0": …, "1": …}, …}`: every column is read at once, each from a stream of its own."""
    columns: list[str] = []
    for prefix, event, value in ijson.parse(_Utf8(location, name)):
        if prefix == "" and event == "map_key":
            columns.append(value)
        elif columns and prefix == columns[-1] and event not in ("start_map", "map_key", "end_map"):
            raise DataError(f"{location.path(name)}: column '{prefix}' is no object of rows")
    cells = [ijson.kvitems(_Utf8(location, name), column, use_float=True) for column in columns]
    try:
        for row in zip(*cells, strict=True):
            if len({key for key, _ in row}) > 1:
                raise ValueError
            yield dict(zip(columns, (value for _, value in row), strict=True))
    except ValueError:
        raise DataError(f"{location.path(name)}: the columns do not have the same rows in the same order") from None


def json_lines(location: Location, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Positions ("line 7") and objects of a JSON-lines file; empty lines are passed over.

    Raises:
        DataError: a line is not a JSON object, or the file has none.
    """
    shown = location.path(name)
    number = found = 0
    for number, line in _lines(location, name):
        if not line.strip():
            continue
        try:
            record = json.loads(line.rstrip("\r\n"))
        except (ValueError, RecursionError) as error:  # RecursionError: deep nesting
            where = f"line {number}" + (f" column {error.colno}" if isinstance(error, json.JSONDecodeError) else "")
            raise DataError(f"{shown}: {where}: not readable as JSON: {getattr(error, 'msg', error)}") from None
        if not isinstance(record, dict):
            raise DataError(f"{shown}: line {number}: found {line.strip()[:40]!r}, allowed: one JSON object a line")
        found += 1
        yield f"line {number}", record
    if not found:
        raise DataError(f"{shown}: an empty file ({number} lines), allowed: one JSON object a line")


def text_lines(location: Location, name: str) -> Iterator[str]:
    """Lines of a text file without white space at their ends and without empty lines at the end of the file."""
    empty = 0
    for _, line in _lines(location, name):
        if not line.strip():
            empty += 1
            continue
        yield from [""] * empty
        empty = 0
        yield line.strip()


def _lines(location: Location, name: str) -> Iterator[tuple[int, str]]:
    with reading(location.path(name)), location.text(name) as text:
        yield from enumerate(iter(lambda: text.readline(_LONGEST_LINE), ""), start=1)
