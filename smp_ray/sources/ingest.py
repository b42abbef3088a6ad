"""Any raw dataset becomes one posts table, with all that could not be taken beside it.

Memory is bounded by one batch of posts and about 200 bytes for the ids of each post.
"""

import hashlib
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

    def add(self, row: dict[str, Any]) -> None:
        """Add a row of the posts table or a rejected record."""
        self._rows.append(row)
        self._held += len(row.get("image_bytes") or row.get("record") or "")
        if len(self._rows) >= _BATCH_ROWS or self._held >= _BATCH_BYTES:
            self.write()

    def write(self) -> None:
        """Write what is left, which makes a file even of no rows."""
        self._writer.write_rows(self._rows)
        self._rows, self._held = [], 0


def ingest(reader: Reader, workspace: Workspace, folder: str, progress: Progress = lambda *_: None) -> Made:
    """Read a raw dataset into `<folder>/posts/part-00000.parquet …` and `<folder>/rejected.parquet`.

    Returns:
        The posts' files and counts; `details.rejected` is the path of the other file, relative to the workspace.

    Raises:
        DataError: the raw data cannot be read, or no post of it could be taken.
    """
    workspace.delete_dir(folder, "posts")  # what a killed run left
    file = f"{folder}/rejected.parquet"
    schema = pa.schema([*POSTS, *reader.extra_fields])
    with (
        PartWriter(workspace, file, REJECTED) as rejected_writer,
        PartWriter(workspace, f"{folder}/posts/part-{{:05d}}.parquet", schema) as writer,
    ):
        rejected = _Rows(rejected_writer)
        intake = Intake(rejected.add, progress)
        _take(reader, intake, _Rows(writer))
        rejected.write()
    counts = intake.counts
    if not counts["accepted"]:
        why = "the dataset holds no posts"
        if counts["rejected"]:
            why = (
                f"no post could be taken, {counts['rejected']} were rejected, the first because: "
                f"{intake.first_reason}; all reasons are in {workspace.path(file)}"
            )
        raise DataError(f"{reader.source.kind}: {why}")
    return Made(
        rows=counts["accepted"],
        counts={"accepted": 0, "rejected": 0, **dict(sorted(counts.items()))},
        fragments=writer.fragments,
        details={"synthetic": reader.source.synthetic, "rejected": file},
        note=f"{counts['accepted']:,} posts"
        + (f", {counts['rejected']:,} rejected (see {workspace.path(file)})" if counts["rejected"] else ""),
    )


def _take(reader: Reader, intake: Intake, rows: _Rows) -> None:
    """Write the posts whose ids are new; reject the others."""
    post_ids: set[str] = set()
    row_ids: set[int] = set()
    counts = intake.counts
    for post in reader.posts(intake):
        values = post.values
        post_id, row_id = values["post_id"], row_id_of(reader.namespace, post)
        if post_id in post_ids:
            reason = f"post_id {post_id!r} was taken before; the first is kept"
            intake.reject("duplicate_post_id", post.source_file, values, reason)
        elif row_id in row_ids:
            intake.reject("row_id", post.source_file, values, f"row_id {row_id} is that of another post")
        else:
            post_ids.add(post_id)
            row_ids.add(row_id)
            if values.get("latitude") is None or values.get("longitude") is None:  # half a place is none
                values.update(latitude=None, longitude=None, geo_accuracy=None)
            counts["accepted"] += 1
            counts[f"split_{values['split']}"] += 1
            counts["labelled"] += values.get("popularity") is not None
            counts["without_image"] += values.get("image_uri") is None and values.get("image_bytes") is None
            counts["without_title"] += not values.get("title")
            rows.add({**values, "row_id": row_id})
            if len(row_ids) % _BATCH_ROWS == 0:
                intake.progress("posts", len(row_ids), None)
    rows.write()
    intake.progress("posts", len(row_ids), None)


def row_id_of(namespace: str, post: RawPost) -> int:
    """63 bits of a hash of the post and of what its features are computed from.

    Image bytes enter by their hash; lengths are written out, so that no two posts hash the same bytes.
    """
    title, image = post.values.get("title"), post.image_reference
    parts = [namespace.encode(), post.values["post_id"].encode(), None if title is None else title.encode(), None]
    if isinstance(image, bytes):
        parts[3] = b"bytes:" + hashlib.blake2b(image, digest_size=16).digest()
    elif image is not None:
        parts[3] = b"named:" + image.encode("utf-8", "replace")
    content = b"".join(b"-" if part is None else str(len(part)).encode() + b":" + part for part in parts)
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") & (2**63 - 1)
