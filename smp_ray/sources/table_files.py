"""Reading the files of a table of posts as plain records: CSV, Parquet and JSON-lines, a few rows at a time."""

import csv
from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from smp_ray.errors import DataError
from smp_ray.sources.base import Intake
from smp_ray.sources.json_files import json_lines
from smp_ray.sources.location import Location, reading

Format = Literal["csv", "parquet", "jsonl"]

#: Suffixes by format; text files may be compressed.
_SUFFIXES: dict[Format, tuple[str, ...]] = {
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet", ".pq"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
}
_COMPRESSED = (".gz", ".bz2", ".zst")

#: Characters of one CSV field: an unclosed quote would otherwise take in the rest of the file.
_LONGEST_FIELD = 2**26
#: Rows of Parquet at a time: they may hold whole images.
_BATCH_ROWS = 512


def table_files(location: Location, wanted: str) -> tuple[list[str], Format]:
    """Names of the table's files, relative to `location` ("" for a location that is a file), and their format.

    Raises:
        DataError: there is no such file or folder, none of its files is a table, or they are of several formats.
    """
    kind = location.kind()
    if kind == pafs.FileType.NotFound:
        raise DataError(f"{location.uri}: no such file or folder")
    if kind == pafs.FileType.File:
        found = _format(location.root) if wanted == "auto" else wanted
        if found is None:
            known = ", ".join(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
            raise DataError(f"{location.uri}: the suffix is none of {known}; source.format names the format")
        return [""], found  # type: ignore[return-value]
    for recursive in (False, True):  # images often lie in folders below; they are only listed where there is need
        names = _listed(location, recursive)
        formats = {name: _format(name) for name in names}
        taken = [name for name in names if formats[name] == wanted or (wanted == "auto" and formats[name])]
        several = sorted({str(formats[name]) for name in taken})
        if len(several) > 1:
            raise DataError(f"{location.uri}: holds {' and '.join(several)} files; source.format names one of them")
        if taken:
            return taken, formats[taken[0]]  # type: ignore[return-value]
    raise DataError(f"{location.uri}: no {'table' if wanted == 'auto' else wanted} files in this folder")


def table_rows(
    location: Location, name: str, found: Format, columns: list[str], intake: Intake
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Position ("line 7" or "row 7") and record of each row of a file; a record has the wanted columns at least.

    Without `columns`, records have all that the file has.

    Raises:
        DataError: the file is unreadable, or lacks a column.
    """
    if found == "csv":
        return _read_csv(location, name, columns, intake)
    if found == "jsonl":
        return _read_jsonl(location, name, columns)
    return _read_parquet(location, name, columns)


def _format(path: str) -> Format | None:
    lower = path.lower()
    for suffix in _COMPRESSED:
        lower = lower.removesuffix(suffix)
    return next((found for found, suffixes in _SUFFIXES.items() if lower.endswith(suffixes)), None)


def _listed(location: Location, recursive: bool) -> list[str]:
    with reading(location.uri):
        infos = location.filesystem.get_file_info(pafs.FileSelector(location.root, recursive=recursive))
    prefix = location.path("x")[:-1]
    names = [info.path.removeprefix(prefix) for info in infos if info.type == pafs.FileType.File]
    return sorted(name for name in names if not any(part.startswith((".", "_")) for part in name.split("/")))


def _need_columns(shown: str, there: list[str], columns: list[str]) -> None:
    repeated = [name for name in columns if there.count(name) > 1]
    if repeated:
        raise DataError(f"{shown}: more than one column {', '.join(map(repr, repeated))}")
    missing = [name for name in columns if name not in there]
    if missing:
        has = ", ".join(there) if len(there) <= 30 else ", ".join(there[:30]) + f", … ({len(there)} in all)"
        raise DataError(f"{shown}: no column {', '.join(map(repr, missing))}; it has {has}")


def _read_csv(
    location: Location, name: str, columns: list[str], intake: Intake
) -> Iterator[tuple[str, dict[str, Any]]]:
    shown = location.path(name)
    tabs = any(shown.lower().endswith(".tsv" + suffix) for suffix in ("", *_COMPRESSED))
    csv.field_size_limit(_LONGEST_FIELD)
    start = 1
    try:
        with reading(shown), location.text(name) as text:
            rows = csv.reader(text, delimiter="\t" if tabs else ",", strict=True)
            header = next(rows, None)
            if header is None:
                raise DataError(f"{shown}: an empty file, allowed: a header line and one post a line")
            _need_columns(shown, header, columns)
            start = rows.line_num + 1
            for row in rows:
                if len(row) == len(header):
                    yield f"line {start}", dict(zip(header, row, strict=True))
                elif row:
                    reason = f"line {start}: found {len(row)} fields, the header has {len(header)}"
                    intake.reject("field_count", name or shown.rpartition("/")[2], row, reason)
                start = rows.line_num + 1
    except csv.Error as error:
        raise DataError(f"{shown}: line {start}: not readable as CSV: {error}; is a quote not closed?") from None


def _read_jsonl(location: Location, name: str, columns: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    # A field may be absent from a line, which means null; one that no line has is a mistake in the mapping.
    absent = set(columns)
    seen: dict[str, None] = {}
    for number, record in json_lines(location, name):
        if absent:
            absent.difference_update(record)
            seen.update(dict.fromkeys(record))
        yield f"line {number}", record
    if absent:
        _need_columns(location.path(name), list(seen), columns)


def _read_parquet(location: Location, name: str, columns: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    shown = location.path(name)
    with reading(shown), location.filesystem.open_input_file(location.path(name)) as opened:
        file = pq.ParquetFile(opened)
        _need_columns(shown, file.schema_arrow.names, columns)
        columns = columns or file.schema_arrow.names
        number = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            for record in pa.table({column: _plain(batch[column]) for column in columns}).to_pylist():
                number += 1
                yield f"row {number}", record


def _plain(array: pa.Array) -> pa.Array:
    """Dates and moments in microseconds UTC, which Python can hold whatever their unit and zone."""
    return array.cast(pa.timestamp("us", tz="UTC"), safe=False) if pa.types.is_temporal(array.type) else array
