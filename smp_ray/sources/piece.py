"""What becomes of a piece of a raw dataset, and how pieces are worked on: here, or in Ray tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from smp_ray.progress import Reporter
from smp_ray.sources.base import Reader
from smp_ray.store.manifest import Fragment, fingerprint
from smp_ray.store.parquet import PartWriter
from smp_ray.store.workspace import Workspace

if TYPE_CHECKING:
    from smp_ray.ray_session import RaySession

#: Raised when the same raw data would give other posts, or `PieceFiles` other facts.
VERSION = 3
#: Written last into a piece's folder: by it the piece is done for good.
NOTE = "piece.json"
#: Rows that are written together, and the bytes of images or rejected records that they may hold.
_BATCH_ROWS = 10_000
_BATCH_BYTES = 2**26


@dataclass(frozen=True)
class PieceFiles:
    """Files and facts of a piece.

    Attributes:
        posts: in the order of the piece.
        rejected: the files of records that could not be taken; none where all could.
        counts: posts by what they have, rejected records by kind.
        first_reason: why the first record was rejected.
        source_file: raw files that its posts are from.
    """

    posts: list[Fragment]
    rejected: list[Fragment]
    counts: dict[str, int]
    first_reason: str
    source_file: str

    @classmethod
    def of(cls, workspace: Workspace, piece: Reader) -> PieceFiles | None:
        """Those of a piece that is done and whose files are there, or None."""
        folder = folder_of(piece)
        there = {workspace.relative(info.path): info.size for info in workspace.files(folder)}
        if f"{folder}/{NOTE}" not in there:
            return None
        note = workspace.read_json(folder, NOTE)
        files = {kind: [Fragment(**entry) for entry in note[kind]] for kind in ("posts", "rejected")}
        whole = all(there.get(file.path) == file.bytes for named in files.values() for file in named)
        return cls(**{**note, **files}) if whole else None


def folder_of(piece: Reader) -> str:
    """Where a piece lies, whatever artefacts name it: equal raw data, read in the same way, are read once."""
    key = fingerprint(VERSION, piece.source.model_dump(mode="json"), piece.identity, piece.namespace)
    return f"ingest/files/{key}"


class Rows:
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
        """Write what is left."""
        if self._rows:
            self._writer.write_rows(self._rows)
        self._rows, self._held = [], 0


def row_groups(workspace: Workspace, fragment: Fragment) -> Iterator[pa.Table]:
    """A file as it was written, bit by bit: each bit is what `Rows` wrote together, so memory stays bounded."""
    with pq.ParquetFile(workspace.path(fragment.path), filesystem=workspace.filesystem) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


def count(counts: dict[str, int], values: dict[str, Any], by: int = 1) -> None:
    """Count a post; `by` is -1 for one that was counted and is not taken after all."""
    facts = {
        "accepted": True,
        f"split_{values['split']}": True,
        "labelled": values["split"] == "train" and values.get("popularity") is not None,
        "without_image": values.get("image_uri") is None and values.get("image_bytes") is None,
        "without_title": not values.get("title"),
    }
    for name, holds in facts.items():
        counts[name] = counts.get(name, 0) + by * holds


def each(function: Callable[..., Any], calls: Sequence[Sequence[Any]], session: RaySession | None) -> list[Any]:
    """Results of a function for some arguments, in their order: from Ray tasks of a CPU each where there is a session.

    The other tasks end before the error of one is raised.
    """
    if session is None:
        return [function(*arguments) for arguments in calls]
    import ray

    task: Any = ray.remote(num_cpus=session.cpus_of(1))(function)
    return session.gather([task.remote(*arguments) for arguments in calls], Reporter("ingest", "files"))
