"""Ids are unique over all pieces: the first post of an id is kept, later ones are rejected.

Only the ids are looked at, as hashes of 128 bits (two ids of a billion meet by chance with a probability of 10^-20).
They are compared in ceil(posts / SHARE) shares, each of which takes 24 bytes a post as it comes and about 50 more while
it is compared: 300 MB, whatever the number of posts. In one process a share follows the other, and the ids are read
again for each; on Ray a share is a task, and the hashes go there through the object store, 24 bytes a post in the whole
cluster. Who asks holds the places of the repeated ids, 8 bytes each, and no others.
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
    repeated = _places(workspace, fragments, "post_id", session)
    places = np.union1d(repeated, _places(workspace, fragments, "row_id", session))
    begins = np.searchsorted(places, np.arange(len(fragments) + 1) << _ROW_BITS)
    calls, number = [], 0
    for piece in pieces:
        before = 0
        for fragment in piece.posts:
            here = places[begins[number] : begins[number + 1]]
            if len(here):
                rows, by_post_id = here & (2**_ROW_BITS - 1), np.isin(here, repeated)
                calls.append((workspace, folder, number, fragment, rows, by_post_id, piece.sources, before))
            before, number = before + fragment.rows, number + 1
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
    rows = np.sum([[rows for _, rows in part.sources] for part in changed], axis=0).tolist()
    return PieceFiles(
        posts=[file for files in posts for file in files],
        rejected=[file for part in changed for file in part.rejected],
        counts=dict(counts),
        first_reason=next((part.first_reason for part in changed if part.first_reason), ""),
        sources=[(name, left) for (name, _), left in zip(piece.sources, rows, strict=True)],
    )


def _places(
    workspace: Workspace, fragments: Sequence[Fragment], column: str, session: RaySession | None
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Places, in order, of the posts whose id another post before them has, int64 (n,)."""
    ends = np.cumsum([fragment.rows for fragment in fragments])
    if not len(ends):
        return np.zeros(0, np.int64)
    shares = int(-(-ends[-1] // SHARE))
    if session is None:
        found = [
            _repeats(
                *(_hashes(workspace, [numbered], column, shares)[share].copy() for numbered in enumerate(fragments))
            )
            for share in range(shares)
        ]
    else:
        import ray

        shares = max(2, shares)  # of one, Ray would make a list
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
    rows = np.concatenate(parts)
    order = np.argsort(rows[:, 0], kind="stable")
    first = rows[order, 0]
    twins = np.flatnonzero(first[1:] == first[:-1])
    suspects = rows[np.union1d(order[twins], order[twins + 1])]
    _, kept = np.unique(suspects[:, :2], axis=0, return_index=True)
    return np.delete(suspects[:, 2], kept).astype(np.int64)


def _rewritten(
    workspace: Workspace,
    folder: str,
    number: int,
    fragment: Fragment,
    rows: np.ndarray[Any, np.dtype[np.int64]],
    by_post_id: np.ndarray[Any, np.dtype[np.bool_]],
    sources: Sequence[tuple[str, int]],
    before: int,
) -> PieceFiles:
    """A file without some rows, these as rejected records, and by how much the counts of its piece change.

    `sources` are those of the piece, which has so many posts `before` this file.
    """
    full, counts, begin = workspace.path(fragment.path), Counter[str](), 0
    runs = np.searchsorted(np.cumsum([posts for _, posts in sources]), before + rows, side="right")
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
            dropped = table.filter(~kept).to_pylist()
            for values, again, run in zip(dropped, by_post_id[here], runs[here], strict=True):
                count(counts, values, by=-1)
                row_id = values.pop("row_id")
                record = {column: value for column, value in values.items() if value is not None}
                if again:
                    reason = f"post_id {values['post_id']!r} was taken before; the first is kept"
                    intake.reject("duplicate_post_id", sources[run][0], record, reason)
                else:
                    intake.reject("row_id", sources[run][0], record, f"row_id {row_id} is that of another post")
            begin += len(table)
        rejected.write()
    lost = np.bincount(runs, minlength=len(sources)).tolist()
    left = [(name, -posts) for (name, _), posts in zip(sources, lost, strict=True)]
    return PieceFiles(writer.fragments, rejected_writer.fragments, dict(counts), intake.first_reason, left)
