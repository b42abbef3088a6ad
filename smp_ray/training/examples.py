"""The gather stage: the posts to learn from and their features, gathered once.

Whatever is learned later reads these rows alone, and is identified by their content: posts without a label that come or
go start nothing again, as little as features that are computed anew and come out the same. The artefact has numbered
files of `PIECE` rows for the posts table and for each family, row by row alike.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.errors import DataError
from smp_ray.run import Run
from smp_ray.schema import KEYS
from smp_ray.store.join import locate_sorted
from smp_ray.store.manifest import Fragment, Made, Manifest, content_of, fingerprint
from smp_ray.store.parquet import in_turn, read_table, write_table
from smp_ray.store.wide import PIECE, wide
from smp_ray.store.workspace import Workspace
from smp_ray.training.past import Past, seconds, user_hashes

#: What the files of the posts table are called; those of a family have its name.
POSTS = "posts"
#: Of all labelled posts, where a sample is learned from.
PAST_FILE = "past.safetensors"


def gather(run: Run, folder: str, posts: Manifest, store: dict[str, Manifest]) -> Made:
    """Copy the posts of split `train` that have a popularity, or a sample of them, with the columns of `store`.

    Takes 32 bytes a labelled post where they are sampled, and a piece with the files that it touches.

    Raises:
        DataError: no such post, or labels that are all equal or not finite.
    """
    most, sample, past = run.config.training.max_labelled, None, ""
    if most is not None and len((every := _labelled(run.workspace, posts))[0]) > most:
        row_ids, users, times, popularity = every
        # A post without a user is its own.
        owners = np.where(users == 0, row_ids.view(np.uint64), users)
        sample = np.sort(row_ids[spread(owners, np.nan_to_num(times), most)])
        # All labelled posts are their users' past, as they are when later posts are predicted.
        past = f"{folder}/{PAST_FILE}"
        run.workspace.write(Past.of(users, times, popularity).to_bytes(), past)
    pieces = wide(run.workspace, posts, list(store.values()), keep=partial(_kept, sample=sample))
    fragments, labels = [], []
    hashes: dict[str, list[str]] = {name: [] for name in (POSTS, *store)}
    own = {name: [*KEYS.names, *manifest.details["columns"]] for name, manifest in store.items()}
    others = {column for columns in own.values() for column in columns if column not in KEYS.names}
    for number, table in enumerate(_of_equal_size(pieces)):
        labels.append(table["popularity"].to_numpy())
        for name, parts in hashes.items():
            # Where pictures lie, nobody learns from: they may move.
            columns = own.get(name, [c for c in table.column_names if c not in others and c != "image_uri"])
            path = f"{folder}/{name}-{number:05d}.parquet"
            fragments.append(write_table(run.workspace, path, table.select(columns)))
            parts.append(content_of(run.workspace.read(path)))
    check_labels(np.concatenate([np.zeros(0), *labels]))
    rows = sum(map(len, labels))
    note = f"{rows:,} labelled posts" + ("" if sample is None else " (a sample: training.max_labelled)")
    if past:
        hashes[POSTS].append(content_of(run.workspace.read(past)))
    contents = {name: fingerprint(parts) for name, parts in hashes.items()}
    return Made(rows=rows, fragments=fragments, details={"contents": contents, "past": past}, note=note)


def example_files(labelled: Manifest, part: str) -> list[Fragment]:
    """The files of one part: `POSTS`, or a family, in order."""
    return [fragment for fragment in labelled.fragments if fragment.path.rpartition("/")[2].rpartition("-")[0] == part]


def example_pieces(workspace: Workspace, labelled: Manifest, parts: Sequence[str]) -> Iterator[pa.Table]:
    """The labelled posts in order, in pieces of at most `PIECE`: `POSTS`, families, or several side by side."""
    for files in zip(*(example_files(labelled, part) for part in parts), strict=True):
        tables = [read_table(workspace, file.path) for file in files]
        columns = {name: table[name] for table in tables for name in table.column_names}
        yield pa.table(columns)


def check_labels(labels: np.ndarray) -> None:
    """Raise a `DataError` where these labels, float64 (posts,), teach nothing."""
    if not len(labels):
        raise DataError("no post of split train has a popularity, so there is nothing to learn from")
    if not np.isfinite(labels).all():
        raise DataError(f"{int((~np.isfinite(labels)).sum()):,} labels are not finite numbers")
    if (labels == labels[0]).all():
        same = f"all {len(labels):,} labels are {labels[0]:g}"
        raise DataError(f"{same}, so there is nothing to learn; `smp-ray report` shows the features")


def spread(users: np.ndarray, moments: np.ndarray, count: int) -> np.ndarray:
    """Positions of `count` posts at equal distances in the order of users, and of time for each user, sorted.

    `users` may be any numbers, one a user; both arrays are (posts,).
    """
    order = np.lexsort((moments, users))
    return np.sort(order[np.arange(count) * len(order) // count])


def _wanted(table: pa.Table) -> pa.Table:
    return table.filter((pc.field("split") == "train") & pc.field("popularity").is_valid())


def _kept(table: pa.Table, sample: np.ndarray | None) -> pa.Table:
    table = _wanted(table)
    return table if sample is None else table.filter(pa.array(locate_sorted(table["row_id"].to_numpy(), sample) >= 0))


def _labelled(workspace: Workspace, posts: Manifest) -> tuple[np.ndarray, ...]:
    """Row ids of all labelled posts, a number a user (0: none), seconds since 1970 (NaN: none) and popularity."""

    def part(fragment: Fragment) -> tuple[np.ndarray, ...]:
        table = _wanted(read_table(workspace, fragment.path, columns))
        users, times = user_hashes(table["user_id"]), seconds(table["posted_at"])
        return table["row_id"].to_numpy(), users, times, table["popularity"].to_numpy()

    columns = ["row_id", "user_id", "posted_at", "split", "popularity"]
    return tuple(np.concatenate(column) for column in zip(*in_turn(part, posts.fragments), strict=True))


def _of_equal_size(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of `PIECE` rows (the last may have fewer), however they came."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while sum(part.num_rows for part in held) >= PIECE:
            whole = pa.concat_tables(held)
            yield whole.slice(0, PIECE).combine_chunks()
            held = [whole.slice(PIECE)]
    rest = pa.concat_tables(held)
    if rest.num_rows:
        yield rest.combine_chunks()
