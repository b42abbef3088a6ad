"""What a reader of one raw dataset offers, and where it reports what it could not take."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

#: `(what is being read, records done, records in all or None)`.
Progress = Callable[[str, int, int | None], None]

#: Characters of a rejected record that are kept.
_RECORD_LENGTH = 100_000


@dataclass
class RawPost:
    """One post as a reader hands it on.

    Attributes:
        values: columns of `schema.POSTS` (without row_id) and of the reader's `extra_fields`; absent means null.
            Text is valid UTF-8, `posted_at` is microseconds since 1970 UTC.
        image_reference: the image as the source writes it, which goes into row_id; None for no image. Image bytes
            are referred to by themselves.
        source_file: file that the post is from, for rejections.
    """

    values: dict[str, Any]
    image_reference: str | bytes | None
    source_file: str


@dataclass
class Intake:
    """Where a reader reports: rejected records, counted oddities, progress."""

    keep_rejected: Callable[[str, str, str], None]
    progress: Progress = lambda what, done, total: None
    counts: Counter[str] = field(default_factory=Counter)

    def reject(self, kind: str, source_file: str, record: Any, reason: str) -> None:
        """Quarantine a record; `kind` is counted, `reason` says what was found."""
        self.counts["rejected"] += 1
        self.counts[f"rejected_{kind}"] += 1
        self.keep_rejected(source_file, record_text(record), reason)

    def count(self, name: str, records: int = 1) -> None:
        """Count something that was taken all the same but that the user should hear of."""
        self.counts[name] += records


class Reader(Protocol):
    """One raw dataset. `posts` may be called once; it streams and holds no more than a few records."""

    @property
    def extra_fields(self) -> list[pa.Field]:
        """Columns that this source adds behind `schema.POSTS`."""

    @property
    def namespace(self) -> str:
        """Goes into row_id where equal ids and paths do not mean equal content (the sample world's seeds)."""

    def identity(self) -> Any:
        """What identifies the raw data, as JSON: file names, sizes and hashes; image files are not looked at."""

    def posts(self, intake: Intake) -> Iterator[RawPost]:
        """All posts in a stable order; what cannot be taken goes to `intake`.

        Raises:
            DataError: a needed file is missing or unreadable.
        """


def record_text(record: Any) -> str:
    """A record as text for `rejected.parquet`; bytes are shown by their length."""
    text = record if isinstance(record, str) else json.dumps(record, ensure_ascii=False, default=_shown)
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= _RECORD_LENGTH else text[:_RECORD_LENGTH] + "…"


def _shown(value: Any) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)
