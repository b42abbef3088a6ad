from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smp_ray.errors import DataError
from smp_ray.sources import json_stream
from smp_ray.sources.json_stream import JsonText, json_lines, text_lines
from smp_ray.sources.location import Location

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


class Trickle(io.BytesIO):
    """Hands out a few bytes at a time, so that every token is cut somewhere."""

    def __init__(self, data: bytes, step: int) -> None:
        super().__init__(data)
        self.step = step

    def read(self, size: int | None = -1) -> bytes:
        return super().read(self.step)


def records(data: bytes, step: int = 2**20) -> list[Any]:
    return [value for value, _ in JsonText(Trickle(data, step), "f.json").records()]


@given(st.lists(VALUES, max_size=6), st.integers(1, 7), st.sampled_from([None, 2]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_lists_cut_anywhere_read_the_same(values: list[Any], step: int, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    assert records(text.encode("utf-8", "surrogatepass"), step) == json.loads(text)


@given(st.dictionaries(st.text(max_size=3), st.dictionaries(st.text(max_size=3), VALUES, max_size=3), max_size=3))
@settings(deadline=None)
def test_objects_of_columns_cut_anywhere_read_the_same(columns: dict[str, dict[str, Any]]) -> None:
    found = [(c, r, json.loads(v)) for c, r, v in JsonText(Trickle(json.dumps(columns).encode(), 3), "f").cells()]
    assert found == [(column, row, value) for column, cells in columns.items() for row, value in cells.items()]


def test_byte_order_mark_and_invalid_utf8() -> None:
    assert records(b'\xef\xbb\xbf[{"a": "caf\xe9"}]') == [{"a": "caf\ufffd"}]


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b'[\n{"a": 1},\n{"a": }\n]', "line 3 column 7"),
        (b'[{"a": 1}, {"a": 2}', "line 1 column 20"),
        (b'[{"a": 1} {"a": 2}]', "line 1 column 11"),
        (b'[{"a": "open]', "line 1 column 8"),
        (b"[1] 2", "line 1 column 5"),
        (b"[1,]", "line 1 column 4"),
        (b"[" * 100_000, "line 1 column 2"),
        (b"[" + b"9" * 5000 + b"]", "line 1 column 2"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, "line 1 column 1"),
        (b"", "line 1 column 1"),
        (b'[{"a": "tab\x01"}]', "line 1 column 12"),
    ],
)
@pytest.mark.parametrize("step", [3, 2**20])
def test_unreadable_json_names_file_and_position(data: bytes, where: str, step: int) -> None:
    with pytest.raises(DataError) as error:
        records(data, step)
    assert str(error.value).startswith(f"f.json: {where}: not readable as JSON: ")
    assert "\n" not in str(error.value)


def test_error_far_from_the_end_is_found_without_reading_on() -> None:
    stream = io.BytesIO(b'[{"a": 1 2},' + b" " * 50_000_000)
    with pytest.raises(DataError, match="line 1 column 10"):
        list(JsonText(stream, "f").records())
    assert stream.tell() < 2**21


def test_value_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_LONGEST_VALUE", 3 * 2**20)
    stream = io.BytesIO(b'["' + b"x" * 50_000_000)
    with pytest.raises(DataError, match="quote or bracket that is not closed"):
        list(JsonText(stream, "f").records())
    assert stream.tell() < 10 * 2**20


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1', "line 3 column"),
        ("[1]", "line 3: found '\\[1\\]', allowed: one JSON object a line"),
        ("\x00\x01", "line 3 column 1"),
        ("{" * 3000, "line 3 column 2"),
        ('{"a":' * 100_000, "line 3"),
    ],
)
def test_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "p.jsonl").write_text('{"a": 1}\n\n' + line + '\n{"a": 2}\n')
    with pytest.raises(DataError, match=message) as error:
        list(json_lines(Location.open(str(tmp_path)), "p.jsonl"))
    assert str(error.value).startswith(str(tmp_path / "p.jsonl"))
    assert "\n" not in str(error.value)


def test_empty_lines_and_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": "\xff"}')
    assert list(json_lines(Location.open(str(tmp_path)), "p.jsonl")) == [(1, {"a": 1}), (3, {"a": "\ufffd"})]


def test_lines_of_text_keep_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(b"\xef\xbb\xbfa\r\n\n b \n\n\n")
    assert list(text_lines(Location.open(str(tmp_path)), "l.txt")) == ["a", "", "b"]
