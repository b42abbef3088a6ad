from __future__ import annotations

import gzip
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smp_ray.errors import DataError
from smp_ray.sources.table_files import table_columns
from tests.sources.helpers import take, take_csv, take_rows


def test_invalid_utf8_byte_order_mark_nul_and_short_lines(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfid,t\r\n1,caf\xe9\r\n\r\n2,a\0b\r\n3\r\n4,x,y\r\n5,z"
    taken = take_csv(tmp_path, content, {"post_id": "id", "title": "t"})
    assert {key: found["title"] for key, found in taken.posts.items()} == {"1": "caf\ufffd", "2": "a\0b", "5": "z"}
    assert [(entry["record"], entry["reason"]) for entry in taken.rejected] == [
        ('["3"]', "line 5: found 1 fields, the header has 2"),
        ('["4", "x", "y"]', "line 6: found 3 fields, the header has 2"),
    ]
    assert taken.rejected[0]["source_file"] == "posts.csv"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "an empty file"),
        ("id,t\n1,a\n2,\"open\n3,b\n4,c\n", "line 3: not readable as CSV"),
        ("id,t\n1,\"a\"b\n", "line 2: not readable as CSV"),
        ("number,title\n1,a\n", "no column 'id', 't'; it has number, title"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "no column 'id', 't'"),
        ("id,t,t\n1,a,b\n", "more than one column 't'"),
        ("id,t\n", "the dataset holds no posts"),
        ("id,t\n,a\n", "no post could be taken, 1 were rejected"),
    ],
)  # fmt: skip
def test_csv_that_cannot_be_read(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        take_csv(tmp_path, content, {"post_id": "id", "title": "t"})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["posts.parquet", "posts.csv.gz", "posts.jsonl", "posts.jsonl.gz"])
@pytest.mark.parametrize("content", [b"", b"PAR1" + bytes(range(256)) * 9, b"\x1f\x8b\x08\x00" + b"garbage" * 99])
def test_rubbish_is_one_clear_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name) as error:
        take(tmp_path / "ws", kind="table", path=str(tmp_path / name), columns={"post_id": "id"})
    assert "\n" not in str(error.value)


def test_file_that_is_cut_short(tmp_path: Path) -> None:
    whole = gzip.compress(("id\n" + "".join(f"{n * 7919 % 100_003}\n" for n in range(50_000))).encode())
    (tmp_path / "posts.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"posts\.csv\.gz"):
        take(tmp_path / "ws", kind="table", path=str(tmp_path / "posts.csv.gz"), columns={"post_id": "id"})


def test_column_of_json_lines_that_no_line_has(tmp_path: Path) -> None:
    rows = [{"id": 1, "t": "a"}, {"id": 2}]
    assert take_rows(tmp_path, rows, {"post_id": "id", "title": "t"}).posts["2"]["title"] is None
    with pytest.raises(DataError, match="no column 'titel'; it has id, t"):
        take_rows(tmp_path, rows, {"post_id": "id", "title": "titel"})


def test_parquet_without_a_mapped_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "t": ["a"]}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"p\.parquet: no column 'x'; it has id, t"):
        take(tmp_path / "ws", kind="table", path=str(tmp_path / "p.parquet"), columns={"post_id": "id", "title": "x"})


def test_moments_of_parquet(tmp_path: Path) -> None:
    moment = datetime(2023, 7, 29, 18, 21)
    for number, array in enumerate(
        [
            pa.array([moment], pa.timestamp("ns")), pa.array([moment], pa.timestamp("s", tz="UTC")),
            pa.array([moment], pa.timestamp("us", tz="Europe/Paris")), pa.array([1690654860]),
        ]
    ):  # fmt: skip
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"id": ["1"], "t": array}), path)
        taken = take(tmp_path / "ws", kind="table", path=str(path), columns={"post_id": "id", "posted_at": "t"})
        assert taken.posts["1"]["posted_at"] == moment.replace(tzinfo=UTC)
    pq.write_table(pa.table({"id": ["1"], "t": [date(2023, 7, 29)]}), path)
    taken = take(tmp_path / "ws", kind="table", path=str(path), columns={"post_id": "id", "posted_at": "t"})
    assert taken.posts["1"]["posted_at"] == datetime(2023, 7, 29, tzinfo=UTC)


def test_odd_columns_of_parquet_cost_their_own_rows_alone(tmp_path: Path) -> None:
    far, now = 400_000_000_000, 1_690_654_860  # seconds; the first in the year 14645
    columns = {
        "id": ["1", "2"], "t": pa.array([far, now], pa.timestamp("s")), "long": pa.array([1, 2], pa.duration("s")),
        "of day": pa.array([1, 2], pa.time32("s")),
    }  # fmt: skip
    path = tmp_path / "odd.parquet"
    pq.write_table(pa.table(columns), path)
    assert table_columns(str(path)) == list(columns)
    taken = take(tmp_path / "ws", kind="table", path=str(path), columns={"post_id": "id", "posted_at": "t"})
    assert taken.posts["2"]["posted_at"] == datetime.fromtimestamp(now, UTC)
    assert list(taken.posts) == ["2"]
    assert (
        taken.reasons
        == f"row 1: posted_at: found {far * 10**6}, allowed: epoch seconds or ISO 8601, of the years 1 to 9999"
    )


def test_folder_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "posts"
    (folder / "images").mkdir(parents=True)
    for name in ("b.csv", "a.csv"):
        (folder / name).write_text(f"id,i\n{name[0]}1,images/x.jpg\n{name[0]}2,\n")
    (folder / "images" / "x.jpg").write_bytes(b"no table")
    (folder / "_SUCCESS").touch()
    (folder / ".hidden.csv").touch()
    taken = take(tmp_path / "ws", kind="table", path=str(folder), columns={"post_id": "id", "image": "i"})
    assert list(taken.posts) == ["a1", "a2", "b1", "b2"]
    assert taken.posts["b1"]["image_uri"] == f"{folder}/images/x.jpg"
    (folder / "c.jsonl").write_text('{"id": "c1", "i": null}\n')
    with pytest.raises(DataError, match=r"holds csv and jsonl files; source\.format names one"):
        take(tmp_path / "ws", kind="table", path=str(folder), columns={"post_id": "id"})
    only = take(tmp_path / "ws", kind="table", path=str(folder), columns={"post_id": "id"}, format="jsonl")
    assert list(only.posts) == ["c1"]


def test_folder_of_folders(tmp_path: Path) -> None:
    for name in ("day=1", "day=2"):
        (tmp_path / "posts" / name).mkdir(parents=True)
        pq.write_table(pa.table({"id": [name]}), tmp_path / "posts" / name / "p.parquet")
    taken = take(tmp_path / "ws", kind="table", path=str(tmp_path / "posts"), columns={"post_id": "id"})
    assert list(taken.posts) == ["day=1", "day=2"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing.csv", "no such file"), ("notes.txt", "the suffix is none of"), ("", "no table files")],
)
def test_path_that_is_no_table(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=message):
        take(tmp_path / "ws", kind="table", path=str(tmp_path / "raw" / name), columns={"post_id": "id"})
