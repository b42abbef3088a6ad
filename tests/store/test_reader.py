"""The store: which row of a post holds, and reading by post, never by order."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smp_ray.errors import WorkspaceError
from smp_ray.families.perplexity import Perplexity
from smp_ray.schema import KEYS
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.parquet import read_table
from smp_ray.store.reader import FamilyReader, index_of, read_columns
from smp_ray.store.workspace import Workspace

Row = tuple[int, str | None, float | None]


def stored(fragments: list[Fragment]) -> Manifest:
    columns = [field.name for field in Perplexity.fields()]
    return Manifest("features/perplexity", "x", {}, fragments=fragments, details={"columns": columns})


def write(workspace: Workspace, name: str, rows: list[Row]) -> Fragment:
    schema = pa.schema([*KEYS, *Perplexity.fields()])
    records = [
        {"row_id": row_id, "post_id": str(row_id), "perplexity_status": status, "title_perplexity": value}
        for row_id, status, value in rows
    ]
    workspace.make_dir("data")
    pq.write_table(pa.Table.from_pylist(records, schema=schema), workspace.path("data", name))
    return Fragment(f"data/{name}", len(rows), 1)


def test_later_fragments_hold_and_null_status_says_nothing(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path))
    fragments = [
        write(workspace, "a", [(5, "error", None), (3, "ok", 30.0), (9, "no_text", None)]),
        write(workspace, "b", [(9, None, None), (5, "ok", 50.0)]),
        write(workspace, "empty", []),
    ]
    index = index_of(workspace, "perplexity", fragments, np.array([3, 5, 9]))
    assert (index.fragment.tolist(), index.position.tolist()) == ([0, 1, 0], [1, 1, 2])
    some = index_of(workspace, "perplexity", fragments, np.array([4, 5, 11]))
    assert (some.fragment.tolist(), some.position.tolist()) == ([-1, 1, -1], [-1, 1, -1])
    table = FamilyReader(workspace, stored(fragments), index).read(np.array([9, 5, 4, 3, 5]))
    assert table["title_perplexity"].to_pylist() == [None, 50.0, None, 30.0, 50.0]
    assert table["perplexity_status"].to_pylist() == ["no_text", "ok", None, "ok", "ok"]
    few = read_columns(workspace, stored(fragments), ["title_perplexity"], np.array([9, 5, 4, 3]))
    assert few.column_names == ["title_perplexity", "perplexity_status"]
    assert few["title_perplexity"].to_pylist() == [None, 50.0, None, 30.0]


@settings(max_examples=30, deadline=None)
@given(
    files=st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["ok", None]), st.floats(0, 9)), max_size=6),
        min_size=1,
        max_size=4,
    ),
    asked=st.lists(st.integers(0, 11), max_size=12),
)
def test_reader_agrees_with_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[Row]], asked: list[int]
) -> None:
    workspace = Workspace.open(str(tmp_path_factory.mktemp("store")))
    fragments = [write(workspace, str(number), rows) for number, rows in enumerate(files)]
    expected = {row_id: value for rows in files for row_id, status, value in rows if status is not None}
    index = index_of(workspace, "perplexity", fragments, np.arange(12))
    with patch("smp_ray.store.reader._KEPT", 1):
        reader = FamilyReader(workspace, stored(fragments), index)
    values = reader.read(np.array(asked, dtype=np.int64))["title_perplexity"].to_pylist()
    wanted = [None if row_id not in expected else np.float32(expected[row_id]) for row_id in asked]
    assert values == wanted


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path))
    fragment = write(workspace, "a", [(1, "ok", 1.0)])
    (tmp_path / "data/a").write_bytes((tmp_path / "data/a").read_bytes()[:-20])
    with pytest.raises(WorkspaceError, match="data/a: named by a manifest but not readable"):
        read_table(workspace, fragment.path, ["row_id"])
