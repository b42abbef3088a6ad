"""Ids are unique over all pieces: the first post of an id is kept, later ones are rejected.

Only the ids are looked at, as hashes of 128 bits (two ids of a billion meet by chance with a probability of 10^-20).
In one process they take some 150 bytes a post; on Ray they are compared in ceil(posts / SHARE) shares, each of which is
a task of some 600 MB, whatever the number of posts, and the hashes go there through the object store, 24 bytes a post
in the whole cluster. Who asks holds the places of the repeated ids, 8 bytes each, and no others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from smp_ray.schema import REJECTED
from smp_ray.sources.base import Intake
from smp_ray.sources.piece import PieceFiles, Rows, count, each, row_groups
from smp_ray.store.manifest import Fragment
from smp_ray.store.parquet import PartWriter, read_table
from smp_ray.store.workspace import Workspace, asked_again

if TYPE_CHECKING:
    from smp_ray.ray_session import RaySession

#: Ids that are compared, or hashed by one task, at a time.
SHARE = 4_000_000
_HASH_KEYS = ("smp_ray post ids", "and once again..")
#: The place of a post is the number of its file and its row there, in one integer.
_ROW_BITS = 32


def without_repeats(
    workspace: Workspace, folder: str, pieces: Sequence[PieceFiles], session: RaySession | None = None
) -> list[PieceFiles]:
    """The pieces with every post_id and row_id once.

    Files that lose posts are written again into `<folder>/once`, and what they lose into `<folder>/repeated`.
    """
    fragments = [fragment for piece in pieces for fragment in piece.posts]
    places = np.union1d(*(_places(workspace, fragments, column, session) for column in ("post_id", "row_id")))
    begins = np.searchsorted(places, np.arange(len(fragments) + 1) << _ROW_BITS)
    calls, number = [], 0
    for piece in pieces:
        for fragment in piece.posts:
            here = places[begins[number] : begins[number + 1]]
            if len(here):
                calls.append((workspace, folder, number, fragment, here & (2**_ROW_BITS - 1), piece.source_file))
            number += 1
    changed = dict(zip((call[2] for call in calls), each(_rewritten, calls, session), strict=True))
    parts = iter([changed.get(number) for number in range(len(fragments))])
    return [_merged(piece, [next(parts) for _ in piece.posts]) for piece in pieces]


def _merged(piece: PieceFiles, parts: Sequence[PieceFiles | None]) -> PieceFiles:
    """A piece some of whose files were written again."""
    posts = [[old] if new is None else new.posts for old, new in zip(piece.posts, parts, strict=True)]
    changed = [piece, *(part for part in parts if part)]
    counts = Counter[str]()
    for part in changed:
        counts.update(part.counts)
    return PieceFiles(
        posts=[file for files in posts for file in files],
        rejected=[file for part in changed for file in part.rejected],
        counts=dict(counts),
        first_reason=next((part.first_reason for part in changed if part.first_reason), ""),
        source_file=piece.source_file,
    )


def _places(
    workspace: Workspace, fragments: Sequence[Fragment], column: str, session: RaySession | None
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Places, in order, of the posts whose id another post before them has, int64 (n,)."""
    ends = np.cumsum([fragment.rows for fragment in fragments])
    if not len(ends):
        return np.zeros(0, np.int64)
    if session is None:
        found = [_repeats(*_hashes(workspace, list(enumerate(fragments)), column, 1))]
    else:
        import ray

        shares = max(2, int(-(-ends[-1] // SHARE)))  # of one, Ray would make a list
        task: Any = ray.remote(num_cpus=session.cpus_of(1), num_returns=shares)(_hashes)
        numbered = groupby(enumerate(fragments), key=lambda one: ends[one[0]] // SHARE)
        parts = [task.remote(workspace, list(group), column, shares) for _, group in numbered]
        found = each(_repeats, list(zip(*parts, strict=True)), session)
    return np.sort(np.concatenate(found))


def _hashes(
    workspace: Workspace, fragments: Sequence[tuple[int, Fragment]], column: str, shares: int
) -> list[np.ndarray[Any, np.dtype[np.uint64]]]:
    """Two hashes of each id of some numbered files, and its place, uint64 (n, 3) a share, in the order of the posts."""
    from pandas.util import hash_array  # a configuration is loaded without pandas

    parts = []
    for number, fragment in fragments:
        ids = read_table(workspace, fragment.path, [column])[column].to_numpy()
        hashes = [hash_array(ids, hash_key=key, categorize=False) for key in _HASH_KEYS]
        parts.append(np.stack([*hashes, np.arange(len(ids), dtype=np.uint64) + np.uint64(number << _ROW_BITS)], axis=1))
    rows = np.concatenate(parts)
    share = (rows[:, 0] % np.uint64(shares)).astype(np.int32)
    order = np.argsort(share, kind="stable")
    return np.split(rows[order], np.searchsorted(share[order], np.arange(1, shares)))


def _repeats(*parts: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Places of the ids of a share that are not the first of their kind, int64 (n,)."""
    from pandas import DataFrame

    rows = np.concatenate(parts)
    return rows[DataFrame(rows[:, :2]).duplicated().to_numpy(), 2].astype(np.int64)


def _rewritten(
    workspace: Workspace,
    folder: str,
    number: int,
    fragment: Fragment,
    rows: np.ndarray[Any, np.dtype[np.int64]],
    source_file: str,
) -> PieceFiles:
    """A file without some rows, these as rejected records, and by how much the counts of its piece change."""
    full, counts, begin = workspace.path(fragment.path), Counter[str](), 0
    schema = asked_again(lambda: pq.read_schema(full, filesystem=workspace.filesystem))
    with (
        PartWriter(workspace, f"{folder}/once/part-{number:05d}.parquet", schema) as writer,
        PartWriter(workspace, f"{folder}/repeated/part-{number:05d}.parquet", REJECTED) as rejected_writer,
    ):
        rejected = Rows(rejected_writer)
        intake = Intake(rejected.add, counts=counts)
        for table in row_groups(workspace, fragment):
            here = slice(*np.searchsorted(rows, [begin, begin + len(table)]))
            kept = np.ones(len(table), bool)
            kept[rows[here] - begin] = False
            if kept.any():
                writer.write(table.filter(kept))
            for values in table.filter(~kept).to_pylist():
                count(counts, values, by=-1)
                record = {name: value for name, value in values.items() if value is not None and name != "row_id"}
                reason = f"post_id {values['post_id']!r} (or its row_id) was taken before; the first is kept"
                intake.reject("duplicate_post_id", source_file, record, reason)
            begin += len(table)
        rejected.write()
    return PieceFiles(writer.fragments, rejected_writer.fragments, dict(counts), intake.first_reason, source_file)
