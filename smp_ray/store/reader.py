"""Reading the feature store and the posts table: where each post's row lies, and its columns by id.

A family's manifest names its columns (`details.columns`) and the Parquet files (fragments) that hold them, oldest
first; a file may hold several families. A row whose `<family>_status` is null says nothing about that family. Where a
post occurs twice, the later fragment holds.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smp_ray.store.join import gathered, locate_sorted
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.parquet import in_turn, read_table, reading
from smp_ray.store.workspace import Workspace, asked_again

#: Folder of the feature families in the workspace.
FAMILIES = "features"
#: Folder of the passes that computed them, and what a pass notes there of the families that it computes.
PASSES, PASS_NOTE = f"{FAMILIES}/passes", "pass.json"
#: Posts whose rows one process looks for at once.
GROUP_POSTS = 2**24
#: Files of a family that are read at once, and held from one reading to the next.
_KEPT = 8


@dataclass(frozen=True)
class Index:
    """Where posts' rows of a family lie: 16 bytes a post.

    Attributes:
        row_ids: int64 (posts,), sorted.
        fragment: int32 (posts,), the file as a position in the family's list; -1 where the family has no row.
        position: int32 (posts,), of the row within that file.
    """

    row_ids: np.ndarray
    fragment: np.ndarray
    position: np.ndarray


def index_of(workspace: Workspace, family: str, fragments: Sequence[Fragment], row_ids: np.ndarray) -> Index:
    """Where the rows of posts lie; `row_ids` are sorted ids.

    Takes 8 bytes a post beside the ids, and some megabytes a file that is being read.
    """

    def said(fragment: Fragment) -> tuple[np.ndarray, np.ndarray]:
        table = read_table(workspace, fragment.path, ["row_id", f"{family}_status"])
        positions = np.flatnonzero(table[f"{family}_status"].is_valid().to_numpy())
        return table["row_id"].to_numpy()[positions], positions.astype(np.int32)

    fragment, position = np.full(len(row_ids), -1, np.int32), np.full(len(row_ids), -1, np.int32)
    for number, (ids, positions) in enumerate(in_turn(said, fragments)):
        places = locate_sorted(ids, row_ids)
        here = places >= 0
        fragment[places[here]], position[places[here]] = number, positions[here]
    return Index(row_ids, fragment, position)


def grouped(fragments: Sequence[Fragment]) -> list[list[Fragment]]:
    """Files in their order, in groups of at most `GROUP_POSTS` rows (or one file)."""
    groups: list[list[Fragment]] = [[]]
    rows = 0
    for fragment in fragments:
        if groups[-1] and rows + fragment.rows > GROUP_POSTS:
            groups, rows = [*groups, []], 0
        groups[-1].append(fragment)
        rows += fragment.rows
    return groups


def family_of(manifest: Manifest) -> str:
    """The family that a manifest is of."""
    return manifest.stage.rpartition("/")[2]


class FamilyReader:
    """Reads columns of a family for given posts, keeping a few fragments in memory.

    Posts asked for in the order in which they were ingested touch each fragment about once.

    Args:
        index: as `index_of` makes it, of all posts that will be asked for.
        columns: those to read; None: all. The status is always among them.
    """

    def __init__(
        self, workspace: Workspace, manifest: Manifest, index: Index, columns: Sequence[str] | None = None
    ) -> None:
        family = family_of(manifest)
        self._index = index
        path = workspace.path(manifest.fragments[-1].path)
        newest = asked_again(lambda: pq.read_schema(path, filesystem=workspace.filesystem))
        wanted = manifest.details["columns"] if columns is None else {*columns, f"{family}_status"}
        self.schema = pa.schema([newest.field(name) for name in manifest.details["columns"] if name in wanted])
        self._loaded = lru_cache(_KEPT)(partial(_load, workspace, manifest.fragments, self.schema))

    def read(self, row_ids: np.ndarray) -> pa.Table:
        """The columns, one row an id and in their order; null where the store has no row."""
        found = locate_sorted(row_ids, self._index.row_ids)
        fragment, position = (np.full(len(found), -1, np.int32) for _ in range(2))
        here = found >= 0
        fragment[here], position[here] = self._index.fragment[found[here]], self._index.position[found[here]]
        tables = partial(in_turn, self._loaded, at_once=_KEPT)
        return gathered(tables, fragment, position, self.schema.empty_table())


def _load(workspace: Workspace, fragments: Sequence[Fragment], schema: pa.Schema, number: int) -> pa.Table:
    return read_table(workspace, fragments[number].path, schema.names).cast(schema)


def read_columns(workspace: Workspace, manifest: Manifest, columns: Sequence[str], row_ids: np.ndarray) -> pa.Table:
    """Some columns of a stored family, and its status, for given posts; a few fragments in memory at a time."""
    index = index_of(workspace, family_of(manifest), manifest.fragments, np.unique(row_ids))
    return FamilyReader(workspace, manifest, index, columns).read(row_ids)


def iter_posts(workspace: Workspace, posts: Manifest, columns: list[str] | None, rows: int) -> Iterator[pa.Table]:
    """The posts table in pieces of at most `rows` posts, in the order of ingest."""
    for fragment in posts.fragments:
        path = workspace.path(fragment.path)
        with reading(path), pq.ParquetFile(path, filesystem=workspace.filesystem) as file:
            for batch in file.iter_batches(batch_size=rows, columns=columns):
                yield pa.Table.from_batches([batch])


def remote(uris: pa.ChunkedArray) -> bool:
    """Whether one of some posts' `image_uri` is on a server, not a path."""
    return bool(pc.any(pc.match_substring(uris, "://")).as_py())


def post_row_ids(workspace: Workspace, posts: Manifest) -> np.ndarray:
    """Row ids of all posts, int64 (posts,): 8 bytes a post."""
    parts = in_turn(lambda one: read_table(workspace, one.path, ["row_id"])["row_id"].to_numpy(), posts.fragments)
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
