"""Any raw dataset becomes one posts table, with all that could not be taken beside it.

Memory is bounded by one batch of posts and about 200 bytes for the ids of each post.
"""

import hashlib
from collections import Counter
from typing import Any

import pyarrow as pa

from smp_ray.errors import DataError
from smp_ray.schema import POSTS, REJECTED
from smp_ray.sources.base import Intake, Progress, RawPost, Reader
from smp_ray.store.manifest import Made
from smp_ray.store.parquet import PartWriter
from smp_ray.store.workspace import Workspace

#: Rows that are written together, and the bytes of images or rejected records that they may hold.
_BATCH_ROWS = 10_000
_BATCH_BYTES = 2**26


class _Rows:
    """Collects rows until they are worth writing."""

    def __init__(self, writer: PartWriter) -> None:
        self._writer = writer
        self._rows: list[dict[str, Any]] = []
        self._held = 0

    def add(self, row: dict[str, Any], held: int) -> bool:
        """Add a row that holds so many bytes; returns whether rows were written."""
        self._rows.append(row)
        self._held += held
        full = len(self._rows) >= _BATCH_ROWS or self._held >= _BATCH_BYTES
        if full:
            self.write()
        return full

    def write(self) -> None:
        """Write what is left, which makes a file even of no rows."""
        self._writer.write_rows(self._rows)
        self._rows, self._held = [], 0


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
    file = f"{folder}/rejected.parquet"
    reasons: list[str] = []
    schema = pa.schema([*POSTS, *reader.extra_fields])
    with (
        PartWriter(workspace, file, REJECTED) as rejected_writer,
        PartWriter(workspace, f"{folder}/posts/part-{{:05d}}.parquet", schema) as writer,
    ):
        rejected = _Rows(rejected_writer)

        def reject(source_file: str, record: str, reason: str) -> None:
            reasons[1:] = []  # the first is shown where no post can be taken
            reasons.append(reason)
            rejected.add({"source_file": source_file, "record": record, "reason": reason}, 4 * len(record))

        intake = Intake(reject, progress or (lambda what, done, total: None))
        _take(reader, intake, _Rows(writer))
        rejected.write()
    counts = intake.counts
    if not counts["accepted"]:
        why = "the dataset holds no posts"
        if reasons:
            why = (
                f"no post could be taken, {counts['rejected']} were rejected, the first because: {reasons[0]}; "
                f"all reasons are in {workspace.path(file)}"
            )
        raise DataError(f"{reader.source.kind}: {why}")
    return Made(
        rows=counts["accepted"],
        counts={"accepted": 0, "rejected": 0, **dict(sorted(counts.items()))},
        fragments=writer.fragments,
        details={
            "source": reader.source.kind,
            "synthetic": reader.source.synthetic,
            "rejected": file,
            "extra_columns": [extra.name for extra in reader.extra_fields],
        },
        note=f"{counts['accepted']:,} posts"
        + (f", {counts['rejected']:,} rejected (see {workspace.path(file)})" if reasons else ""),
    )


def _take(reader: Reader, intake: Intake, rows: _Rows) -> None:
    """Write the posts whose id is new; reject the others."""
    post_ids: set[str] = set()
    row_ids: set[int] = set()
    for post in reader.posts(intake):
        post_id = post.values["post_id"]
        if post_id in post_ids:
            reason = f"post_id {post_id!r} was taken before; the first is kept"
            intake.reject("duplicate_post_id", post.source_file, post.values, reason)
            continue
        post_ids.add(post_id)
        row_id = new_row_id(post_content(reader.namespace, post), row_ids)
        _count(intake.counts, post.values)
        if rows.add({**post.values, "row_id": row_id}, len(post.values.get("image_bytes") or b"")):
            intake.progress("posts", intake.counts["accepted"], None)
    rows.write()
    intake.progress("posts", intake.counts["accepted"], None)


def _count(counts: Counter[str], values: dict[str, Any]) -> None:
    counts["accepted"] += 1
    counts[f"split_{values['split']}"] += 1
    counts["labelled"] += values.get("popularity") is not None
    counts["without_image"] += values.get("image_uri") is None and values.get("image_bytes") is None
    counts["without_title"] += not values.get("title")


def new_row_id(content: bytes, taken: set[int], bits: int = 63) -> int:
    """The hash of what a post is, which joins `taken`; where it is taken already, it is hashed again, counted."""
    attempt = 0
    while True:
        salted = content + (b"\0again" + str(attempt).encode() if attempt else b"")
        row_id = int.from_bytes(hashlib.blake2b(salted, digest_size=8).digest(), "big") & ((1 << bits) - 1)
        if row_id not in taken:
            taken.add(row_id)
            return row_id
        attempt += 1


def post_content(namespace: str, post: RawPost) -> bytes:
    """The bytes that a row id is the hash of: the post, and what its features are computed from.

    Image bytes enter by their hash; lengths are written out, so that no two posts give the same bytes.
    """
    title, image = post.values.get("title"), post.image_reference
    parts = [namespace.encode(), post.values["post_id"].encode(), None if title is None else title.encode(), None]
    if isinstance(image, bytes):
        parts[3] = b"bytes:" + hashlib.blake2b(image, digest_size=16).digest()
    elif image is not None:
        parts[3] = b"named:" + image.encode("utf-8", "replace")
    return b"".join(b"-" if part is None else str(len(part)).encode() + b":" + part for part in parts)
