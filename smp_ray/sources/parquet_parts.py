"""Writing rows into Parquet files of a useful size on the workspace's filesystem."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smp_ray.errors import WorkspaceError
from smp_ray.workspace import Fragment, Workspace

#: A file is closed when it has this many rows or Arrow bytes.
_FILE_ROWS = 100_000
_FILE_BYTES = 2**29


class PartWriter:
    """Writes rows into numbered files of one folder; use as a context manager.

    A `name` without a number gives one file, however long.
    """

    def __init__(self, workspace: Workspace, folder: str, name: str, schema: pa.Schema) -> None:
        self.fragments: list[Fragment] = []
        self._workspace = workspace
        self._folder = folder
        self._name = name
        self._schema = schema
        self._writer: pq.ParquetWriter | None = None
        self._path = ""
        self._rows = 0
        self._bytes = 0

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._close()
        elif self._writer is not None:
            try:
                self._writer.close()
            except OSError:  # the first error is the one to show
                return

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write rows (columns that a row lacks are null); opens the file even where there are none.

        Raises:
            WorkspaceError: the workspace cannot be written.
        """
        arrays = [pa.array([row.get(field.name) for row in rows], type=field.type) for field in self._schema]
        batch = pa.record_batch(arrays, schema=self._schema)
        if "{" in self._name and self._rows + batch.num_rows > _FILE_ROWS:
            self._close()
        try:
            if self._writer is None:
                self._open()
            if self._writer is not None and rows:
                self._writer.write_batch(batch)
        except OSError as error:
            raise WorkspaceError(f"{self._path}: cannot be written: {error}") from None
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if "{" in self._name and (self._rows >= _FILE_ROWS or self._bytes >= _FILE_BYTES):
            self._close()

    def _open(self) -> None:
        self._workspace.make_dir(self._folder)
        self._path = f"{self._folder}/{self._name.format(len(self.fragments))}"
        full = self._workspace.path(self._path)
        self._writer = pq.ParquetWriter(full, self._schema, filesystem=self._workspace.filesystem, compression="zstd")
        self._rows = self._bytes = 0

    def _close(self) -> None:
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        try:
            writer.close()
            size = self._workspace.filesystem.get_file_info(self._workspace.path(self._path)).size
        except OSError as error:
            raise WorkspaceError(f"{self._path}: cannot be written: {error}") from None
        self.fragments.append(Fragment(path=self._path, rows=self._rows, bytes=size))
