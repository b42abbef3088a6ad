"""Any raw dataset becomes one posts table, with all that could not be taken beside it.

Memory is bounded by one batch of posts and about 24 bytes of hashes a post.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from smp_ray.errors import DataError
from smp_ray.schema import POSTS, REJECTED
from smp_ray.sources.base import Intake, Progress, RawPost, Reader
from smp_ray.sources.seen import PostIds, RowIds, post_content
from smp_ray.store.manifest import Made
from smp_ray.store.parquet import PartWriter
from smp_ray.store.workspace import Workspace

#: Posts that are checked, hashed and written together, and the image bytes that they may hold.
_BATCH_POSTS = 10_000
_BATCH_BYTES = 2**26


def ingest(reader: Reader, workspace: Workspace, folder: str, progress: Progress | None = None) -> Made:
    """Read a raw dataset into `<folder>/posts/part-00000.parquet …` and `<folder>/rejected.parquet`.

    Args:
        reader: of the raw dataset.
        workspace: where the folder lies.
        folder: of the artefact, relative to the workspace.
        progress: called now and then with what is being read, how many records are done, and how many there are
            (None: unknown).

    Returns:
        The posts' files and counts; `details.rejected` is the path of the other file, relative to the workspace.

    Raises:
        DataError: the raw data cannot be read, or no post of it could be taken.
    """
    workspace.delete_dir(folder, "posts")  # what a killed run left
    return _Ingest(reader, workspace, folder, progress).run()


class _Ingest:
    """One run: its writers, its counts and what it has seen."""

    def __init__(self, reader: Reader, workspace: Workspace, folder: str, progress: Progress | None) -> None:
        self._reader = reader
        self._workspace = workspace
        self._rejections: list[dict[str, str]] = []
        self._rejected_characters = 0
        self._first_reason = ""
        self._rejected = PartWriter(workspace, f"{folder}/rejected.parquet", REJECTED)
        schema = pa.schema([*POSTS, *reader.extra_fields])
        self._posts = PartWriter(workspace, f"{folder}/posts/part-{{:05d}}.parquet", schema)
        self._intake = Intake(self._keep_rejected, progress or (lambda what, done, total: None))
        self._post_ids = PostIds()
        self._row_ids = RowIds()

    def run(self) -> Made:
        """Read everything, write everything."""
        with self._rejected, self._posts:
            for batch in _batches(self._reader.posts(self._intake)):
                self._take(batch)
            self._flush_rejections()  # the file is always there
        counts, source = self._intake.counts, self._reader.source
        accepted, rejected, file = counts["accepted"], counts["rejected"], self._rejected.fragments[0].path
        if not accepted:
            raise DataError(f"{source.kind}: {self._nothing_taken(rejected, file)}")
        return Made(
            rows=accepted,
            counts={"accepted": 0, "rejected": 0, **dict(sorted(counts.items()))},
            fragments=self._posts.fragments,
            details={
                "source": source.kind,
                "synthetic": source.synthetic,
                "rejected": file,
                "extra_columns": [extra.name for extra in self._reader.extra_fields],
            },
            note=f"{accepted:,} posts"
            + (f", {rejected:,} rejected (see {self._workspace.path(file)})" if rejected else ""),
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
            self._posts.write_rows(rows)
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
        self._rejected.write_rows(self._rejections)
        self._rejections, self._rejected_characters = [], 0

    def _nothing_taken(self, rejected: int, file: str) -> str:
        if not rejected:
            return "the dataset holds no posts"
        return (
            f"no post could be taken, {rejected} were rejected, the first because: {self._first_reason}; "
            f"all reasons are in {self._workspace.path(file)}"
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
