"""What one batch of posts becomes for one family, with a status for every post. No Ray in here.

A step takes an Arrow table of posts with `need_<family>` flags and returns it with that family's columns. A post that
does not need the family gets nulls there, its status included; the store reads a null status as "this file says
nothing about that family of that post".
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.errors import FamilyError, SmpRayError, one_line
from smp_ray.families.base import IMAGE, Family, ImageTransform
from smp_ray.features.pace import Pace
from smp_ray.models.device import give_back, is_full
from smp_ray.schema import BAD_IMAGE, ERROR, KILLED, NO_IMAGE, NO_TEXT, OK, TWICE
from smp_ray.store.join import taken

logger = logging.getLogger(__name__)

#: A batch whose every computation fails, and which has at least this many of them, is a broken model, not bad data.
SYSTEMIC = 8


def needed(table: pa.Table, family: str) -> np.ndarray:
    """Boolean array (rows,): which posts of the batch need this family."""
    return np.asarray(table[f"need_{family}"].to_numpy(zero_copy_only=False), dtype=bool)


@dataclass
class FamilyStep:
    """Computes one family of a batch.

    Attributes:
        fields: the stored columns, status and error last.
        pace: how many inputs the model gets at once; half as many for good where they do not fit into a GPU.
        tell: says a line to the user, once.
    """

    model: Family
    fields: Sequence[pa.Field]
    transform: ImageTransform | None
    pace: Pace
    tell: Callable[[str], None] = logger.warning

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add the family's columns. A column that is there already (from the store) is kept where none is needed."""
        need = needed(table, self.model.name)
        inputs = [self._input(table, name, need) for name in self.model.reads]
        present = np.array([[value is not None for value in values] for _, values in inputs], dtype=bool)
        ready = need & (present.any(axis=0) if self.model.partial else present[0])
        distinct: dict[tuple[Any, ...], int] = {}
        items: list[tuple[Any, ...]] = []
        places = np.full(table.num_rows, -1)
        for row in np.flatnonzero(ready):
            places[row] = distinct.setdefault(tuple(keys[row] for keys, _ in inputs), len(items))
            if places[row] == len(items):
                items.append(tuple(values[row] for _, values in inputs))
        found, errors = self._computed(items, hopeless=bool(failed_before(table)[ready].all()))
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
        return self._with_columns(table, need, taken(found, places).columns, verdicts)

    def killed(self, table: pa.Table) -> pa.Table:
        """The columns of posts that killed their worker while this family was computed."""
        need = needed(table, self.model.name)
        verdicts = [(ERROR, KILLED) if needs else (None, None) for needs in need]
        return self._with_columns(table, need, [pa.nulls(len(need), f.type) for f in self.fields[:-2]], verdicts)

    def _input(self, table: pa.Table, name: str, need: np.ndarray) -> tuple[list[Any], list[Any]]:
        """What is one input, and its value, of every post; None where there is none."""
        if name != IMAGE:
            found = table[name].to_pylist()
            values = [None if isinstance(value, str) and not value.strip() else value for value in found]
            return [tuple(value) if isinstance(value, list) else value for value in values], values
        assert self.transform is not None
        pixels = table[f"{self.model.name}_input"]
        keys = pc.if_else(pc.and_(pixels.is_valid(), pa.array(need)), table["image_hash"], None).to_pylist()
        pictures = {}
        for row, key in enumerate(keys):
            if key is not None and key not in pictures:
                flat = np.frombuffer(pixels[row].as_buffer(), dtype=self.transform.dtype)
                pictures[key] = flat.reshape(self.transform.shape)
        return keys, [pictures.get(key) for key in keys]

    def _computed(self, items: list[tuple[Any, ...]], hopeless: bool) -> tuple[pa.Table, dict[int, Exception]]:
        """The columns of some posts' inputs, null for those that failed, and what failed by position.

        Where all fail, the model is broken and its error raised, unless the posts are `hopeless`: failed before.
        """
        own = self.fields[:-2]
        empty = pa.schema(own).empty_table()
        tables, failed, place = [empty], {}, 0
        for part in isolated(items, lambda some: self._fitting(own, some)):
            if isinstance(part, Exception):
                failed[place] = part
                part = taken(empty, np.array([-1]))
            tables.append(part)
            place += part.num_rows
        if len(failed) == len(items) >= SYSTEMIC and not hopeless:
            raise failed[0]
        return pa.concat_tables(tables), failed

    def _fitting(self, own: Sequence[pa.Field], items: list[tuple[Any, ...]]) -> pa.Table:
        """As `columns_of`, in parts that fit into the GPU's memory."""
        tables, place = [], 0
        while place < len(items):
            part = items[place : place + self.pace.size]
            began = time.perf_counter()
            try:
                tables.append(columns_of(self.model, own, part))
            except Exception as error:
                full = is_full(error)
                if type(error).__name__ == "AcceleratorError" and not full:
                    # After such an error of a GPU (an illegal access, a failed memory cell) nothing computes in this
                    # process any more. A new one takes over, which computes the posts of this one alone.
                    self.tell(f"{self.model.name}: the GPU failed, its worker ends ({reason(error)})")
                    os._exit(1)
                if not full or len(part) == 1:
                    raise
                give_back()
                self.pace.too_many(len(part))
                limit = self.pace.size
                self.tell(f"{self.model.name}: out of GPU memory; from now on at most {limit} inputs at a time")
                continue
            place += len(part)
            if self.pace.took(len(part), time.perf_counter() - began):
                self.tell(
                    f"{self.model.name}: {self.pace.size} inputs at a time from now on, the fastest of those tried"
                )
        return pa.concat_tables(tables)

    def _lacking(self, table: pa.Table, row: int) -> tuple[str, str]:
        """Status and reason of a post without the first input."""
        if self.model.reads[0] != IMAGE:
            return NO_TEXT, f"the {self.model.reads[0]} is empty"
        broken = table[f"{self.model.name}_input_error"][row].as_py()
        if broken is not None:
            return ERROR, broken
        return table["image_status"][row].as_py() or NO_IMAGE, table["image_error"][row].as_py()

    def _with_columns(
        self,
        table: pa.Table,
        need: np.ndarray,
        columns: Sequence[Any],
        verdicts: Sequence[tuple[str | None, str | None]],
    ) -> pa.Table:
        """The table with the family's own columns, and a status and an error a row."""
        statuses = [status for status, _ in verdicts]
        errors = [
            f"{error}{TWICE}" if status == ERROR and before else error
            for (status, error), before in zip(verdicts, failed_before(table), strict=True)
        ]
        told = [pa.array(statuses, pa.string()), pa.array(errors, pa.string())]
        for field, column in zip(self.fields, [*columns, *told], strict=True):
            if field.name in table.column_names:
                column = pc.if_else(pa.array(need), column, table[field.name].cast(field.type))
                table = table.drop_columns([field.name])
            table = table.append_column(field, column)
        spent = (f"{self.model.name}_input", f"{self.model.name}_input_error")
        return table.drop_columns([name for name in spent if name in table.column_names])


def isolated(items: Sequence[Any], function: Callable[[list[Any]], pa.Table]) -> list[pa.Table | Exception]:
    """Apply a batch function; where it fails, to either half of the batch, so that one bad item costs only itself.

    Results are in order, an exception stands for one item; an `SmpRayError` is raised, as it is not about an item.
    """
    if not items:
        return []
    try:
        return [function(list(items))]
    except SmpRayError:
        raise
    except Exception as error:  # kept as the status of the post, or raised where every post fails
        if len(items) == 1:
            return [error]
        logger.warning("a batch of %d failed (%s); computing it in halves", len(items), reason(error))
    half = len(items) // 2
    return [*isolated(items[:half], function), *isolated(items[half:], function)]


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
            raise FamilyError(f"{model.name}: {field.name} is not {field.type}: {one_line(error)}") from error
    return pa.table(columns, schema=pa.schema(fields))


def _stored(field: pa.Field, values: Any, count: int) -> pa.Array:
    if len(values) != count:
        raise ValueError(f"returned {len(values)} values for {count} posts")
    if pa.types.is_fixed_size_list(field.type):
        vectors = [None if row is None else np.asarray(row, np.float32).astype(np.float16) for row in values]
        return pa.array([None if row is None or np.isnan(row).any() else row for row in vectors], field.type)
    plain = values.tolist() if isinstance(values, np.ndarray) else list(values)
    if pa.types.is_integer(field.type):  # a cast does not cut 1.5 down to 1
        return pa.array(plain, from_pandas=True).cast(field.type)
    return pa.array(plain, field.type, from_pandas=True)


def failed_before(table: pa.Table) -> np.ndarray:
    """Boolean array (rows,): which posts of the batch had an error in an earlier run."""
    if "failed" not in table.column_names:
        return np.zeros(table.num_rows, dtype=bool)
    return np.asarray(table["failed"].to_numpy(zero_copy_only=False), dtype=bool)


def reason(error: BaseException) -> str:
    """An exception on one line, with its type."""
    return f"{type(error).__name__}: {one_line(error)}"[:500]
