"""Any raw dataset becomes one posts table, with all that could not be taken beside it.

Each piece of the dataset (of a folder of tables, a file) is read once for good into a folder of its own; the posts
table is made of the pieces' files. Memory of whoever reads a piece is bounded by one batch of posts, and then by the
search for repeated ids (`repeats.py`); on the driver, by a few hundred bytes a piece.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING

import pyarrow as pa

from smp_ray.errors import DataError
from smp_ray.progress import Reporter
from smp_ray.schema import POSTS, REJECTED
from smp_ray.sources.base import Intake, Progress, RawPost, Reader
from smp_ray.sources.piece import NOTE, PieceFiles, Rows, count, each, folder_of, row_groups
from smp_ray.sources.repeats import SHARE, without_repeats
from smp_ray.store.manifest import Made
from smp_ray.store.parquet import PartWriter
from smp_ray.store.workspace import Workspace

if TYPE_CHECKING:
    from smp_ray.ray_session import RaySession

#: Requests to an object store at a time.
_REQUESTS = 16
_TOLD_EVERY = 10_000
_COUNTS = ("accepted", "rejected", "labelled", "without_image", "without_title")


def ingest(reader: Reader, workspace: Workspace, folder: str, session: RaySession | None = None) -> Made:
    """Read the pieces of a raw dataset that are not done, and make one posts table of all.

    Several pieces are read in Ray tasks of the `session`, which is started for it; one is read here. So it is with the
    search for repeated ids over all pieces, of more than `SHARE` posts.

    Returns:
        The posts' files and counts; `details.rejected` is the path of the rejected records, relative to the workspace.

    Raises:
        DataError: raw data cannot be read (the other pieces are done then), or no post could be taken.
    """
    workspace.delete_dir(folder)  # what a killed run left
    pieces = _all_read(reader.pieces(), workspace, session)
    if session and sum(file.rows for piece in pieces for file in piece.posts) > SHARE:
        session.start()
    pieces = without_repeats(workspace, folder, pieces, session if session and session.started else None)
    file = f"{folder}/rejected.parquet"
    _gather_rejected(workspace, file, pieces)
    workspace.delete_dir(folder, "repeated")
    total = sum((Counter(piece.counts) for piece in pieces), Counter[str]())
    counts = {**dict.fromkeys(_COUNTS, 0), **dict(sorted(total.items()))}
    if not counts["accepted"]:
        why = "the dataset holds no posts"
        if counts["rejected"]:
            why = (
                f"no post could be taken, {counts['rejected']} were rejected, the first because: "
                f"{next(piece.first_reason for piece in pieces if piece.first_reason)}; "
                f"all reasons are in {workspace.path(file)}"
            )
        raise DataError(f"{reader.source.kind}: {why}")
    return Made(
        rows=counts["accepted"],
        counts=counts,
        fragments=[fragment for piece in pieces for fragment in piece.posts],
        details={"synthetic": reader.source.synthetic, "rejected": file},
        note=f"{counts['accepted']:,} posts"
        + (f", {counts['rejected']:,} rejected (see {workspace.path(file)})" if counts["rejected"] else ""),
    )


def _all_read(pieces: Sequence[Reader], workspace: Workspace, session: RaySession | None) -> list[PieceFiles]:
    with ThreadPoolExecutor(_REQUESTS) as pool:
        found = list(pool.map(lambda piece: PieceFiles.of(workspace, piece), pieces))
    left = [piece for piece, files in zip(pieces, found, strict=True) if files is None]
    if session is None or len(left) < 2:
        with Reporter("ingest") as reporter:
            read = [
                read_piece(piece, workspace, lambda note, done, total: reporter.update(done, total, note))
                for piece in left
            ]
    else:
        session.start()
        read = each(read_piece, [(piece, workspace) for piece in left], session)
    new = iter(read)
    return [files or next(new) for files in found]


def read_piece(piece: Reader, workspace: Workspace, progress: Progress = lambda *_: None) -> PieceFiles:
    """Read a piece into its folder: `posts/part-00000.parquet …`, and `rejected.parquet` where there is need.

    Raises:
        DataError: it cannot be read.
    """
    folder = folder_of(piece)
    workspace.delete_dir(folder)  # what a killed run left
    schema = pa.schema([*POSTS, *piece.extra_fields])
    with (
        PartWriter(workspace, f"{folder}/rejected.parquet", REJECTED) as rejected_writer,
        PartWriter(workspace, f"{folder}/posts/part-{{:05d}}.parquet", schema) as writer,
    ):
        rejected, rows = Rows(rejected_writer), Rows(writer)
        intake = Intake(rejected.add, progress)
        sources = _take(piece, intake, rows)
        rows.write()
        rejected.write()
    files = PieceFiles(writer.fragments, rejected_writer.fragments, dict(intake.counts), intake.first_reason, sources)
    workspace.make_dir(folder)
    workspace.write_json(asdict(files), folder, NOTE)
    return files


def _take(piece: Reader, intake: Intake, rows: Rows) -> str:
    """Write the posts; returns the names of their raw files."""
    sources: dict[str, None] = {}
    done = 0
    for done, post in enumerate(piece.posts(intake), start=1):
        values = post.values
        if values.get("latitude") is None or values.get("longitude") is None:  # half a place is none
            values.update(latitude=None, longitude=None, geo_accuracy=None)
        count(intake.counts, values)
        rows.add({**values, "row_id": row_id_of(piece.namespace, post)})
        sources[post.source_file] = None
        if done % _TOLD_EVERY == 0:
            intake.progress("posts", done, None)
    intake.progress("posts", done, None)
    return ", ".join(sources)


def _gather_rejected(workspace: Workspace, path: str, pieces: Sequence[PieceFiles]) -> None:
    """Write all rejected records into one file, which is there even where there are none."""
    with PartWriter(workspace, path, REJECTED) as writer:
        writer.write(REJECTED.empty_table())
        for fragment in (fragment for piece in pieces for fragment in piece.rejected):
            for table in row_groups(workspace, fragment):
                writer.write(table)


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
