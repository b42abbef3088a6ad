"""Posts joined with all feature families, one row a post: one Parquet file, or a folder.

Columns: those of the posts table (without `image_bytes`), those of each family, and what is made of these (`add`).
"""

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from smp_ray.errors import ConfigError, WorkspaceError
from smp_ray.store.manifest import Manifest
from smp_ray.store.reader import Index, grouped
from smp_ray.store.wide import indices, wide
from smp_ray.store.workspace import Place, Workspace, writing

#: Written last into a folder: readers know by it that the folder is whole.
SUCCESS = "_SUCCESS"


def is_folder(out: str) -> bool:
    """Whether an export of this name is a folder."""
    return out.split("?")[0].endswith("/")


#: Adds columns to wide rows.
Add = Callable[[pa.Table], pa.Table]


def as_it_is(table: pa.Table) -> pa.Table:
    """Adds nothing."""
    return table


def check_file_name(out: str, else_allowed: str = "") -> None:
    """Raise a `ConfigError` where `--out` is no name of a Parquet file."""
    if not out.split("?")[0].endswith((".parquet", ".pq")):
        raise ConfigError(f"--out: found {out}, allowed: a name that ends in .parquet{else_allowed}")
    if Place.open(out).kind() == pafs.FileType.Directory:
        raise ConfigError(f"--out: found the folder {out}, allowed: the name of a file")


def export(workspace: Workspace, posts: Manifest, families: Sequence[Manifest], out: str, add: Add = as_it_is) -> int:
    """Write the join to the file `out` (a local path or a URI) and return its number of rows.

    The file appears under its name only when it is complete. Takes 8 bytes a post and 8 more a family, of at most
    `reader.GROUP_POSTS` posts at a time, and a piece with the files that it touches.

    Raises:
        ConfigError: `out` is no name of a Parquet file.
        WorkspaceError: it cannot be written.
    """
    check_file_name(out, ", or in / for a folder of files")
    groups = (replace(posts, fragments=group) for group in grouped(posts.fragments))
    write_file(out, chain.from_iterable(map(add, wide(workspace, group, families)) for group in groups))
    return posts.rows


def write_file(out: str, tables: Iterator[pa.Table]) -> None:
    """Write tables, at least one, into one Parquet file, which appears under its name when it is complete.

    Raises:
        WorkspaceError: it cannot be written.
    """
    place = Place.open(out)
    # pyarrow's stream to an object store would make an object of what an exception leaves, so the file is finished
    # here before it is uploaded; an upload that is cut off makes no object.
    folder = os.path.dirname(place.root) if place.is_local else tempfile.gettempdir()
    target = os.path.join(folder, f"{os.path.basename(place.root)}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with writing(out):
            os.makedirs(folder, exist_ok=True)
        _write(tables, target, pafs.LocalFileSystem(), out)
        with writing(out):
            if place.is_local:
                os.replace(target, place.root)
            else:
                pafs.copy_files(target, place.root, pafs.LocalFileSystem(), place.filesystem)
    finally:
        if os.path.exists(target):
            os.remove(target)


def export_folder(
    workspace: Workspace,
    posts: Manifest,
    families: Sequence[Manifest],
    out: str,
    gather: Callable[[Sequence[Any]], list[Any]],
    add: Add = as_it_is,
) -> int:
    """Write the join into the folder `out`, a file a fragment of the posts, and return its number of rows.

    Ray runs, and each file is a task of it; `gather` waits for tasks. Where the rows of `reader.GROUP_POSTS` posts lie
    is found out by a task, for the tasks of their files: 8 bytes a post and 8 more a family. `_SUCCESS` comes last.

    Raises:
        ConfigError: the folder is not empty.
        WorkspaceError: it cannot be written, or the nodes do not share it.
    """
    import ray  # where one file is written it is not needed

    place = Place.open(out)
    if place.kind() == pafs.FileType.File:
        raise ConfigError(f"--out: found the file {out}, allowed: a folder that is empty or not there yet")
    if found := _names(place):
        raise ConfigError(f"--out: found {sorted(found)[0]} in {out}, allowed: a folder that is empty or not there yet")
    with writing(out):
        place.filesystem.create_dir(place.root, recursive=True)
    find: Any = ray.remote(num_cpus=1)(indices)
    part: Any = ray.remote(num_cpus=1)(_export_part)
    stored, added = ray.put(list(families)), ray.put(add)
    tasks: list[Any] = []
    names = [f"part-{number:05d}.parquet" for number in range(len(posts.fragments))]
    for group in grouped(posts.fragments):
        where = find.remote(workspace, replace(posts, fragments=group), stored)
        for fragment in group:
            piece = replace(posts, fragments=[fragment])
            tasks.append(part.remote(workspace, piece, stored, where, place, names[len(tasks)], added))
    gather(tasks)
    if lost := set(names) - _names(place):
        raise WorkspaceError(f"{out}: {len(lost):,} of {len(names):,} files are on other nodes: name a shared folder")
    with writing(out):
        place.write(b"", SUCCESS)
    return posts.rows


def _export_part(
    workspace: Workspace,
    posts: Manifest,
    families: Sequence[Manifest],
    found: Sequence[Index],
    place: Place,
    name: str,
    add: Add,
) -> None:
    """Write one file of a folder; a second try of Ray writes over the first."""
    path = place.path(name)
    with writing(path):
        place.filesystem.create_dir(place.root, recursive=True)  # on this node
    _write(map(add, wide(workspace, posts, families, found)), path, place.filesystem, path)


def _names(place: Place) -> set[str]:
    selector = pafs.FileSelector(place.root, allow_not_found=True)
    return {info.base_name for info in place.filesystem.get_file_info(selector)}


def _write(pieces: Iterator[pa.Table], path: str, filesystem: pafs.FileSystem, told: str) -> None:
    """Write a file, `told` to those whom it fails; what fails in making the pieces is another matter."""
    first = next(pieces)
    with writing(told):
        writer = pq.ParquetWriter(path, first.schema, filesystem=filesystem, compression="zstd")
    try:
        for table in chain([first], pieces):
            with writing(told):
                writer.write_table(table)
    finally:
        with writing(told):
            writer.close()
