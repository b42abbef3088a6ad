"""What a source is: its section of the configuration, the reader that it opens, and where that reports.

How to add one: docs/add-a-source.md.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
    """Where a reader reports: rejected records (rows of `schema.REJECTED`), counted oddities, progress."""

    keep_rejected: Callable[[dict[str, Any]], None]
    progress: Progress = lambda what, done, total: None
    counts: Counter[str] = field(default_factory=Counter)
    first_reason: str = ""

    def reject(self, kind: str, source_file: str, record: Any, reason: str) -> None:
        """Put a record aside; `kind` is counted, `reason` says what was found. Bytes are kept as their length."""
        self.counts["rejected"] += 1
        self.counts[f"rejected_{kind}"] += 1
        text = record if isinstance(record, str) else json.dumps(record, ensure_ascii=False, default=_shown)
        text = text if len(text) <= _RECORD_LENGTH else text[:_RECORD_LENGTH] + "…"
        text = text.encode("utf-8", "replace").decode("utf-8")
        self.keep_rejected({"source_file": source_file, "record": text, "reason": reason})
        self.first_reason = self.first_reason or reason


def _shown(value: Any) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)


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
    """One raw dataset, or a piece of it. `posts` may be called once; it streams and holds but a few records."""

    #: Columns that this source adds behind `schema.POSTS`.
    extra_fields: list[pa.Field] = []  # noqa: RUF012
    #: Goes into row_id where equal ids and paths do not mean equal content (the sample world's seeds).
    namespace = ""

    def __init__(self, source: SourceSettings) -> None:
        self.source = source

    @cached_property
    def identity(self) -> Any:
        """What `identify` says, which may hash files and is asked only once."""
        return self.identify()

    @abstractmethod
    def identify(self) -> Any:
        """Names, sizes and hashes of the files, and what else the posts depend on, as JSON; no image is looked at."""

    def pieces(self) -> Sequence[Reader]:
        """Readers of what can be read by itself, in the order of the posts; most sources have one piece, the whole.

        A piece is read again where its `source` or `identity` is another. Several are pickled, and read in parallel.
        """
        return [self]

    @abstractmethod
    def posts(self, intake: Intake) -> Iterator[RawPost]:
        """All posts in a stable order; what cannot be taken goes to `intake`.

        Raises:
            DataError: a needed file is missing or unreadable.
        """
