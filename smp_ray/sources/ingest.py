"""The ingest stage: any raw dataset becomes one posts table, with all that could not be taken beside it.

`<workspace>/ingest/<fingerprint>/posts/part-00000.parquet …`, `rejected.parquet`, and the manifest last. Memory is
bounded by one batch of posts and about 24 bytes of hashes a post.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from smp_ray.config import Config, DemoSource, SmpdImageSource, SmpdVideoSource, Source
from smp_ray.errors import DataError
from smp_ray.schema import POSTS, REJECTED
from smp_ray.sources.base import Intake, Progress, RawPost, Reader
from smp_ray.sources.demo import DemoReader
from smp_ray.sources.parquet_parts import PartWriter
from smp_ray.sources.seen import PostIds, RowIds, post_content
from smp_ray.sources.smpd_image import SmpdImageReader
from smp_ray.sources.smpd_video import SmpdVideoReader
from smp_ray.sources.table import TableReader
from smp_ray.workspace import Manifest, Workspace, fingerprint

STAGE = "ingest"

#: Part of the fingerprint: raised when the same raw data would give another posts table.
FORMAT = 1

#: Posts that are checked, hashed and written together, and the image bytes that they may hold.
_BATCH_POSTS = 10_000
_BATCH_BYTES = 2**26


def ingest(
    config: Config, workspace: Workspace, progress: Callable[[str, int, int | None], None] | None = None
) -> Manifest:
    """Read the raw dataset of `config.source` into the posts table and commit it.

    Args:
        config: its `source` section says what is read.
        workspace: where the artefact goes.
        progress: called now and then with what is being read, how many records are done, and how many there are
            (None: unknown).

    Returns:
        The committed manifest; the existing one, untouched, if this raw data was ingested before.

    Raises:
        DataError: the raw data cannot be read, or no post of it could be taken.
    """
    reader = open_reader(config.source, workspace)
    own = _fingerprint(config, reader)
    existing = workspace.manifest(STAGE, own)
    if existing is not None:
        return existing
    workspace.delete_dir(STAGE, own)  # what a killed run left
    return _Ingest(config, workspace, reader, own, progress or (lambda what, done, total: None)).run()


def posts_fingerprint(config: Config, workspace: Workspace) -> str:
    """Fingerprint of the posts table that `ingest` makes (or has made) of the raw data as it is now."""
    return _fingerprint(config, open_reader(config.source, workspace))


def open_reader(source: Source, workspace: Workspace) -> Reader:
    """The reader of a source section; the sample world is kept in `workspace`."""
    if isinstance(source, DemoSource):
        return DemoReader(source, workspace)
    if isinstance(source, SmpdImageSource):
        return SmpdImageReader(source)
    if isinstance(source, SmpdVideoSource):
        return SmpdVideoReader(source)
    return TableReader(source)


def _fingerprint(config: Config, reader: Reader) -> str:
    return fingerprint(STAGE, FORMAT, config.source.model_dump(mode="json"), reader.identity())


class _Ingest:
    """One run: its writers, its counts and what it has seen."""

    def __init__(self, config: Config, workspace: Workspace, reader: Reader, own: str, progress: Progress) -> None:
        self._config = config
        self._workspace = workspace
        self._reader = reader
        self._own = own
        self._schema = pa.schema([*POSTS, *reader.extra_fields])
        self._rejections: list[dict[str, str]] = []
        self._rejected_characters = 0
        self._first_reason = ""
        self._rejected = PartWriter(workspace, f"{STAGE}/{own}", "rejected.parquet", REJECTED)
        self._posts = PartWriter(workspace, f"{STAGE}/{own}/posts", "part-{:05d}.parquet", self._schema)
        self._intake = Intake(self._keep_rejected, progress)
        self._post_ids = PostIds()
        self._row_ids = RowIds()

    def run(self) -> Manifest:
        """Read everything, write everything, commit."""
        started = time.monotonic()
        with self._rejected, self._posts:
            for batch in _batches(self._reader.posts(self._intake)):
                self._take(batch)
            self._flush_rejections()
            self._rejected.write([])  # the file is always there
        counts = self._intake.counts
        if not counts["accepted"]:
            raise DataError(self._nothing_taken())
        seconds = time.monotonic() - started
        source = self._config.source
        return self._workspace.commit(
            Manifest(
                stage=STAGE,
                fingerprint=self._own,
                config=source.model_dump(mode="json"),
                rows=counts["accepted"],
                counts={"accepted": 0, "rejected": 0, **dict(sorted(counts.items()))},
                wall_seconds=round(seconds, 3),
                rows_per_second=round(counts["accepted"] / max(seconds, 1e-9), 1),
                fragments=self._posts.fragments,
                details={
                    "source": source.kind,
                    "synthetic": isinstance(source, DemoSource),
                    "rejected": self._rejected.fragments[0].path,
                    "extra_columns": [extra.name for extra in self._reader.extra_fields],
                },
            )
        )

    def _take(self, batch: list[RawPost]) -> None:
        """Write the posts of a batch whose id is new; reject the others."""
        fresh = self._post_ids.first_sight([post.values["post_id"] for post in batch])
        for post in (batch[index] for index in range(len(batch)) if not fresh[index]):
            reason = f"post_id {post.values['post_id']!r} was taken before; the first is kept"
            self._intake.reject("duplicate_post_id", post.source_file, post.values, reason)
        taken = [post for post, new in zip(batch, fresh, strict=True) if new]
        contents = [
            post_content(self._reader.namespace, post.values["post_id"], post.values.get("title"), post.image_reference)
            for post in taken
        ]
        rows = [post.values for post in taken]
        for row, row_id in zip(rows, self._row_ids.assign(contents).tolist(), strict=True):
            row["row_id"] = row_id
        if rows:
            self._posts.write(rows)
        self._count(rows)

    def _count(self, rows: list[dict[str, Any]]) -> None:
        counts = self._intake.counts
        counts["accepted"] += len(rows)
        for row in rows:
            counts[f"split_{row['split']}"] += 1
            counts["labelled"] += row.get("popularity") is not None
            counts["without_image"] += row.get("image_uri") is None and row.get("image_bytes") is None
            counts["without_title"] += not row.get("title")
        self._intake.progress("posts", counts["accepted"], None)

    def _keep_rejected(self, source_file: str, record: str, reason: str) -> None:
        self._first_reason = self._first_reason or reason
        self._rejections.append({"source_file": source_file, "record": record, "reason": reason})
        self._rejected_characters += len(record)
        if len(self._rejections) >= _BATCH_POSTS or self._rejected_characters >= _BATCH_BYTES // 4:
            self._flush_rejections()

    def _flush_rejections(self) -> None:
        self._rejected.write(self._rejections)
        self._rejections, self._rejected_characters = [], 0

    def _nothing_taken(self) -> str:
        found = self._intake.counts["rejected"]
        if not found:
            return f"{self._config.source.kind}: the dataset holds no posts"
        path = self._workspace.path(self._rejected.fragments[0].path)
        return (
            f"{self._config.source.kind}: no post could be taken, {found} were rejected, the first because: "
            f"{self._first_reason}; all reasons are in {path}"
        )


def _batches(posts: Iterator[RawPost]) -> Iterator[list[RawPost]]:
    batch: list[RawPost] = []
    held = 0
    for post in posts:
        batch.append(post)
        held += len(post.values.get("image_bytes") or b"")
        if len(batch) >= _BATCH_POSTS or held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
