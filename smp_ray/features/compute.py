"""What one batch of posts becomes for one family, with a status for every post. No Ray in here.

A step takes an Arrow table of posts with `need_<family>` flags and returns it with that family's columns. A post that
does not need the family gets nulls there, its status included; the store reads a null status as "this file says
nothing about that family of that post".
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.errors import FamilyError, SmpRayError
from smp_ray.families.base import IMAGE, Family, ImageTransform
from smp_ray.schema import BAD_IMAGE, ERROR, NO_IMAGE, NO_TEXT, OK
from smp_ray.store.join import taken, vector_column

logger = logging.getLogger(__name__)

#: A batch whose every computation fails, and which has at least this many of them, is a broken model, not bad data.
SYSTEMIC = 8


def needed(table: pa.Table, family: str) -> np.ndarray:
    """Boolean array (rows,): which posts of the batch need this family."""
    return np.asarray(table[f"need_{family}"].to_numpy(zero_copy_only=False), dtype=bool)


@dataclass(frozen=True)
class FamilyStep:
    """Computes one family of a batch.

    Attributes:
        model: the loaded family.
        fields: its stored columns, status and error last.
        transform: what made its images, or None.
    """

    model: Family
    fields: Sequence[pa.Field]
    transform: ImageTransform | None

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add the family's columns. A column that is there already (from the store) is kept where none is needed."""
        need = needed(table, self.model.name)
        inputs = [self._input(table, name, need) for name in self.model.reads]
        present = np.array([[value is not None for value in values] for _, values in inputs], dtype=bool)
        present = present.reshape(len(inputs), -1)
        ready = need & (present.any(axis=0) if self.model.partial else present[0])
        items: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        places = np.full(table.num_rows, -1)
        place_of: dict[tuple[Any, ...], int] = {}
        for row in np.flatnonzero(ready):
            key = tuple(keys[row] for keys, _ in inputs)
            items.setdefault(key, tuple(values[row] for _, values in inputs))
            places[row] = place_of.setdefault(key, len(place_of))
        found, errors = self._computed(list(items.values()))
        valued = np.any([column.is_valid().to_numpy() for column in found.columns], axis=0)
        verdicts: list[tuple[str | None, str | None]] = [(None, None)] * table.num_rows
        for row in np.flatnonzero(need):
            error = errors.get(int(places[row]))
            if error is not None:
                verdicts[row] = ERROR, reason(error)
            elif not present[0][row]:
                verdicts[row] = self._lacking(table, int(row))
            elif valued[places[row]]:
                verdicts[row] = OK, None
            else:
                first = self.model.reads[0]
                verdicts[row] = BAD_IMAGE if first == IMAGE else NO_TEXT, f"the {first} has nothing to compute from"
        told = [pa.array([verdict[place] for verdict in verdicts], pa.string()) for place in range(2)]
        return self._with_columns(table, need, [*taken(found, places).columns, *told])

    def _input(self, table: pa.Table, name: str, need: np.ndarray) -> tuple[list[Any], list[Any]]:
        """What is one input, and its value, of every post; None where there is none."""
        if name != IMAGE:
            texts = [
                None if isinstance(value, str) and not value.strip() else value for value in table[name].to_pylist()
            ]
            return [tuple(value) if isinstance(value, list) else value for value in texts], texts
        assert self.transform is not None
        pixels = table[f"{self.model.name}_input"]
        keys: list[str | None] = [None] * table.num_rows
        pictures: dict[str | None, np.ndarray] = {}
        for row in np.flatnonzero(need & pixels.is_valid().to_numpy()):
            keys[row] = table["image_hash"][int(row)].as_py()
            if keys[row] not in pictures:
                flat = np.frombuffer(pixels[int(row)].as_buffer(), dtype=self.transform.dtype)
                pictures[keys[row]] = flat.reshape(self.transform.shape)
        return keys, [pictures.get(key) for key in keys]

    def _computed(self, items: list[tuple[Any, ...]]) -> tuple[pa.Table, dict[int, Exception]]:
        """The columns of some posts' inputs, null for those that failed, and what failed by position."""
        own = self.fields[:-2]
        empty = pa.schema(own).empty_table()
        tables, failed, place = [empty], {}, 0
        for part in isolated(items, lambda some: columns_of(self.model, own, some)):
            if isinstance(part, Exception):
                failed[place] = part
                part = taken(empty, np.array([-1]))
            tables.append(part)
            place += part.num_rows
        return pa.concat_tables(tables), failed

    def _lacking(self, table: pa.Table, row: int) -> tuple[str, str]:
        """Status and reason of a post without the first input."""
        if self.model.reads[0] != IMAGE:
            return NO_TEXT, f"the {self.model.reads[0]} is empty"
        broken = table[f"{self.model.name}_input_error"][row].as_py()
        if broken is not None:
            return ERROR, broken
        return table["image_status"][row].as_py() or NO_IMAGE, table["image_error"][row].as_py()

    def _with_columns(self, table: pa.Table, need: np.ndarray, columns: Sequence[Any]) -> pa.Table:
        for field, column in zip(self.fields, columns, strict=True):
            if field.name in table.column_names:
                column = pc.if_else(pa.array(need), column, table[field.name].cast(field.type))
                table = table.drop_columns([field.name])
            table = table.append_column(field, column)
        spent = (f"{self.model.name}_input", f"{self.model.name}_input_error")
        return table.drop_columns([name for name in spent if name in table.column_names])


def isolated(items: Sequence[Any], function: Callable[[list[Any]], pa.Table]) -> list[pa.Table | Exception]:
    """Apply a batch function; where it fails, to either half of the batch, so that one bad item costs only itself.

    A batch that does not fit into a GPU's memory is halved likewise.

    Returns:
        Results in order; an exception stands for one item.

    Raises:
        Exception: one of them, where at least `SYSTEMIC` items were given and every single one failed.
        SmpRayError: as it was raised: it is not about an item.
    """
    parts = _halved(items, function)
    failures = [part for part in parts if isinstance(part, Exception)]
    if len(failures) == len(items) >= SYSTEMIC:
        raise failures[-1]
    return parts


def _halved(items: Sequence[Any], function: Callable[[list[Any]], pa.Table]) -> list[pa.Table | Exception]:
    if not items:
        return []
    try:
        return [function(list(items))]
    except SmpRayError:
        raise
    except Exception as error:  # kept as the status of the post, or raised by the caller
        if len(items) == 1:
            return [error]
        logger.warning("a batch of %d failed (%s); computing it in halves", len(items), reason(error))
    half = len(items) // 2
    return [*_halved(items[:half], function), *_halved(items[half:], function)]


def columns_of(model: Family, fields: Sequence[pa.Field], items: list[tuple[Any, ...]]) -> pa.Table:
    """What a family computes from some posts' inputs, held against what it declares.

    Raises:
        FamilyError: other columns than declared, another number of values, or values of another type.
    """
    result = model.compute(*(list(values) for values in zip(*items, strict=True)))
    names = [field.name for field in fields]
    if set(result) != set(names):
        raise FamilyError(f"{model.name}: returned columns {', '.join(result) or 'none'}, declared {', '.join(names)}")
    columns = []
    for field in fields:
        try:
            columns.append(_stored(field, result[field.name], len(items)))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise FamilyError(
                f"{model.name}: {field.name} is not {field.type}: {' '.join(str(error).split())}"
            ) from error
    return pa.table(columns, schema=pa.schema(fields))


def _stored(field: pa.Field, values: Any, count: int) -> pa.Array:
    if len(values) != count:
        raise ValueError(f"returned {len(values)} values for {count} posts")
    if pa.types.is_fixed_size_list(field.type):
        vectors = np.full((count, field.type.list_size), np.nan, dtype=np.float32)
        for place, row in enumerate(values):
            if row is not None and np.shape(row) != vectors.shape[1:]:
                raise ValueError(f"found a vector of shape {np.shape(row)}")
            vectors[place] = np.nan if row is None else row
        return vector_column(vectors.astype(np.float16), np.asarray(np.isnan(vectors).any(axis=1)))
    plain = values.tolist() if isinstance(values, np.ndarray) else list(values)
    if pa.types.is_integer(field.type):  # a cast does not cut 1.5 down to 1
        return pa.array(plain, from_pandas=True).cast(field.type)
    return pa.array(plain, field.type, from_pandas=True)


def reason(error: BaseException) -> str:
    """An exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
