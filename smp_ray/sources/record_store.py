"""A temporary database on disk in which the files of a dataset are joined by key, so that memory stays small."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

from smp_ray.errors import WorkspaceError
from smp_ray.sources.base import Intake


class RecordStore:
    """Named tables of (key, JSON text); use as a context manager, the file goes with it.

    It lies in the folder for temporary files (TMPDIR) and takes about as much room as the files read into it.
    """

    def __enter__(self) -> RecordStore:
        self._folder = tempfile.TemporaryDirectory(prefix="smp-ray-ingest-")
        self._database = sqlite3.connect(Path(self._folder.name) / "records.sqlite", isolation_level=None)
        # It is thrown away on any failure, so nothing is spent on durability.
        for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-131072"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("BEGIN")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
        self._folder.cleanup()
        if isinstance(error, sqlite3.Error):
            raise WorkspaceError(
                f"temporary database in {tempfile.gettempdir()}: {error}; TMPDIR names another folder"
            ) from None

    def fill(self, table: str, records: Iterable[tuple[str, str]]) -> None:
        """Create a table and write (key, JSON text) records into it."""
        self._database.execute(f"CREATE TABLE {table} (key TEXT, record TEXT)")
        self._database.executemany(f"INSERT INTO {table} VALUES (?, ?)", records)
        # One sort at the end costs less than an ordered insert for each record.
        self._database.execute(f"CREATE INDEX {table}_key ON {table} (key)")

    def get(self, table: str, key: str) -> Any:
        """The first record with this key, parsed, or None."""
        found = self._database.execute(f"SELECT record FROM {table} WHERE key = ? ORDER BY rowid LIMIT 1", (key,))
        row = found.fetchone()
        return None if row is None else json.loads(row[0])

    def missing_in(self, table: str, other: str) -> Iterator[tuple[str, str]]:
        """(key, JSON text) of the records whose key the other table does not have, in their order."""
        yield from self._database.execute(
            f"SELECT key, record FROM {table} WHERE NOT EXISTS (SELECT 1 FROM {other} WHERE {other}.key = {table}.key)"
        )

    def has_records(self, table: str) -> bool:
        """Whether a table has any record."""
        return self._database.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None

    def shares_keys(self, table: str, other: str) -> bool:
        """Whether any key is in both tables."""
        query = f"SELECT 1 FROM {table} WHERE EXISTS (SELECT 1 FROM {other} WHERE {other}.key = {table}.key) LIMIT 1"
        return self._database.execute(query).fetchone() is not None

    def reject_repeats(self, table: str, source_file: str, intake: Intake) -> None:
        """Report records beyond the first of their key: equal ones are counted, others are quarantined."""
        rows = self._database.execute(
            f"SELECT key, record FROM {table} WHERE key IN (SELECT key FROM {table} GROUP BY key HAVING COUNT(*) > 1)"
            " ORDER BY key, rowid"
        )
        for key, group in groupby(rows, key=lambda row: row[0]):
            records = (record for _, record in group)
            first = next(records)
            for record in records:
                if record == first or json.loads(record) == json.loads(first):
                    intake.count(f"repeated_records_{table}")
                else:
                    reason = f"another record of {key} came first and differs"
                    intake.reject("conflicting_record", source_file, record, reason)

    def pivot(self, cells: Iterable[tuple[str, str, str]]) -> Iterator[dict[str, Any]]:
        """Records from the cells (column, row, JSON text) of an object of columns, sorted by row."""
        self._database.execute("DROP TABLE IF EXISTS cells")
        self._database.execute("CREATE TABLE cells (name TEXT, line TEXT, value TEXT)")
        self._database.executemany("INSERT INTO cells VALUES (?, ?, ?)", cells)
        rows = self._database.execute("SELECT line, name, value FROM cells ORDER BY CAST(line AS INTEGER), line, rowid")
        for _, group in groupby(rows, key=lambda row: row[0]):
            yield {name: json.loads(value) for _, name, value in group}
