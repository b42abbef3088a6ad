"""What a source is: its section of the configuration, the reader that it opens, and where that reports.

How to add one: docs/add-a-source.md.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa

from smp_ray.section import Section
from smp_ray.store.workspace import Workspace

#: `(what is being read, records done, records in all or None)`.
Progress = Callable[[str, int, int | None], None]

#: Characters of a rejected record that are kept.
_RECORD_LENGTH = 100_000


@dataclass
class RawPost:
    """One post as a reader hands it on.

    Attributes:
        values: columns of `schema.POSTS` (without row_id) and of the reader's `extra_fields`; absent means null.
            Text is valid UTF-8, `posted_at` a datetime.
        image_reference: the image as the source writes it, which goes into row_id; None for no image. Image bytes
            are referred to by themselves.
        source_file: file that the post is from, for rejections.
    """

    values: dict[str, Any]
    image_reference: str | bytes | None
    source_file: str


@dataclass
class Intake:
    """Where a reader reports: rejected records (file, record, reason), counted oddities, progress."""

    keep_rejected: Callable[[str, str, str], None]
    progress: Progress = lambda what, done, total: None
    counts: Counter[str] = field(default_factory=Counter)

    def reject(self, kind: str, source_file: str, record: Any, reason: str) -> None:
        """Put a record aside; `kind` is counted, `reason` says what was found."""
        self.counts["rejected"] += 1
        self.counts[f"rejected_{kind}"] += 1
        self.keep_rejected(source_file, record_text(record), reason)

    def count(self, name: str, records: int = 1) -> None:
        """Count something that was taken all the same but that the user should hear of."""
        self.counts[name] += records


class SourceSettings(Section, ABC):
    """The section that says which raw dataset is read; its `kind` is a literal of its own."""

    #: Whether the posts are made up, which all results then say.
    synthetic: ClassVar[bool] = False

    kind: str

    @abstractmethod
    def open(self, workspace: Workspace) -> Reader:
        """The reader of this dataset; what a source makes itself is kept in `workspace`.

        Raises:
            DataError: the dataset is not there, or lacks what every post needs.
        """


class Reader(ABC):
    """One raw dataset. `posts` may be called once; it streams and holds no more than a few records.

    Attributes:
        source: the section that it was opened by.
        extra_fields: columns that this source adds behind `schema.POSTS`.
        namespace: goes into row_id where equal ids and paths do not mean equal content (the sample world's seeds).
    """

    extra_fields: list[pa.Field] = []  # noqa: RUF012
    namespace = ""

    def __init__(self, source: SourceSettings) -> None:
        self.source = source

    def identity(self) -> Any:
        """What identifies the raw data, as JSON: that of `identify`, which may hash files and is asked only once."""
        return self._identity

    @cached_property
    def _identity(self) -> Any:
        return self.identify()

    @abstractmethod
    def identify(self) -> Any:
        """Names, sizes and hashes of the files, and what else the posts depend on; image files are not looked at."""

    @abstractmethod
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
