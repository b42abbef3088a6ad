"""Joining by row id, and columns of fixed-size lists: written once, used wherever tables of posts meet."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def locate(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each id is found among others, int64 (n,); -1 where it is not there. Sorts `among` at every call.

    Args:
        wanted: ids (n,), any order, repeats allowed.
        among: unique ids (m,), any order.
    """
    return locate_sorted(wanted, among, np.argsort(among))


def locate_sorted(wanted: np.ndarray, among: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
    """As `locate`, among ids that are sorted or that `order` sorts: for many calls over the same ids."""
    if not len(among):
        return np.full(len(wanted), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(among, wanted, sorter=order), len(among) - 1)
    found = place if order is None else order[place]
    return np.where(among[found] == wanted, found, -1).astype(np.int64)


def taken(table: pa.Table, places: np.ndarray) -> pa.Table:
    """Rows of a table at some places, all columns null where a place is -1."""
    return table.take(pa.array(places, mask=places < 0))


def vectors(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A column of fixed-size lists as (n, width) of its own number type; a null is a row of NaN (of integers: 0)."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    array = pa.concat_arrays(chunks) if chunks else pa.array([], column.type)
    width = array.type.list_size
    kind = np.dtype(array.type.value_type.to_pandas_dtype())
    values = np.full((len(array), width), np.nan if kind.kind == "f" else 0, dtype=kind)
    present = array.is_valid().to_numpy(zero_copy_only=False)
    values[present] = array.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return values


def vector_column(values: np.ndarray, missing: np.ndarray | None = None) -> pa.FixedSizeListArray:
    """The inverse of `vectors`: an array (n, width) as fixed-size lists, null where `missing`, bool (n,)."""
    mask = None if missing is None else pa.array(missing)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)
