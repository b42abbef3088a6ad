"""Records of a dataset's files joined by key, and their fields read into columns."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from smp_ray.sources.base import Intake

#: Column of the posts table -> field of the record, and how its value is read (a ValueError where it cannot be).
Readings = Mapping[str, tuple[str, Callable[[Any], Any]]]


class Records:
    """Records by kind and key in a temporary database on disk (TMPDIR), so that memory stays small."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._database.execute("CREATE TABLE records (kind TEXT, key TEXT, record TEXT, PRIMARY KEY (kind, key))")

    def close(self) -> None:
        """Delete the database."""
        self._database.close()

    def fill(self, kind: str, records: Iterable[tuple[str, Any]], source_file: str, intake: Intake) -> None:
        """Keep the first record of each key; equal ones behind it are counted, others rejected."""
        for key, record in records:
            row = (kind, key, json.dumps(record, sort_keys=True))
            if not self._database.execute("INSERT OR IGNORE INTO records VALUES (?, ?, ?)", row).rowcount:
                if self._text(kind, key) == row[2]:
                    intake.count(f"repeated_records_{kind}")
                else:
                    reason = f"another record of {key} came first and differs"
                    intake.reject("conflicting_record", source_file, record, reason)

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """The record of a key, or None."""
        text = self._text(kind, key)
        return None if text is None else dict(json.loads(text))

    def keys(self, kind: str) -> list[str]:
        """The keys of a kind in the order in which they came."""
        return [
            key for (key,) in self._database.execute("SELECT key FROM records WHERE kind = ? ORDER BY rowid", (kind,))
        ]

    def _text(self, kind: str, key: str) -> str | None:
        found = self._database.execute("SELECT record FROM records WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return None if found is None else str(found[0])


def read_fields(values: dict[str, Any], record: Mapping[str, Any], readings: Readings, intake: Intake) -> None:
    """Read a record's fields into `values`.

    A field that cannot be read is null and counted as `unreadable_<column>`: the post itself is still good.
    """
    for column, (field, read) in readings.items():
        try:
            values[column] = read(record.get(field))
        except ValueError:
            values[column] = None
            intake.count(f"unreadable_{column}")
