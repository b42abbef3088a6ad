"""Joining by row id, and columns of fixed-size lists: written once, used wherever tables of posts meet."""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import pyarrow as pa


def locate(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each id (n,) is found among unique ids (m,) in any order, int64 (n,); -1 where it is not there."""
    return np.asarray(pd.Index(among).get_indexer(wanted), dtype=np.int64)


def locate_sorted(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """As `locate`, among sorted ids: for many calls over the same ids, without a hash table of them."""
    if not len(among):
        return np.full(len(wanted), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(among, wanted), len(among) - 1)
    return np.where(among[place] == wanted, place, -1).astype(np.int64)


def taken(table: pa.Table, places: np.ndarray) -> pa.Table:
    """Rows of a table at some places, all columns null where a place is -1."""
    return table.take(pa.array(places, mask=places < 0))


def gathered(
    tables: Callable[[list[int]], Iterable[pa.Table]], number: np.ndarray, position: np.ndarray, empty: pa.Table
) -> pa.Table:
    """Rows by the number of the table that each is in (-1: in none, all null) and its position there.

    `tables` gives those of some numbers one after the other, of which no more than what is needed is kept; `empty` has
    their columns.
    """
    order = np.argsort(number, kind="stable")
    order = order[number[order] >= 0]
    numbers, starts = np.unique(number[order], return_index=True)
    groups = np.split(order, starts[1:])
    found = (
        table.take(pa.array(position[rows])) for table, rows in zip(tables(numbers.tolist()), groups, strict=False)
    )
    places = np.full(len(number), -1)
    places[order] = np.arange(len(order))
    return taken(pa.concat_tables([empty, *found], promote_options="default"), places)


def vectors(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A column of fixed-size lists as (n, width) of its own number type; a null is a row of NaN (of integers: 0)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = np.dtype(array.type.value_type.to_pandas_dtype())
    values = np.full((len(array), array.type.list_size), np.nan if kind.kind == "f" else 0, dtype=kind)
    present = array.is_valid().to_numpy(zero_copy_only=False)
    values[present] = array.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, array.type.list_size)
    return values


def vector_column(values: np.ndarray, missing: np.ndarray | None = None) -> pa.FixedSizeListArray:
    """The inverse of `vectors`: an array (n, width) as fixed-size lists, null where `missing`, bool (n,)."""
    mask = None if missing is None else pa.array(missing)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)
