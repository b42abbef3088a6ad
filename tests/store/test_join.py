"""Joining by row id and columns of fixed-size lists, held against dictionaries and lists."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from smp_ray.store.join import locate, locate_sorted, taken, vector_column, vectors

IDS = st.lists(st.integers(-(2**62), 2**62), max_size=12)


@given(wanted=IDS, among=IDS)
def test_locate_agrees_with_a_dictionary(wanted: list[int], among: list[int]) -> None:
    among = list(dict.fromkeys(among))
    place_of = {value: place for place, value in enumerate(among)}
    asked, there = np.array([*wanted, *among], np.int64), np.array(among, np.int64)
    expected = [place_of.get(value, -1) for value in asked.tolist()]
    assert locate(asked, there).tolist() == expected
    ordered = np.sort(there)
    assert (locate_sorted(asked, ordered) >= 0).tolist() == [place >= 0 for place in expected]


def test_taken_is_null_where_there_is_nothing() -> None:
    table = pa.table({"x": [1.5, 2.5], "v": vector_column(np.arange(4, dtype=np.float16).reshape(2, 2))})
    found = taken(table, np.array([1, -1, 0, 1]))
    assert found["x"].to_pylist() == [2.5, None, 1.5, 2.5]
    assert found["v"].to_pylist() == [[2, 3], None, [0, 1], [2, 3]]
    assert taken(table.slice(0, 0), np.array([-1])).to_pylist() == [{"x": None, "v": None}]


@given(rows=st.lists(st.none() | st.lists(st.integers(0, 99), min_size=3, max_size=3), max_size=8))
def test_vectors_survive_a_column(rows: list[list[int] | None]) -> None:
    missing = np.array([row is None for row in rows], dtype=bool)
    values = np.array([row or [0, 0, 0] for row in rows], dtype=np.float32).reshape(-1, 3)
    column = vector_column(values, missing)
    assert column.to_pylist() == rows
    found = vectors(pa.chunked_array([column.slice(0, 1), column.slice(1)]))
    assert found.dtype == np.float32
    assert np.isnan(found[missing]).all()
    assert (found[~missing] == values[~missing]).all()
