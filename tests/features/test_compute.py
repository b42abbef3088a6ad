"""One bad item costs only itself; equal inputs are computed once; what a family returns is held against its word."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from smp_ray.errors import FamilyError, ModelError
from smp_ray.families.base import AUTO, TITLE, Column, Family, FamilySettings
from smp_ray.families.clip import cosine
from smp_ray.features.compute import SYSTEMIC, FamilyStep, isolated
from smp_ray.features.pace import LEAST, MOST, Pace


class Reciprocal(Family):
    """1 / the title, and a vector; "0" cannot be computed, "-" has nothing to compute from."""

    name = "reciprocal"
    Settings = FamilySettings
    reads = (TITLE,)
    columns = (Column("value", pa.float32()), Column("vector", None), Column("whole", pa.int32()))

    def __init__(self, settings: Any = None, device: str = "cpu", threads: int | None = None) -> None:
        self.seen: list[str] = []
        self.returned: dict[str, Any] = {}

    def compute(self, *inputs: list[Any]) -> dict[str, Any]:
        (titles,) = inputs
        self.seen += titles
        values = [None if title == "-" else 1 / float(title) for title in titles]
        vectors = [None if value is None else np.array([value, 0.0]) for value in values]
        return {
            "value": values,
            "vector": vectors,
            "whole": [None if v is None else 1 for v in values],
            **self.returned,
        }


def posts(*titles: str | None, need: Sequence[bool] | None = None) -> pa.Table:
    return pa.table({"title": pa.array(titles, pa.string()), "need_reciprocal": need or [True] * len(titles)})


def run(model: Reciprocal, table: pa.Table) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = FamilyStep(model, model.fields(2), None, Pace())(table).to_pydict()
    return found


def test_statuses_values_and_nulls() -> None:
    found = run(Reciprocal(), posts("2", "0", None, " ", "-", "4", need=[True] * 5 + [False]))
    assert found["reciprocal_status"] == ["ok", "error", "no_text", "no_text", "no_text", None]
    assert found["reciprocal_error"] == [
        None, "ZeroDivisionError: float division by zero", "the title is empty", "the title is empty",
        "the title has nothing to compute from", None,
    ]  # fmt: skip
    assert found["value"] == [0.5, None, None, None, None, None]
    assert found["vector"] == [[0.5, 0.0], None, None, None, None, None]
    assert found["whole"] == [1, None, None, None, None, None]


def test_equal_inputs_are_computed_once() -> None:
    model = Reciprocal()
    found = run(model, posts("2", "4", "2", None, "4"))
    assert found["value"] == [0.5, 0.25, 0.5, None, 0.25]
    assert model.seen == ["2", "4"]


def test_nothing_to_do() -> None:
    model = Reciprocal()
    assert run(model, posts(None, "2", need=[True, False]))["reciprocal_status"] == ["no_text", None]
    assert run(model, posts())["value"] == []
    assert model.seen == []


def test_all_failing_is_a_broken_model() -> None:
    zeros = [f"0.{'0' * place}" for place in range(SYSTEMIC)]
    with pytest.raises(ZeroDivisionError):
        run(Reciprocal(), posts(*zeros))
    assert run(Reciprocal(), posts(*zeros[1:]))["reciprocal_status"] == ["error"] * (SYSTEMIC - 1)
    assert run(Reciprocal(), posts(*zeros, "2"))["reciprocal_status"] == ["error"] * SYSTEMIC + ["ok"]


def test_posts_that_failed_before_stop_nobody_and_say_that_it_was_the_second_time() -> None:
    table = posts(*(f"0.{'0' * place}" for place in range(SYSTEMIC)))
    found = run(Reciprocal(), table.append_column("failed", pa.array([True] * SYSTEMIC)))
    assert found["reciprocal_error"] == ["ZeroDivisionError: float division by zero, in two runs"] * SYSTEMIC
    with pytest.raises(ZeroDivisionError):
        run(Reciprocal(), table.append_column("failed", pa.array([True] * (SYSTEMIC - 1) + [False])))


def test_a_gpu_that_failed_takes_its_process_along(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Reciprocal):
        def compute(self, *inputs: list[Any]) -> dict[str, Any]:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr("os._exit", leave)
    model, said = Broken(), []
    with pytest.raises(SystemExit, match="1"):
        FamilyStep(model, model.fields(2), None, Pace(), said.append)(posts("1", "2"))
    assert len(said) == 1
    assert "an illegal memory access" in said[0]


def test_own_errors_are_not_swallowed() -> None:
    def load(_: list[int]) -> pa.Table:
        raise ModelError("no such model")

    with pytest.raises(ModelError):
        isolated([1, 2], load)
    assert isolated([], load) == []


def test_a_bad_item_is_found_in_few_calls() -> None:
    sizes: list[int] = []

    def at_most_eight(items: list[int]) -> pa.Table:
        sizes.append(len(items))
        if len(items) > 8 or 13 in items:
            raise MemoryError
        return pa.table({"x": items})

    parts = isolated(list(range(64)), at_most_eight)
    tables = [part for part in parts if not isinstance(part, Exception)]
    assert pa.concat_tables(tables)["x"].to_pylist() == [place for place in range(64) if place != 13]
    assert len(parts) == len(tables) + 1
    assert len(sizes) < 30


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"value": [1.0]}, "reciprocal: value is not float: returned 1 values for 2 posts"),
        ({"more": [1, 2]}, "reciprocal: returned columns value, vector, whole, more, declared value, vector, whole"),
        ({"whole": [1.5, 2]}, "reciprocal: whole is not int32"),
        ({"whole": ["a", "b"]}, "reciprocal: whole is not int32"),
        ({"vector": [np.zeros(3), np.zeros(3)]}, "reciprocal: vector is not fixed_size_list"),
        ({"vector": [np.zeros(1), np.zeros(1)]}, "reciprocal: vector is not fixed_size_list"),
        ({"value": ["half", "third"]}, "reciprocal: value is not float"),
        ({"value": 3.0}, "reciprocal: value is not float"),
    ],
)
def test_what_a_family_returns_wrongly_is_one_line_that_names_it(returned: dict[str, Any], message: str) -> None:
    model = Reciprocal()
    model.returned = returned
    with pytest.raises(FamilyError, match=message) as caught:
        run(model, posts("2", "4"))
    assert len(str(caught.value).splitlines()) == 1


def test_what_depends_on_a_missing_vector_is_missing() -> None:
    vectors = np.array([[0.6, 0.8], [np.nan, np.nan]], dtype=np.float32)
    other = np.array([[0.6, 0.8], [1.0, 0.0]], dtype=np.float32)
    cosines = cosine(vectors, other)
    assert cosines[0] == pytest.approx(1, abs=1e-6)
    assert np.isnan(cosines[1])


@pytest.mark.parametrize(
    "full",
    [
        torch.OutOfMemoryError("CUDA out of memory"), torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)  # fmt: skip
def test_what_does_not_fit_into_the_gpu_is_halved_for_good_and_said_once(full: Exception) -> None:
    class Large(Reciprocal):
        def compute(self, *inputs: list[Any]) -> dict[str, Any]:
            if len(inputs[0]) > 3:
                raise full
            return super().compute(*inputs)

    model, said = Large(), []
    step = FamilyStep(model, model.fields(2), None, Pace(8), said.append)
    for _ in range(2):
        found = step(posts(*(str(number) for number in range(1, 17)))).to_pydict()
        assert found["reciprocal_status"] == ["ok"] * 16
    assert step.pace.size == 2
    assert said == [f"reciprocal: out of GPU memory; from now on at most {limit} inputs at a time" for limit in (4, 2)]


def test_a_size_found_on_the_way_grows_while_it_pays_and_changes_no_value() -> None:
    class Calls(Reciprocal):
        def compute(self, *inputs: list[Any]) -> dict[str, Any]:
            time.sleep(0.01)  # a call costs as much whatever it computes
            sizes.append(len(inputs[0]))
            return super().compute(*inputs)

    sizes: list[int] = []
    said: list[str] = []
    model, table = Calls(), posts(*(str(number) for number in range(1, 301)))
    step = FamilyStep(model, model.fields(2), None, Pace(AUTO), said.append)
    assert step(table).equals(FamilyStep(Reciprocal(), model.fields(2), None, Pace())(table))
    assert sizes[:3] == [LEAST] * 3
    assert sizes[-2] == step.pace.size == MOST["cpu"]
    assert said == [f"reciprocal: {MOST['cpu']} inputs at a time from now on, the fastest of those tried"]


def test_a_size_that_saves_too_little_is_not_taken() -> None:
    pace, ended = Pace(AUTO, "cuda"), False
    while not ended:
        ended = pace.took(pace.size, 0.01 + 0.001 * pace.size)  # of an input 2.25 ms of 8, 1.08 of 128, 1.04 of 256
    assert pace.size == 128
    assert not pace.took(128, 0.001)
    assert pace.size == 128
