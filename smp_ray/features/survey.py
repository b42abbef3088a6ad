"""What the store holds of the posts before a pass and after it, found out by Ray tasks that have some files each.

A task has the ids of at most `GROUP_POSTS` posts, sorted, and goes through all files of the families, of which it keeps
what is of its own posts. Beside what its process has imported it takes, in bytes:

    posts x (8 id + 20 while they are sorted, then 4 + 3 + 1 a family + 8 a stored column that the families read)
    + 16 files that are read at once x their rows x some 40

and hands over, for the pass, posts x (8 id + (families + 1) / 8 + 8 a stored column): where the column's values lie and
never the values. Where every post needs everything and nothing is stored, as at first, it hands over nothing. Ids and
statuses of a family, some 10 bytes a post, are read once by each task: 60 times at a billion posts.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from smp_ray.families.registry import find, looking, owner_of
from smp_ray.schema import ERROR, FAILED_TWICE, STATUSES, TWICE
from smp_ray.store.join import gathered, locate_sorted
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.parquet import in_turn, read_table
from smp_ray.store.reader import family_of, grouped, index_of, remote
from smp_ray.store.workspace import Workspace

MISSING = "missing"
_NAMES = (MISSING, *STATUSES, FAILED_TWICE)


@dataclass(frozen=True)
class Known:
    """What the tasks of a pass need to know of the store.

    Attributes:
        part_of: which of `parts` has the posts of a file of the posts table, by its path.
        parts: references to tables with a row a post, sorted by `row_id`: `need_<family>`, `failed` (whether it had
            an error before), `<column>_fragment` and `_position` of stored columns; to None where every post needs
            every family and nothing is stored.
        files: by column, the files of the stored family that has it.
    """

    workspace: Workspace
    part_of: dict[str, int]
    parts: list[Any]
    files: dict[str, list[str]]

    def attached(self, table: pa.Table, file: str | None, families: Sequence[str]) -> pa.Table:
        """Posts of one file with what is known of them, the stored columns read from where they lie."""
        flags = [*(f"need_{family}" for family in families), "failed"]
        part = None if file is None else ray.get(self.parts[self.part_of[self.workspace.relative(file)]])
        if part is None:
            for name in flags:
                table = table.append_column(name, pa.array(np.full(table.num_rows, name != "failed")))
            return table
        found = part.take(pa.array(locate_sorted(table["row_id"].to_numpy(), part["row_id"].to_numpy())))
        for name in flags:
            table = table.append_column(name, found[name])
        wanted = np.any([found[name].to_numpy() for name in flags[:-1]], axis=0)
        for column, files in self.files.items():
            number, position = (found[f"{column}_{what}"].to_numpy() for what in ("fragment", "position"))
            tables = partial(_stored_column, self.workspace, files, column)
            empty = pa.table({column: pa.nulls(0)})
            table = table.append_column(column, gathered(tables, np.where(wanted, number, -1), position, empty)[column])
        return table


def _stored_column(workspace: Workspace, files: list[str], column: str, numbers: list[int]) -> Iterator[pa.Table]:
    return (_read_column(workspace, files[number], column) for number in numbers)


@lru_cache(maxsize=4)
def _read_column(workspace: Workspace, path: str, column: str) -> pa.Table:
    """A column of one file: blocks that follow each other mostly ask the same few."""
    return read_table(workspace, path, [column])


@dataclass
class Survey:
    """What is there of some families.

    Attributes:
        counts: posts by status of each family: those without a row as `MISSING`, those with an error in two runs as
            `FAILED_TWICE`.
        todo: posts that need each family.
        needing: posts that need some family, of each file of the posts table.
        remote: whether a picture lies on a server and a family looks at pictures.
        known: reference to a `Known`.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    todo: dict[str, int] = field(default_factory=dict)
    needing: list[int] = field(default_factory=list)
    remote: bool = False
    known: Any = None

    def wanted(self, posts: Manifest) -> list[Fragment]:
        """The files of the posts table with posts that need some family."""
        return [fragment for fragment, count in zip(posts.fragments, self.needing, strict=True) if count]


@dataclass(frozen=True)
class Question:
    """What a survey asks: the files of each family, the statuses computed again, and by column the family to locate."""

    workspace: Workspace
    files: Mapping[str, list[Fragment]]
    again: frozenset[str]
    located: Mapping[str, tuple[str, list[Fragment]]]


def survey(
    workspace: Workspace,
    posts: Manifest,
    files: Mapping[str, list[Fragment]],
    again: Iterable[str] = (),
    stored: Mapping[str, Manifest] | None = None,
) -> Survey:
    """What is there of some families, by the `files` that hold each.

    For a pass, which posts have a status among `again`, and where the columns of `stored` families lie that they read.
    """
    columns = dict.fromkeys(column for family in files for column in find(family).reads)
    owners = {column: (stored or {}).get(owner_of(column) or "") for column in columns}
    there = {column: (family_of(m), m.fragments) for column, m in owners.items() if m and m.fragments}
    question = ray.put(Question(workspace, files, frozenset(again), there))
    task: Any = ray.remote(num_cpus=1, num_returns=2, scheduling_strategy="SPREAD")(survey_part)
    parts = grouped(posts.fragments)
    asked = [task.remote(question, part) for part in parts]  # the tables belong to the driver, whatever node is lost
    found = Survey()
    for one in ray.get([answer for answer, _ in asked]):
        found.needing += one.needing
        found.remote = found.remote or one.remote
        for family, counts in one.counts.items():
            found.counts[family] = dict(Counter(found.counts.get(family, {})) + Counter(counts))
        for family, count in one.todo.items():
            found.todo[family] = found.todo.get(family, 0) + count
    part_of = {fragment.path: number for number, part in enumerate(parts) for fragment in part}
    paths = {column: [fragment.path for fragment in fragments] for column, (_, fragments) in there.items()}
    found.known = ray.put(Known(workspace, part_of, [table for _, table in asked], paths))
    return found


def survey_part(question: Question, posts: Sequence[Fragment]) -> tuple[Survey, pa.Table | None]:
    """The survey of the posts of some files, and its part of `Known`."""
    workspace, again = question.workspace, question.again
    looks = bool(again) and bool(looking(question.files))
    read = list(in_turn(lambda fragment: _posts_of(workspace, fragment, looks), posts))
    ends = np.cumsum([len(ids) for ids, _ in read])
    found = Survey(remote=any(remote for _, remote in read))
    ids = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in read)])
    del read
    order = np.argsort(ids).astype(np.int32)
    ids = ids[order]
    columns: dict[str, Any] = {"row_id": ids}
    failed, some, every = np.zeros(len(ids), dtype=bool), np.zeros(len(ids), dtype=bool), True
    for family, files in question.files.items():
        codes = _codes(workspace, family, files, ids)
        failed |= np.isin(_NAMES, [ERROR, FAILED_TWICE])[codes]
        counts = np.bincount(codes, minlength=len(_NAMES)).tolist()
        found.counts[family] = {name: count for name, count in zip(_NAMES, counts, strict=True) if count}
        if again:
            need = np.isin(_NAMES, list(again))[codes]
            for column in find(family).reads:  # of an earlier family, which may come out otherwise now
                need = need | columns.get(f"need_{owner_of(column)}", False)
            columns[f"need_{family}"] = need
            found.todo[family] = int(need.sum())
            some, every = some | need, every and bool(need.all())
    posts_order = np.zeros_like(some)
    posts_order[order] = some
    found.needing = [int(part.sum()) for part in np.split(posts_order, ends[:-1])]
    if not some.any() or (every and not question.located and not failed.any()):
        return found, None  # nobody will ask, or nothing needs to be told
    columns["failed"] = failed
    for column, (family, files) in question.located.items():
        index = index_of(workspace, family, files, ids)
        columns |= {f"{column}_fragment": index.fragment, f"{column}_position": index.position}
    return found, pa.table(columns)


def _posts_of(workspace: Workspace, fragment: Fragment, looks: bool) -> tuple[np.ndarray, bool]:
    """Row ids of a file of the posts table, and whether a picture that is looked at lies on a server."""
    table = read_table(workspace, fragment.path, ["row_id", *(["image_uri"] if looks else [])])
    return table["row_id"].to_numpy(), looks and remote(table["image_uri"])


def _codes(workspace: Workspace, family: str, files: Sequence[Fragment], ids: np.ndarray) -> np.ndarray:
    """Of each of some sorted ids its status as a position in `_NAMES`, int8 (n,); the later file holds."""

    def located(fragment: Fragment) -> tuple[np.ndarray, np.ndarray]:
        table = read_table(workspace, fragment.path, ["row_id", f"{family}_status", f"{family}_error"])
        status = pc.index_in(table[f"{family}_status"], value_set=pa.array(STATUSES))
        twice = pc.and_(
            pc.equal(table[f"{family}_status"], ERROR),
            pc.fill_null(pc.ends_with(table[f"{family}_error"], TWICE), False),
        )
        codes = pc.if_else(twice, _NAMES.index(FAILED_TWICE), pc.add(status, 1))
        places = locate_sorted(table["row_id"].to_numpy(), ids)
        here = (places >= 0) & status.is_valid().to_numpy()
        return places[here], codes.to_numpy()[here]

    found = np.zeros(len(ids), dtype=np.int8)
    for places, codes in in_turn(located, files):
        found[places] = codes
    return found
