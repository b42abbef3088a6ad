"""Reading the feature store and the posts table: where each post's row lies, and its columns by id.

A family's manifest names its columns (`details.columns`) and the Parquet files (fragments) that hold them, oldest
first; a file may hold several families. A row whose `<family>_status` is null says nothing about that family. Where a
post occurs twice, the later fragment holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smp_ray.schema import STATUSES
from smp_ray.store.join import locate_sorted, taken
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.parquet import read_table
from smp_ray.store.workspace import Workspace

#: Folder of the feature families in the workspace.
FAMILIES = "features"
_PIECE = 65_536


def family_of(manifest: Manifest) -> str:
    """Name of the family that an artefact holds."""
    return manifest.stage.rpartition("/")[2]


class FamilyIndex:
    """Where each post's row of a family lies: 17 bytes a post.

    Attributes:
        row_ids: int64 (n,), sorted, unique.
        fragment: int32 (n,), position in the list of fragments.
        position: int32 (n,), row within that fragment.
        status: int8 (n,), position in `schema.STATUSES`.
    """

    def __init__(self, workspace: Workspace, family: str, fragments: Sequence[Fragment]) -> None:
        ids, places, positions, statuses = [], [], [], []
        codes = pa.array(STATUSES, pa.string())
        for number, fragment in enumerate(fragments):
            table = read_table(workspace, fragment.path, ["row_id", f"{family}_status"])
            status = pc.index_in(table[f"{family}_status"], value_set=codes).combine_chunks()
            present = np.flatnonzero(status.is_valid().to_numpy(zero_copy_only=False))
            ids.append(table["row_id"].to_numpy()[present])
            statuses.append(status.fill_null(-1).to_numpy(zero_copy_only=False)[present].astype(np.int8))
            positions.append(present.astype(np.int32))
            places.append(np.full(len(present), number, dtype=np.int32))
        every = np.concatenate([np.zeros(0, np.int64), *ids])
        # Stable order by id keeps fragments in age order, so the last of equal ids is the one that holds.
        order = np.argsort(every, kind="stable")
        ordered = every[order]
        last = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]
        keep = order[last]
        self.repeated = len(every) - len(keep)
        self.row_ids = every[keep]
        self.fragment = np.concatenate([np.zeros(0, np.int32), *places])[keep]
        self.position = np.concatenate([np.zeros(0, np.int32), *positions])[keep]
        self.status = np.concatenate([np.zeros(0, np.int8), *statuses])[keep]

    def without(self, statuses: Iterable[str]) -> np.ndarray:
        """Ids, int64, whose status is none of `statuses`."""
        codes = [STATUSES.index(status) for status in statuses]
        return self.row_ids[~np.isin(self.status, codes)]

    def count(self, row_ids: np.ndarray) -> dict[str, int]:
        """Number of posts by status, over the given ids; ids that have no row count as `missing`."""
        found = locate_sorted(row_ids, self.row_ids)
        counts = np.bincount(self.status[found[found >= 0]], minlength=len(STATUSES))
        result = {status: int(count) for status, count in zip(STATUSES, counts, strict=True) if count}
        missing = int((found < 0).sum())
        return {**result, "missing": missing} if missing else result


class FamilyReader:
    """Reads a family's columns for given posts, keeping a few fragments in memory.

    Posts asked for in the order in which they were ingested touch each fragment about once.
    """

    def __init__(self, workspace: Workspace, manifest: Manifest, keep: int = 8) -> None:
        self._workspace = workspace
        self._fragments = manifest.fragments
        self._index = FamilyIndex(workspace, family_of(manifest), manifest.fragments)
        self.schema = family_schema(workspace, manifest)
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._keep = keep

    def read(self, row_ids: np.ndarray) -> pa.Table:
        """The family's columns, one row an id and in their order; null where the store has no row."""
        found = locate_sorted(row_ids, self._index.row_ids)
        known = found >= 0
        fragment = np.full(len(found), -1)
        fragment[known] = self._index.fragment[found[known]]
        places = np.full(len(found), -1)
        pieces, above = [self.schema.empty_table()], 0
        for number in np.unique(fragment[known]):
            wanted = np.flatnonzero(fragment == number)
            pieces.append(self._load(int(number)).take(pa.array(self._index.position[found[wanted]])))
            places[wanted] = above + np.arange(len(wanted))
            above += len(wanted)
        return taken(pa.concat_tables(pieces), places)

    def _load(self, number: int) -> pa.Table:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        table = read_table(self._workspace, self._fragments[number].path, self.schema.names).cast(self.schema)
        self._cache[number] = table
        if len(self._cache) > self._keep:
            self._cache.popitem(last=False)
        return table


def family_schema(workspace: Workspace, manifest: Manifest) -> pa.Schema:
    """Columns of a stored family, its status and error last."""
    path = workspace.path(manifest.fragments[-1].path)
    with workspace.filesystem.open_input_file(path) as file:
        stored = pq.ParquetFile(file).schema_arrow
    # A file is written with its schema, so the types are those of the newest file.
    return pa.schema([stored.field(name) for name in manifest.details["columns"]])


def read_columns(workspace: Workspace, manifest: Manifest, columns: Sequence[str], row_ids: np.ndarray) -> pa.Table:
    """Some columns of a stored family for given posts: one row an id and in their order, null where it has none.

    Unlike a `FamilyReader`, only what is asked for leaves the disk, piece by piece, so that the embeddings of a few
    posts cost the memory of a few posts.
    """
    status = f"{family_of(manifest)}_status"
    schema = pa.schema(
        [field for field in family_schema(workspace, manifest) if field.name in columns or field.name == status]
    )
    order = np.argsort(row_ids)
    parts, places = [schema.empty_table()], [np.zeros(0, np.int64)]
    for fragment in manifest.fragments:
        with workspace.filesystem.open_input_file(workspace.path(fragment.path)) as file:
            for batch in pq.ParquetFile(file).iter_batches(_PIECE, columns=["row_id", *schema.names]):
                place = locate_sorted(batch["row_id"].to_numpy(), row_ids, order)
                keep = batch[status].is_valid().to_numpy(zero_copy_only=False) & (place >= 0)
                part = pa.Table.from_batches([batch.filter(pa.array(keep))]).select(schema.names)
                parts.append(part.cast(schema))
                places.append(place[keep])
    every = np.concatenate(places)
    row_of = np.full(len(row_ids), -1)
    row_of[every] = np.arange(len(every))  # where a post occurs twice, the later fragment holds
    return taken(pa.concat_tables(parts), row_of)


def iter_posts(workspace: Workspace, posts: Manifest, columns: list[str] | None, rows: int) -> Iterator[pa.Table]:
    """The posts table in pieces of at most `rows` posts, in the order of ingest."""
    for fragment in posts.fragments:
        with workspace.filesystem.open_input_file(workspace.path(fragment.path)) as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=rows, columns=columns):
                yield pa.Table.from_batches([batch])


def post_row_ids(workspace: Workspace, posts: Manifest) -> np.ndarray:
    """Row ids of all posts, int64 (posts,): 8 bytes a post."""
    parts = [read_table(workspace, fragment.path, ["row_id"])["row_id"].to_numpy() for fragment in posts.fragments]
    return np.concatenate([np.zeros(0, np.int64), *parts])
