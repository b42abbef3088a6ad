"""Reading the feature store and the posts table: where each post's row lies, and its columns by id.

A manifest names the Parquet files (fragments) that hold a family, oldest first; a file may hold several families. A
row whose `<family>_status` is null says nothing about that family. Where a post occurs twice, the later fragment holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smp_ray.errors import WorkspaceError
from smp_ray.schema import STATUSES, StoredFamily, family_fields
from smp_ray.workspace import Fragment, Manifest, Workspace


class FamilyIndex:
    """Where each post's row of a family lies: 17 bytes a post.

    Attributes:
        row_ids: int64 (n,), sorted, unique.
        fragment: int32 (n,), position in the list of fragments.
        position: int32 (n,), row within that fragment.
        status: int8 (n,), position in `schema.STATUSES`.
    """

    def __init__(self, workspace: Workspace, family: StoredFamily, fragments: Sequence[Fragment]) -> None:
        ids, places, positions, statuses = [], [], [], []
        codes = pa.array(STATUSES, pa.string())
        for number, fragment in enumerate(fragments):
            table = read_fragment(workspace, fragment, ["row_id", f"{family}_status"])
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

    def find(self, row_ids: np.ndarray) -> np.ndarray:
        """Position of each id in the index, int64 (n,); -1 where it is not there."""
        if not len(self.row_ids):
            return np.full(len(row_ids), -1, dtype=np.int64)
        found = np.minimum(np.searchsorted(self.row_ids, row_ids), len(self.row_ids) - 1)
        return np.where(self.row_ids[found] == row_ids, found, -1)

    def without(self, statuses: Iterable[str]) -> np.ndarray:
        """Ids, int64, whose status is none of `statuses`."""
        codes = [STATUSES.index(status) for status in statuses]
        return self.row_ids[~np.isin(self.status, codes)]

    def count(self, row_ids: np.ndarray) -> dict[str, int]:
        """Number of posts by status, over the given ids; ids that have no row count as `missing`."""
        found = self.find(row_ids)
        counts = np.bincount(self.status[found[found >= 0]], minlength=len(STATUSES))
        result = {status: int(count) for status, count in zip(STATUSES, counts, strict=True) if count}
        missing = int((found < 0).sum())
        return {**result, "missing": missing} if missing else result


class FamilyReader:
    """Reads a family's columns for given posts, keeping a few fragments in memory.

    Posts asked for in the order in which they were ingested touch each fragment about once.
    """

    def __init__(self, workspace: Workspace, manifest: Manifest, family: StoredFamily, keep: int = 8) -> None:
        self._workspace = workspace
        self._fragments = manifest.fragments
        self._index = FamilyIndex(workspace, family, manifest.fragments)
        width = int(manifest.details.get("clip_width", 0))
        self._schema = pa.schema(family_fields(family, width))
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._keep = keep

    def read(self, row_ids: np.ndarray) -> pa.Table:
        """The family's columns, one row an id and in their order; null where the store has no row."""
        found = self._index.find(row_ids)
        fragment = (
            np.where(found >= 0, self._index.fragment[np.maximum(found, 0)], -1) if len(self._index.row_ids) else found
        )
        pieces, rows = [], []
        for number in np.unique(fragment):
            wanted = np.flatnonzero(fragment == number)
            rows.append(wanted)
            if number < 0:
                pieces.append(pa.Table.from_pylist([{}] * len(wanted), schema=self._schema))
            else:
                pieces.append(self._load(int(number)).take(pa.array(self._index.position[found[wanted]])))
        if not pieces:
            return self._schema.empty_table()
        order = np.empty(len(row_ids), dtype=np.int64)
        order[np.concatenate(rows)] = np.arange(len(row_ids))
        return pa.concat_tables(pieces).take(pa.array(order))

    def _load(self, number: int) -> pa.Table:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        table = read_fragment(self._workspace, self._fragments[number], self._schema.names).cast(self._schema)
        self._cache[number] = table
        if len(self._cache) > self._keep:
            self._cache.popitem(last=False)
        return table


def read_fragment(workspace: Workspace, fragment: Fragment, columns: list[str]) -> pa.Table:
    """Columns of one fragment.

    Raises:
        WorkspaceError: the file that the manifest names is gone or torn.
    """
    path = workspace.path(fragment.path)
    try:
        return pq.read_table(path, columns=columns, filesystem=workspace.filesystem, partitioning=None)
    except (OSError, pa.ArrowInvalid) as error:
        raise WorkspaceError(f"{path}: named by a manifest but not readable ({error}); delete the artefact") from None


def iter_posts(workspace: Workspace, posts: Manifest, columns: list[str] | None, rows: int) -> Iterator[pa.Table]:
    """The posts table in pieces of at most `rows` posts, in the order of ingest."""
    for fragment in posts.fragments:
        with workspace.filesystem.open_input_file(workspace.path(fragment.path)) as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=rows, columns=columns):
                yield pa.Table.from_batches([batch])


def post_row_ids(workspace: Workspace, posts: Manifest) -> np.ndarray:
    """Row ids of all posts, int64 (posts,): 8 bytes a post."""
    parts = [read_fragment(workspace, fragment, ["row_id"])["row_id"].to_numpy() for fragment in posts.fragments]
    return np.concatenate([np.zeros(0, np.int64), *parts])
