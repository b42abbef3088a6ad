from __future__ import annotations

import uuid
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smp_ray.sources.location import inside
from smp_ray.sources.values import (
    as_flag,
    as_hours,
    as_id,
    as_label,
    as_number,
    as_text,
    as_texts,
    as_time,
    as_vector,
    clean_text,
)


@given(st.text(st.characters()))
def test_cleaned_text_is_utf8_and_otherwise_the_same(text: str) -> None:
    cleaned = clean_text(text)
    cleaned.encode("utf-8")
    assert len(cleaned) == len(text)
    assert all(new == old or (new == "\ufffd" and 0xD800 <= ord(old) <= 0xDFFF) for new, old in zip(cleaned, text))  # noqa: B905


def test_lone_surrogate_becomes_replacement_and_nul_stays() -> None:
    assert as_text("a\ud83db\0☃😀") == "a\ufffdb\0☃😀"
    assert as_text(b"caf\xe9") == "caf\ufffd"


@pytest.mark.parametrize("value", [775, 775.0, "775", " 775 "])
def test_one_id_in_four_spellings(value: object) -> None:
    assert as_id(value) == "775"


@pytest.mark.parametrize("value", [None, "", "  ", float("nan")])
def test_no_id(value: object) -> None:
    assert as_id(value) is None


@pytest.mark.parametrize("value", [True, [1], {"a": 1}])
def test_not_an_id(value: object) -> None:
    with pytest.raises(ValueError, match="found"):
        as_id(value)


@pytest.mark.parametrize(("value", "number"), [("1.5", 1.5), (" -2 ", -2.0), (3, 3.0), ("1e3", 1000.0), (True, 1.0)])
def test_number(value: object, number: float) -> None:
    assert as_number(value) == number


@pytest.mark.parametrize("value", ["abc", "inf", float("-inf"), [1], "1,5", 10**400])
def test_not_a_number(value: object) -> None:
    with pytest.raises(ValueError, match="allowed: a"):
        as_number(value)


@pytest.mark.parametrize("value", ["nan", float("nan"), "inf", "x", True])
def test_label_that_is_not_finite(value: object) -> None:
    with pytest.raises(ValueError, match="number"):
        as_label(value)


def test_label_that_was_given_must_be_there() -> None:
    assert as_label("") is None
    with pytest.raises(ValueError, match="finite"):
        as_label("", given=True)


@pytest.mark.parametrize(
    "value",
    [
        1690654860, "1690654860", "2023-07-29 18:21", "2023-07-29T18:21:00Z", "2023-07-29T20:21:00+02:00",
        datetime(2023, 7, 29, 18, 21), datetime(2023, 7, 29, 18, 21, tzinfo=UTC),
    ],
)  # fmt: skip
def test_one_moment_in_many_spellings(value: object) -> None:
    assert as_time(value) == datetime(2023, 7, 29, 18, 21, tzinfo=UTC)


@pytest.mark.parametrize("value", ["yesterday", "2023-13-01", 1.7e12, "1e99", -1e12, "."])
def test_not_a_moment(value: object) -> None:
    with pytest.raises(ValueError, match="found"):
        as_time(value)


@given(st.datetimes())
def test_any_moment_survives(moment: datetime) -> None:
    assert as_time(moment.isoformat()) == moment.replace(tzinfo=UTC) == as_time(moment)


def test_hours_flags_vectors_and_lists() -> None:
    assert [as_hours(value) for value in ("+01:00", "-03:30", "5", "")] == [1.0, -3.5, 5.0, None]
    assert [as_flag(value) for value in ("True", "0", True, None)] == [1.0, 0.0, 1.0, None]
    vector = as_vector("0.5,-1e-3, 2")
    assert vector is not None
    np.testing.assert_array_equal(vector, np.array([0.5, -1e-3, 2], dtype=np.float32))
    assert as_vector("") is None
    assert as_vector("[1, 2]") is not None
    assert as_texts("", ",") == []
    assert as_texts("a,,b ,", ",") == ["a", "b"]
    assert as_texts(" a\tb  c") == ["a", "b", "c"]
    assert as_texts(["a", "", None, 7]) == ["a", "7"]
    assert as_texts(np.array(["a", "", None, 7], dtype=object)) == ["a", "7"]
    assert as_texts(uuid.UUID(int=5)) == ["00000000-0000-0000-0000-000000000005"]


@pytest.mark.parametrize("value", ["1,x", "1,nan", "1,[2]", "1e99", 5, {"a": 1}, "1,null"])
def test_not_a_vector(value: object) -> None:
    with pytest.raises(ValueError, match="numbers"):
        as_vector(value)


@pytest.mark.parametrize(
    "path", ["../a.jpg", "a/../../b.jpg", "a/../b.jpg", "/etc/passwd", "", ".", "a/\0.jpg", "http://x/y", "a/.."]
)
def test_paths_that_leave_the_folder(path: str) -> None:
    assert inside(path) is None


def test_path_inside_is_simplified() -> None:
    assert inside("./a//b..c/d.jpg") == "a/b..c/d.jpg"
