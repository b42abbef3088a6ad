"""Records of a dataset's files joined by key, and their fields read into columns."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from smp_ray.sources.base import Intake
from smp_ray.sources.values import as_id

#: Column of the posts table -> field of the record, and how its value is read (a ValueError where it cannot be).
Readings = Mapping[str, tuple[str, Callable[[Any], Any]]]

_REPORT_EVERY = 10_000


class Records:
    """Records by kind and key in a temporary database on disk (TMPDIR), which goes with the object."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._database.execute("CREATE TABLE records (kind TEXT, key TEXT, record TEXT, PRIMARY KEY (kind, key))")

    def fill(
        self, kind: str, file: str, records: Iterable[tuple[str, Any]], ids: tuple[str, ...], intake: Intake
    ) -> None:
        """Keep the first record of each key; equal ones behind it are counted, others rejected.

        The records of the file come with their positions in it; the key is made of their `ids`, see `key_of`.
        """
        for done, (position, record) in enumerate(records, start=1):
            if done % _REPORT_EVERY == 0:
                intake.progress(file.rpartition("/")[2], done, None)
            key = key_of(record, *ids)
            if key is None:
                intake.reject("without_ids", file, record, f"{position}: no {' or no '.join(ids)}")
                continue
            row = (kind, key, json.dumps(record))
            if not self._database.execute("INSERT OR IGNORE INTO records VALUES (?, ?, ?)", row).rowcount:
                if self.get(kind, key) == record:
                    intake.counts[f"repeated_records_{kind}"] += 1
                else:
                    reason = f"another record of {key} came first and differs"
                    intake.reject("conflicting_record", file, record, reason)

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """The record of a key, or None."""
        found = self._database.execute("SELECT record FROM records WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return None if found is None else dict(json.loads(found[0]))

    def items(self, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Keys and records of a kind in the order in which they came."""
        rows = self._database.execute("SELECT key, record FROM records WHERE kind = ? ORDER BY rowid", (kind,))
        return ((key, json.loads(record)) for key, record in rows)


def key_of(record: Any, *ids: str) -> str | None:
    """The ids of a record, joined by `/`; None where it lacks one, or one cannot be read."""
    try:
        found = [as_id(lower_case(record).get(name.lower())) for name in ids]
    except (AttributeError, ValueError):  # no object, or an id that is none
        return None
    return "/".join(filter(None, found)) if all(found) else None


def lower_case(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the names of its fields in lower case."""
    return {name.lower(): value for name, value in record.items()}


def read_fields(values: dict[str, Any], record: Mapping[str, Any], readings: Readings, intake: Intake) -> None:
    """Read a record's fields into `values`.

    A field that cannot be read is null and counted as `unreadable_<column>`: the post itself is still good.
    """
    for column, (field, read) in readings.items():
        try:
            values[column] = read(record.get(field))
        except ValueError:
            values[column] = None
            intake.counts[f"unreadable_{column}"] += 1
