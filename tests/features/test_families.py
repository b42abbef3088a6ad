"""One bad item costs only itself; equal items are computed once; a broken model is not mistaken for bad data."""

from __future__ import annotations

import numpy as np
import pytest

from smp_ray.errors import ModelError
from smp_ray.features.families import SYSTEMIC, _cosine, _vector_column, compute, compute_unique


def reciprocal(values: list[float]) -> list[float]:
    if any(value == 0 for value in values):
        raise ZeroDivisionError("division by zero")
    return [1 / value for value in values]


def test_one_bad_item_costs_only_itself() -> None:
    results = compute([1.0, 0.0, 4.0], reciprocal)
    assert (results[0], results[2]) == (1.0, 0.25)
    assert isinstance(results[1], ZeroDivisionError)


def test_all_failing_is_a_broken_model() -> None:
    with pytest.raises(ZeroDivisionError):
        compute([0.0] * SYSTEMIC, reciprocal)
    assert all(isinstance(result, ZeroDivisionError) for result in compute([0.0] * (SYSTEMIC - 1), reciprocal))


def test_own_errors_are_not_swallowed() -> None:
    def load(_: list[int]) -> list[int]:
        raise ModelError("no such model")

    with pytest.raises(ModelError):
        compute([1, 2], load)


def test_nothing_to_do() -> None:
    assert compute([], reciprocal) == []
    assert compute_unique([None, None], lambda row: 0.0, reciprocal) == [None, None]


def test_equal_keys_are_computed_once() -> None:
    seen: list[str] = []

    def upper(texts: list[str]) -> list[str]:
        seen.extend(texts)
        return [text.upper() for text in texts]

    texts = ["a", None, "b", "a", "b", "a"]
    assert compute_unique(texts, lambda row: texts[row] or "", upper) == ["A", None, "B", "A", "B", "A"]
    assert seen == ["a", "b"]


def test_missing_vectors_are_null_and_so_is_what_depends_on_them() -> None:
    vectors = np.array([[0.6, 0.8], [np.nan, np.nan]], dtype=np.float32)
    other = np.array([[0.6, 0.8], [1.0, 0.0]], dtype=np.float32)
    column = _vector_column(vectors)
    assert column.to_pylist()[1] is None
    assert column.type.list_size == 2
    cosines = _cosine(vectors, other).to_pylist()
    assert cosines[0] == pytest.approx(1, abs=1e-6)
    assert cosines[1] is None
    assert len(_vector_column(np.zeros((0, 3), dtype=np.float32))) == 0
