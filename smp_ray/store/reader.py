"""Reading the feature store and the posts table: where each post's row lies, and its columns by id.

A family's manifest names its columns (`details.columns`) and the Parquet files (fragments) that hold them, oldest
first; a file may hold several families. A row whose `<family>_status` is null says nothing about that family. Where a
post occurs twice, the later fragment holds.
"""

import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smp_ray.schema import KILLED, KILLED_AGAIN, STATUSES
from smp_ray.store.join import locate_sorted, taken
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.parquet import read_table
from smp_ray.store.workspace import Workspace

#: Folder of the feature families in the workspace.
FAMILIES = "features"
#: Folder of the passes that computed them, and what a pass notes there of the families that it computes.
PASSES, PASS_NOTE = f"{FAMILIES}/passes", "pass.json"
_INDEX = pa.schema(
    {"row_id": pa.int64(), "status": pa.int8(), "kills": pa.int8(), "fragment": pa.int32(), "position": pa.int32()}
)


def index_of(workspace: Workspace, family: str, fragments: Sequence[Fragment]) -> pd.DataFrame:
    """Where each post's row of a family lies, 18 bytes a post.

    Returns:
        A row a post, sorted by `row_id`: `status` as a position in `schema.STATUSES`, `kills`, in how
        many runs it killed its worker, `fragment` as a position in the
        list, `position` of the row within that fragment.
    """
    parts = [_INDEX.empty_table()]
    for number, fragment in enumerate(fragments):
        table = read_table(workspace, fragment.path, ["row_id", f"{family}_status", f"{family}_error"])
        kills = pc.fill_null(pc.index_in(table[f"{family}_error"], value_set=pa.array([KILLED, KILLED_AGAIN])), -1)
        status = pc.index_in(table[f"{family}_status"], value_set=pa.array(STATUSES))
        columns = [table["row_id"], status, pc.add(kills, 1), np.full(len(table), number), np.arange(len(table))]
        parts.append(pa.table(columns, names=_INDEX.names).cast(_INDEX).filter(pc.is_valid(status)))
    rows = pa.concat_tables(parts).to_pandas()
    return rows.drop_duplicates("row_id", keep="last").sort_values("row_id", ignore_index=True)


def statuses_of(index: pd.DataFrame, row_ids: np.ndarray) -> np.ndarray:
    """Position in `schema.STATUSES` of each id, int8 (n,); -1 where the family has no row of it."""
    found = locate_sorted(row_ids, index["row_id"].to_numpy())
    return np.append(index["status"].to_numpy(), np.int8(-1))[found]


class FamilyReader:
    """Reads columns of a family for given posts, keeping a few fragments in memory.

    Posts asked for in the order in which they were ingested touch each fragment about once.

    Args:
        columns: those to read; None: all. The status is always among them.
        keep: fragments held in memory.
        index: of all the family's fragments, as `index_of` makes it, where that is there; None: it is made.
    """

    def __init__(
        self,
        workspace: Workspace,
        manifest: Manifest,
        columns: Sequence[str] | None = None,
        keep: int = 8,
        index: pd.DataFrame | None = None,
    ) -> None:
        family = manifest.stage.rpartition("/")[2]
        self._workspace = workspace
        self._fragments = manifest.fragments
        self._index = index_of(workspace, family, manifest.fragments) if index is None else index
        newest = pq.read_schema(workspace.path(manifest.fragments[-1].path), filesystem=workspace.filesystem)
        wanted = manifest.details["columns"] if columns is None else {*columns, f"{family}_status"}
        self.schema = pa.schema([newest.field(name) for name in manifest.details["columns"] if name in wanted])
        self._kept: dict[int, pa.Table] = {}
        self._keep = keep

    def read(self, row_ids: np.ndarray) -> pa.Table:
        """The columns, one row an id and in their order; null where the store has no row."""
        found = locate_sorted(row_ids, self._index["row_id"].to_numpy())
        known = np.flatnonzero(found >= 0)
        rows = self._index.iloc[found[known]].set_axis(known)
        pieces, order = [self.schema.empty_table()], [np.zeros(0, np.int64)]
        for number, of_fragment in rows.groupby("fragment"):
            pieces.append(self._load(int(str(number))).take(pa.array(of_fragment["position"])))
            order.append(of_fragment.index.to_numpy())
        places = np.full(len(row_ids), -1)
        places[np.concatenate(order)] = np.arange(len(rows))
        return taken(pa.concat_tables(pieces), places)

    def _load(self, number: int) -> pa.Table:
        if number not in self._kept:
            while len(self._kept) >= self._keep:
                del self._kept[next(iter(self._kept))]
            table = read_table(self._workspace, self._fragments[number].path, self.schema.names)
            self._kept[number] = table.cast(self.schema)
        return self._kept[number]


def read_columns(workspace: Workspace, manifest: Manifest, columns: Sequence[str], row_ids: np.ndarray) -> pa.Table:
    """Some columns of a stored family, and its status, for given posts; one fragment in memory at a time."""
    return FamilyReader(workspace, manifest, columns, keep=1).read(row_ids)


def iter_posts(workspace: Workspace, posts: Manifest, columns: list[str] | None, rows: int) -> Iterator[pa.Table]:
    """The posts table in pieces of at most `rows` posts, in the order of ingest."""
    for fragment in posts.fragments:
        with pq.ParquetFile(workspace.path(fragment.path), filesystem=workspace.filesystem) as file:
            for batch in file.iter_batches(batch_size=rows, columns=columns):
                yield pa.Table.from_batches([batch])


def post_row_ids(workspace: Workspace, posts: Manifest) -> np.ndarray:
    """Row ids of all posts, int64 (posts,): 8 bytes a post."""
    parts = [read_table(workspace, fragment.path, ["row_id"])["row_id"].to_numpy() for fragment in posts.fragments]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def new_pass() -> str:
    """A folder for the files of a pass that nobody has; names are in the order of time."""
    return f"{PASSES}/{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def passes_of(workspace: Workspace, family: str, fingerprint: str) -> list[str]:
    """Folders of the passes that computed a family as this fingerprint says, oldest first."""
    paths = [info.path for info in workspace.files(PASSES) if info.base_name == PASS_NOTE]
    folders = [workspace.relative(path).removesuffix(f"/{PASS_NOTE}") for path in paths]
    return [
        folder for folder in folders if workspace.read_json(folder, PASS_NOTE)["families"].get(family) == fingerprint
    ]
