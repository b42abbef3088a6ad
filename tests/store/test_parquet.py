"""Parquet files of the workspace: registered as they are written, numbered where they are many."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from smp_ray.errors import WorkspaceError
from smp_ray.store import parquet
from smp_ray.store.parquet import PartWriter, read_table, write_table
from smp_ray.store.workspace import Workspace

SCHEMA = pa.schema([pa.field("x", pa.int64())])


def test_a_written_table_is_registered(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path))
    fragment = write_table(workspace, "a/b/t.parquet", pa.table({"x": [1, 2]}))
    assert (fragment.path, fragment.rows) == ("a/b/t.parquet", 2)
    assert fragment.bytes == (tmp_path / "a/b/t.parquet").stat().st_size
    assert read_table(workspace, fragment.path, ["x"])["x"].to_pylist() == [1, 2]
    assert write_table(workspace, "empty.parquet", SCHEMA.empty_table()).rows == 0


def test_numbered_files_begin_when_one_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "FILE_ROWS", 4)
    with PartWriter(Workspace.open(str(tmp_path)), "p/part-{:05d}.parquet", SCHEMA) as writer:
        for _ in range(3):
            writer.write_rows([{"x": 1}, {}, {"x": 3}])
    assert [(fragment.path[-8:], fragment.rows) for fragment in writer.fragments] == [
        (f"{place}.parquet"[-8:], 3) for place in range(3)
    ]
    assert len(list((tmp_path / "p").iterdir())) == 3


def test_what_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path))
    with pytest.raises(WorkspaceError, match=r"gone\.parquet: named by a manifest but not readable"):
        read_table(workspace, "gone.parquet")
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="cannot be written"):
        write_table(workspace, "file/t.parquet", SCHEMA.empty_table())
