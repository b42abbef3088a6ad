"""Parquet files of the workspace: written and registered in one go, and read with a clear word where one is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from smp_ray.errors import WorkspaceError
from smp_ray.store.manifest import Fragment
from smp_ray.store.workspace import Workspace, asked_again, writing

#: A numbered file is closed when it has this many rows or Arrow bytes.
FILE_ROWS = 100_000
_FILE_BYTES = 2**29
#: Files that one process has open at once, where it goes through many: most of the time it waits for their store.
AT_ONCE = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_turn(function: Callable[[Item], Result], items: Sequence[Item], at_once: int = AT_ONCE) -> Iterator[Result]:
    """Results of a function in the order of the items; threads work on `at_once` of them, and no more are held."""
    with ThreadPoolExecutor(at_once) as pool:
        for start in range(0, len(items), at_once):
            yield from pool.map(function, items[start : start + at_once])


def write_table(workspace: Workspace, path: str, table: pa.Table) -> Fragment:
    """Write a table to a path of the workspace; returns the file as a manifest names it."""
    with PartWriter(workspace, path, table.schema) as writer:
        writer.write(table)
    return writer.fragments[0]


def read_table(workspace: Workspace, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A table of the workspace.

    Raises:
        WorkspaceError: the file that a manifest names is gone or torn.
    """

    def read(file: pq.ParquetFile) -> pa.Table:
        table = file.read(columns)
        return table if columns is None else table.select(list(columns))

    # Half the requests of `pq.read_table`, which first asks what kind of path it is.
    return _read(workspace, path, read, pre_buffer=True)


def read_rows(workspace: Workspace, path: str, part: int, parts: int) -> pa.Table:
    """One of so many parts of a table of the workspace, of equal size and in order; of those before a batch is held.

    Raises:
        WorkspaceError: as `read_table`.
    """

    def read(file: pq.ParquetFile) -> pa.Table:
        start, stop = (file.metadata.num_rows * edge // parts for edge in (part, part + 1))
        kept, first = [file.schema_arrow.empty_table()], 0
        for batch in file.iter_batches():
            kept.append(pa.Table.from_batches([batch.slice(max(0, start - first), max(0, stop - max(first, start)))]))
            first += len(batch)
            if first >= stop:
                break
        return pa.concat_tables(kept)

    return _read(workspace, path, read)


def _read(
    workspace: Workspace, path: str, read: Callable[[pq.ParquetFile], pa.Table], pre_buffer: bool = False
) -> pa.Table:
    full = workspace.path(path)

    def attempt() -> pa.Table:
        with pq.ParquetFile(full, filesystem=workspace.filesystem, pre_buffer=pre_buffer) as file:
            return read(file)

    with reading(full):
        return asked_again(attempt)


@contextmanager
def reading(full: str) -> Iterator[None]:
    """A WorkspaceError, where the file of this path is gone or torn."""
    try:
        yield
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise WorkspaceError(f"{full}: named by a manifest but not readable ({error}); delete the artefact") from None


class PartWriter:
    """Writes tables into one file, or into numbered files of a useful size; use as a context manager.

    Args:
        path: relative to the workspace; with a number in it (`part-{:05d}.parquet`) a new file begins when one is full.
        schema: of all that is written.
    """

    def __init__(self, workspace: Workspace, path: str, schema: pa.Schema) -> None:
        self.fragments: list[Fragment] = []
        self._workspace = workspace
        self._name = path
        self._schema = schema
        self._writer: pq.ParquetWriter | None = None
        self._rows = self._bytes = 0

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._close()

    def write(self, table: pa.Table | pa.RecordBatch) -> None:
        """Write rows; opens the file even where there are none.

        Raises:
            WorkspaceError: the workspace cannot be written.
        """
        full = self._rows + table.num_rows > FILE_ROWS or self._bytes + table.nbytes > _FILE_BYTES
        if full and "{" in self._name:
            self._close()
        with writing(self._path):
            if self._writer is None:
                self._workspace.make_dir(self._path.rpartition("/")[0])
                full_path, system = self._workspace.path(self._path), self._workspace.filesystem
                self._writer = pq.ParquetWriter(full_path, self._schema, filesystem=system, compression="zstd")
            if table.num_rows:
                self._writer.write(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """As `write`, of rows as dictionaries; columns that a row lacks are null."""
        self.write(pa.RecordBatch.from_pylist(rows, schema=self._schema))

    @property
    def _path(self) -> str:
        return self._name.format(len(self.fragments))

    def _close(self) -> None:
        if self._writer is None:
            return
        with writing(self._path):
            self._writer.close()
            size = self._workspace.filesystem.get_file_info(self._workspace.path(self._path)).size
        self.fragments.append(Fragment(self._path, self._rows, size))
        self._writer, self._rows, self._bytes = None, 0, 0
