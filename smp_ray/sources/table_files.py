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
Rows = Iterator[tuple[str, dict[str, Any]]]

_FORMATS: dict[str, Format] = {
    ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
}  # fmt: skip
_COMPRESSED = (".gz", ".bz2", ".zst")

#: Characters of one CSV field: an unclosed quote would otherwise take in the rest of the file.
_LONGEST_FIELD = 2**26
#: Rows of Parquet at a time: they may hold whole images.
_BATCH_ROWS = 512


def table_files(path: str, wanted: str) -> tuple[Location, list[str], Format]:
    """The folder of a table, the names of its files in it, and their format.

    Raises:
        DataError: there is no such file or folder, none of its files is a table, or they are of several formats.
    """
    location = Location.open(path)
    kind = location.kind()
    if kind == pafs.FileType.NotFound:
        raise DataError(f"{path}: no such file or folder")
    if kind == pafs.FileType.File:
        name = location.root.rpartition("/")[2]
        found = _format(name) if wanted == "auto" else wanted
        if found is None:
            raise DataError(f"{path}: the suffix is none of {', '.join(_FORMATS)}; source.format names the format")
        return location.parent(), [name], found  # type: ignore[return-value]
    for recursive in (False, True):  # images often lie in folders below; they are only listed where there is need
        formats = {name: found for name in _listed(location, recursive) if (found := _format(name))}
        taken = [name for name, found in formats.items() if wanted in ("auto", found)]
        several = sorted({formats[name] for name in taken})
        if len(several) > 1:
            raise DataError(f"{path}: holds {' and '.join(several)} files; source.format names one of them")
        if taken:
            return location, taken, several[0]
    raise DataError(f"{path}: no {'table' if wanted == 'auto' else wanted} files in this folder")


def table_rows(location: Location, name: str, found: Format, columns: list[str], intake: Intake) -> Rows:
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


def table_columns(path: str) -> list[str]:
    """The columns of a table's first row; [] where it has none."""
    location, names, found = table_files(path, "auto")
    rows = table_rows(location, names[0], found, [], Intake(lambda _: None))
    return list(next(rows, ("", {}))[1])


def _format(path: str) -> Format | None:
    lower = path.lower()
    for suffix in _COMPRESSED:
        lower = lower.removesuffix(suffix)
    return next((found for suffix, found in _FORMATS.items() if lower.endswith(suffix)), None)


def _listed(location: Location, recursive: bool) -> list[str]:
    with reading(location.uri):
        infos = location.filesystem.get_file_info(pafs.FileSelector(location.root, recursive=recursive))
    names = [info.path.removeprefix(location.path("x")[:-1]) for info in infos if info.type == pafs.FileType.File]
    return sorted(name for name in names if not any(part.startswith((".", "_")) for part in name.split("/")))


def _need_columns(shown: str, there: list[str], columns: list[str]) -> None:
    repeated = [name for name in columns if there.count(name) > 1]
    if repeated:
        raise DataError(f"{shown}: more than one column {', '.join(map(repr, repeated))}")
    missing = [name for name in columns if name not in there]
    if missing:
        has = ", ".join(there[:30]) + (f", … ({len(there)} in all)" if len(there) > 30 else "")
        raise DataError(f"{shown}: no column {', '.join(map(repr, missing))}; it has {has}")


def _read_csv(location: Location, name: str, columns: list[str], intake: Intake) -> Rows:
    shown = location.path(name)
    tabs = any(name.lower().endswith(".tsv" + suffix) for suffix in ("", *_COMPRESSED))
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
                    intake.reject("field_count", name, row, reason)
                start = rows.line_num + 1
    except csv.Error as error:
        raise DataError(f"{shown}: line {start}: not readable as CSV: {error}; is a quote not closed?") from None


def _read_jsonl(location: Location, name: str, columns: list[str]) -> Rows:
    # A field may be absent from a line, which means null; one that no line has is a mistake in the mapping.
    absent, seen = set(columns), dict[str, None]()
    for line, record in json_lines(location, name):
        absent.difference_update(record)
        if absent:
            seen.update(dict.fromkeys(record))
        yield line, record
    if absent:
        _need_columns(location.path(name), list(seen), columns)


def _read_parquet(location: Location, name: str, columns: list[str]) -> Rows:
    shown = location.path(name)
    with reading(shown), location.filesystem.open_input_file(shown) as opened:
        file = pq.ParquetFile(opened)
        _need_columns(shown, file.schema_arrow.names, columns)
        number = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns or None):
            for values in zip(*map(_values, batch.columns), strict=True):
                number += 1
                yield f"row {number}", dict(zip(batch.schema.names, values, strict=True))


def _values(array: pa.Array) -> list[Any]:
    """A column as Python has it: dates and moments in UTC, whatever their unit and zone; µs beyond Python's years."""
    if not (pa.types.is_timestamp(array.type) or pa.types.is_date(array.type)):
        return array.to_pylist()
    moments = array.cast(pa.timestamp("us", tz="UTC"), safe=False)
    try:
        return moments.to_pylist()
    except OverflowError:
        return [_moment(moment) for moment in moments]


def _moment(moment: pa.Scalar) -> Any:
    try:
        return moment.as_py()
    except OverflowError:  # whoever reads it refuses it
        return moment.value
