"""What one batch of posts becomes for one family, with a status for every post. No Ray in here.

A step takes an Arrow table of posts with `need_<family>` flags and returns it with that family's columns. A post that
does not need the family gets nulls there, its status included; the store reads a null status as "this file says
nothing about that family of that post".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from smp_ray.errors import FamilyError, SmpRayError
from smp_ray.families.base import IMAGE, Family, ImageTransform, as_matrix
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
        width: of its vectors.
        transform: what made its images, or None.
    """

    model: Family
    width: int
    transform: ImageTransform | None

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add the family's columns. A column that is there already (from the store) is kept where none is needed."""
        need = needed(table, self.model.name)
        inputs = [self._input(table, name, need) for name in self.model.reads]
        present = np.array([[value is not None for value in values] for _, values in inputs], dtype=bool)
        present = present.reshape(len(inputs), -1)
        ready = need & (present.any(axis=0) if self.model.partial else present[0])
        first: dict[tuple[Any, ...], int] = {}
        keys = {int(row): tuple(key[row] for key, _ in inputs) for row in np.flatnonzero(ready)}
        for row, key in keys.items():
            first.setdefault(key, row)
        items = [tuple(values[row] for _, values in inputs) for row in first.values()]
        found, errors = self._computed(items)
        place_of = {key: place for place, key in enumerate(first)}
        places = np.full(table.num_rows, -1)
        for row, key in keys.items():
            places[row] = place_of[key]
        statuses, reasons = self._verdicts(table, need, present[0], places, found, errors)
        return self._with_columns(table, need, taken(found, places), [statuses, reasons])

    def _input(self, table: pa.Table, name: str, need: np.ndarray) -> tuple[list[Any], list[Any]]:
        """What is one input, and its value, of every post; None where there is none."""
        if name != IMAGE:
            values = [_present(value) for value in table[name].to_pylist()]
            return [tuple(value) if isinstance(value, list) else value for value in values], values
        assert self.transform is not None
        hashes = table["image_hash"].to_pylist()
        pixels = table[f"{self.model.name}_input"]
        arrays: dict[str, np.ndarray] = {}
        found: list[np.ndarray | None] = [None] * table.num_rows
        for row in np.flatnonzero(need & pixels.is_valid().to_numpy()):
            if hashes[row] not in arrays:
                flat = np.frombuffer(pixels[int(row)].as_buffer(), dtype=self.transform.dtype)
                arrays[hashes[row]] = flat.reshape(self.transform.shape)
            found[row] = arrays[hashes[row]]
        return [None if value is None else hashed for value, hashed in zip(found, hashes, strict=True)], found

    def _computed(self, items: list[tuple[Any, ...]]) -> tuple[pa.Table, dict[int, Exception]]:
        """The columns of some posts' inputs, and what failed by position."""
        fields = self.model.fields(self.width)[:-2]
        parts = isolated(items, lambda some: columns_of(self.model, fields, some))
        empty = pa.schema(fields).empty_table()
        nothing = taken(empty, np.array([-1])) if items else empty
        tables = [nothing if isinstance(part, Exception) else part for part, _ in parts]
        failed, place = {}, 0
        for part, count in parts:
            if isinstance(part, Exception):
                failed[place] = part
            place += count
        return pa.concat_tables([empty, *tables]), failed

    def _verdicts(
        self,
        table: pa.Table,
        need: np.ndarray,
        present: np.ndarray,
        places: np.ndarray,
        found: pa.Table,
        errors: Mapping[int, Exception],
    ) -> tuple[list[str | None], list[str | None]]:
        """Status and reason of every post, both None where the family is not needed."""
        valued = np.zeros(found.num_rows, dtype=bool)
        for column in found.columns:
            valued |= column.is_valid().to_numpy()
        statuses: list[str | None] = [None] * table.num_rows
        reasons: list[str | None] = [None] * table.num_rows
        first = self.model.reads[0]
        for row in np.flatnonzero(need):
            error = errors.get(int(places[row]))
            if error is not None:
                statuses[row], reasons[row] = ERROR, reason(error)
            elif not present[row]:
                statuses[row], reasons[row] = self._lacking(table, int(row), first)
            elif not valued[places[row]]:
                statuses[row] = BAD_IMAGE if first == IMAGE else NO_TEXT
                reasons[row] = f"the {first} has nothing to compute from"
            else:
                statuses[row] = OK
        return statuses, reasons

    def _lacking(self, table: pa.Table, row: int, first: str) -> tuple[str, str]:
        if first != IMAGE:
            return NO_TEXT, f"the {first} is empty"
        broken = table[f"{self.model.name}_input_error"][row].as_py()
        if broken is not None:
            return ERROR, broken
        return table["image_status"][row].as_py() or NO_IMAGE, table["image_error"][row].as_py()

    def _with_columns(
        self, table: pa.Table, need: np.ndarray, found: pa.Table, verdicts: Sequence[list[str | None]]
    ) -> pa.Table:
        own = [found[name] for name in found.column_names]
        values = [*own, *(pa.array(values, pa.string()) for values in verdicts)]
        for field, column in zip(self.model.fields(self.width), values, strict=True):
            if field.name in table.column_names:
                stored = table[field.name].to_pylist()
                merged = [new if want else old for new, old, want in zip(column.to_pylist(), stored, need, strict=True)]
                column = pa.array(merged, field.type)
                table = table.drop_columns([field.name])
            table = table.append_column(field, column)
        spent = (f"{self.model.name}_input", f"{self.model.name}_input_error")
        return table.drop_columns([name for name in spent if name in table.column_names])


def isolated(items: Sequence[Any], function: Callable[[list[Any]], pa.Table]) -> list[tuple[pa.Table | Exception, int]]:
    """Apply a batch function; where it fails, to either half of the batch, so that one bad item costs only itself.

    A batch that does not fit into a GPU's memory is halved likewise.

    Returns:
        In order, results and the number of items behind each; an exception stands for one item.

    Raises:
        Exception: one of them, where at least `SYSTEMIC` items were given and every single one failed.
        SmpRayError: as it was raised: it is not about an item.
    """
    if not items:
        return []
    try:
        return [(function(list(items)), len(items))]
    except SmpRayError:
        raise
    except Exception as error:  # kept as the status of the post, or raised below
        if len(items) == 1:
            return [(error, 1)]
        logger.warning("a batch of %d failed (%s); computing it in halves", len(items), reason(error))
    half = len(items) // 2
    parts = [*_half(items[:half], function), *_half(items[half:], function)]
    failures = [part for part, _ in parts if isinstance(part, Exception)]
    if len(failures) == len(items) >= SYSTEMIC:
        raise failures[-1]
    return parts


def _half(items: Sequence[Any], function: Callable[[list[Any]], pa.Table]) -> list[tuple[pa.Table | Exception, int]]:
    try:
        return isolated(items, function)
    except SmpRayError:
        raise
    except (
        Exception
    ) as error:  # all items of this half failed; the other half decides whether that is the model's fault
        return [(error, 1)] * len(items)


def columns_of(model: Family, fields: Sequence[pa.Field], items: list[tuple[Any, ...]]) -> pa.Table:
    """What a family computes from some posts' inputs, held against what it declares.

    Raises:
        FamilyError: other columns than declared, another number of values, or values of another type.
    """
    result = model.compute(*(list(values) for values in zip(*items, strict=True)))
    names = [field.name for field in fields]
    if not isinstance(result, Mapping):
        raise FamilyError(f"{model.name}: returned {type(result).__name__}, not columns by name")
    if set(result) != set(names):
        raise FamilyError(f"{model.name}: returned columns {', '.join(result) or 'none'}, declared {', '.join(names)}")
    columns = []
    for field in fields:
        values = result[field.name]
        if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str):
            raise FamilyError(f"{model.name}: {field.name} is no list of values but {type(values).__name__}")
        if len(values) != len(items):
            raise FamilyError(f"{model.name}: returned {len(values)} values of {field.name} for {len(items)} posts")
        try:
            columns.append(_stored(field, values))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise FamilyError(
                f"{model.name}: {field.name} is not {field.type}: {' '.join(str(error).split())}"
            ) from error
    return pa.table(columns, schema=pa.schema(fields))


def _stored(field: pa.Field, values: Any) -> pa.Array:
    if pa.types.is_fixed_size_list(field.type):
        width = field.type.list_size
        vectors = as_matrix(list(values), width)
        return vector_column(vectors.astype(np.float16), np.isnan(vectors).any(axis=1))
    found = pa.array(values.tolist() if isinstance(values, np.ndarray) else list(values), from_pandas=True)
    kinds = [_kind(found.type), _kind(field.type)]
    if kinds[0] != kinds[1] and not pa.types.is_null(found.type):
        raise TypeError(f"found {found.type}")
    return found.cast(field.type)  # unlike pa.array with a type, a cast does not cut 1.5 down to 1


def _kind(kind: pa.DataType) -> str:
    """What a cast must not change: 1.5 is no text, and True no number."""
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return "text" if texts else "truth" if pa.types.is_boolean(kind) else "other"


def reason(error: BaseException) -> str:
    """An exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def _present(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value
