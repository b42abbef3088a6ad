from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smp_ray.errors import DataError
from smp_ray.sources.json_files import json_lines, json_records, text_lines
from smp_ray.sources.location import Location

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def records(folder: Path, data: bytes) -> list[Any]:
    (folder / "f.json").write_bytes(data)
    return list(json_records(Location.open(str(folder)), "f.json"))


@given(st.lists(VALUES, max_size=6), st.sampled_from([None, 2]), st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lists_read_as_json_does(tmp_path: Path, values: list[Any], indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    assert records(tmp_path, text.encode()) == values


def test_object_of_columns(tmp_path: Path) -> None:
    columns = {"Uid": {"0": "a", "1": "b"}, "x.y": {"0": [1.5], "1": None}}
    expected = [{"Uid": "a", "x.y": [1.5]}, {"Uid": "b", "x.y": None}]
    assert records(tmp_path, json.dumps(columns).encode()) == expected
    columns["x.y"].pop("1")
    with pytest.raises(DataError, match=r"f\.json: the columns do not have the same rows"):
        records(tmp_path, json.dumps(columns).encode())


def test_byte_order_mark_and_invalid_utf8(tmp_path: Path) -> None:
    assert records(tmp_path, b'\xef\xbb\xbf[{"a": "caf\xe9"}]') == [{"a": "caf\ufffd"}]


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b'[\n{"a": 1},\n{"a": }\n]', "record 2: not readable as JSON"),
        (b'[{"a": 1}, {"a": 2}', "record 3: not readable as JSON"),
        (b'[{"a": 1} {"a": 2}]', "record 2: not readable as JSON"),
        (b'[{"a": "open]', "record 1: not readable as JSON"),
        (b"[1] 2", "record 2: not readable as JSON"),
        (b"[" * 500, "record 1: not readable as JSON"),
        (b"[" + b"9" * 5000 + b"]", "record 1: not readable as JSON"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, "found '\ufffd', allowed: a list of records"),
        (b" ", "an empty file"),
    ],
)
def test_unreadable_json_names_file_and_record(tmp_path: Path, data: bytes, where: str) -> None:
    with pytest.raises(DataError) as error:
        records(tmp_path, data)
    assert str(error.value).startswith(f"{tmp_path}/f.json: {where}")
    assert "\n" not in str(error.value)


def test_records_stream(tmp_path: Path) -> None:
    """The first record is there before the rest is looked at."""
    (tmp_path / "f.json").write_bytes(b'[{"a": 1},' + b" " * 10_000_000 + b"broken")
    assert next(iter(json_records(Location.open(str(tmp_path)), "f.json"))) == {"a": 1}


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
    assert list(json_lines(Location.open(str(tmp_path)), "p.jsonl")) == [
        ("line 1", {"a": 1}),
        ("line 3", {"a": "\ufffd"}),
    ]


def test_lines_of_text_keep_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(b"\xef\xbb\xbfa\r\n\n b \n\n\n")
    assert list(text_lines(Location.open(str(tmp_path)), "l.txt")) == ["a", "", "b"]
