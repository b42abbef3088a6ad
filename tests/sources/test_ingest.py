from __future__ import annotations

import hashlib
import importlib
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smp_ray.errors import DataError, WorkspaceError
from smp_ray.schema import POSTS, REJECTED
from smp_ray.sources import Reader, SourceSettings, ingest, piece
from smp_ray.sources.base import RawPost
from smp_ray.store import parquet
from smp_ray.store.workspace import Workspace
from tests.sources.helpers import SmpdFiles, folder_of, section, take, take_smpd, write_lines

#: The module: the package exports the function of the same name.
INGEST = importlib.import_module("smp_ray.sources.ingest")
COLUMNS = {"post_id": "id", "title": "t"}


def table(path: Path) -> SourceSettings:
    return section(kind="table", path=str(path), columns=COLUMNS)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "ws"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_lines(tmp_path / "posts.jsonl", [{"id": number, "t": f"title {number}"} for number in range(25)])
    return tmp_path / "posts.jsonl"


@pytest.fixture
def reader(path: Path, workspace: Workspace) -> Reader:
    return table(path).open(workspace)


def test_what_was_made_is_as_it_says(reader: Reader, workspace: Workspace) -> None:
    made = ingest(reader, workspace, "ingest/x")
    assert made.rows == 25
    assert made.counts == {
        "accepted": 25, "rejected": 0, "split_test": 25, "labelled": 0, "without_image": 25, "without_title": 0,
    }  # fmt: skip
    assert made.details == {"synthetic": False, "rejected": "ingest/x/rejected.parquet"}
    assert made.note == "25 posts"
    (fragment,) = made.fragments
    assert fragment.path == f"{piece.folder_of(reader.pieces()[0])}/posts/part-00000.parquet"
    assert fragment.bytes == os.path.getsize(workspace.path(fragment.path))
    assert pq.read_schema(workspace.path(fragment.path)).equals(POSTS)
    assert pq.read_schema(workspace.path(made.details["rejected"])).equals(REJECTED)


def test_note_says_where_the_rejections_are(tmp_path: Path) -> None:
    write_lines(tmp_path / "posts.jsonl", [{"id": number or None, "t": "a"} for number in range(1235)])
    made = take(tmp_path / "ws", **table(tmp_path / "posts.jsonl").model_dump()).made
    assert made.note == f"1,234 posts, 1 rejected (see {tmp_path}/ws/{made.details['rejected']})"


def test_changed_data_is_another_dataset_and_changed_back_the_first(path: Path, workspace: Workspace) -> None:
    def state() -> tuple[str, list[int]]:
        reader = table(path).open(workspace)
        made = ingest(reader, workspace, folder_of(reader))
        return folder_of(reader), pq.read_table(workspace.path(made.fragments[0].path))["row_id"].to_pylist()

    before, first = path.read_bytes(), state()
    path.write_bytes(before.replace(b"title 7", b"title X"))
    second = state()
    path.write_bytes(before)
    assert state() == first
    assert second[0] != first[0]
    assert [number for number in range(25) if first[1][number] != second[1][number]] == [7]


def test_identity_is_found_out_once_a_reader(path: Path, reader: Reader, workspace: Workspace) -> None:
    before = reader.identity
    path.write_text('{"id": 1, "t": "another"}\n')
    assert reader.identity == before
    assert table(path).open(workspace).identity != before


def test_what_a_killed_run_left_is_made_anew(reader: Reader, workspace: Workspace) -> None:
    leftover = Path(workspace.make_dir(piece.folder_of(reader.pieces()[0]), "posts"))
    (leftover / "part-00000.parquet").write_bytes(b"PAR1 cut sh")
    (leftover / "part-00007.parquet").write_bytes(b"PAR1")
    made = ingest(reader, workspace, "ingest/x")
    assert [path.name for path in leftover.iterdir()] == ["part-00000.parquet"]
    assert pq.read_table(workspace.path(made.fragments[0].path)).num_rows == 25


def test_files_have_a_bounded_number_of_rows(
    reader: Reader, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "FILE_ROWS", 10)
    monkeypatch.setattr(piece, "_BATCH_ROWS", 4)
    made = ingest(reader, workspace, "ingest/x")
    assert [fragment.rows for fragment in made.fragments] == [8, 8, 9]
    assert [fragment.path.rpartition("/")[2] for fragment in made.fragments][2] == "part-00002.parquet"


def test_row_ids_do_not_depend_on_order_neighbours_or_batches(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = take(tmp_path / "ws", **table(path).model_dump())
    rows = [{"id": number, "t": f"title {number}"} for number in range(40, 4, -1)]
    write_lines(tmp_path / "other.jsonl", rows)
    monkeypatch.setattr(piece, "_BATCH_ROWS", 3)
    other = take(tmp_path / "elsewhere", **table(tmp_path / "other.jsonl").model_dump())
    common = first.posts.keys() & other.posts.keys()
    assert len(common) == 20
    assert all(first.posts[key]["row_id"] == other.posts[key]["row_id"] for key in common)


def test_row_ids_stay_the_same_when_the_dataset_moves(tmp_path: Path) -> None:
    one = take_smpd(SmpdFiles.of(tmp_path / "a" / "smpd"))
    other = take_smpd(SmpdFiles.of(tmp_path / "b" / "smpd"))
    assert one.made.details["rejected"] != other.made.details["rejected"]  # image_uri is absolute
    assert [post["row_id"] for post in one.posts.values()] == [post["row_id"] for post in other.posts.values()]


def test_duplicates_are_found_across_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece, "_BATCH_ROWS", 3)
    rows = [{"id": number % 10, "t": str(number)} for number in range(35)]
    write_lines(tmp_path / "posts.jsonl", rows)
    taken = take(tmp_path / "ws", **table(tmp_path / "posts.jsonl").model_dump())
    assert {key: post["title"] for key, post in taken.posts.items()} == {
        str(number): str(number) for number in range(10)
    }
    assert [json.loads(entry["record"])["title"] for entry in taken.rejected] == [str(n) for n in range(10, 35)]


def test_rejections_name_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        write_lines(folder / name, [{"id": 1, "t": name}])
    taken = take(tmp_path / "ws", kind="table", path=str(folder), columns=COLUMNS)
    assert taken.rejected[0]["source_file"] == "b.jsonl"


def test_nothing_taken_is_an_error_that_names_the_reasons(tmp_path: Path, workspace: Workspace) -> None:
    write_lines(tmp_path / "posts.jsonl", [{"id": None, "t": "a"}, {"id": "", "t": "b"}])
    reader = table(tmp_path / "posts.jsonl").open(workspace)
    with pytest.raises(
        DataError, match="table: no post could be taken, 2 were rejected, the first because: line 1: no id"
    ) as error:
        ingest(reader, workspace, "ingest/x")
    rejected = pq.read_table(str(error.value).split("; all reasons are in ")[1])
    assert rejected.num_rows == 2


def test_failure_half_way_is_a_failure(path: Path, reader: Reader, workspace: Workspace) -> None:
    path.write_text(path.read_text() + '{"id": 99')
    with pytest.raises(DataError, match="line 26"):
        ingest(reader, workspace, "ingest/x")


def test_workspace_that_cannot_be_written(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WorkspaceError):
        ingest(reader, Workspace.open(str(tmp_path / "file")), "ingest/x")


def test_progress_is_told(reader: Reader, workspace: Workspace) -> None:
    told: list[tuple[str, int, int | None]] = []
    INGEST.read_piece(reader, workspace, lambda what, done, total: told.append((what, done, total)))
    assert told[-1] == ("posts", 25, None)


def test_large_images_do_not_fill_a_batch(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piece, "_BATCH_BYTES", 1000)
    pq.write_table(pa.table({"id": range(7), "i": [b"x" * (400 + n) for n in range(7)]}), tmp_path / "p.parquet")
    columns = {"post_id": "id", "image": "i"}
    reader = section(kind="table", path=str(tmp_path / "p.parquet"), columns=columns).open(workspace)
    (fragment,) = ingest(reader, workspace, "ingest/x").fragments
    written = pq.ParquetFile(workspace.path(fragment.path)).metadata
    assert [written.row_group(group).num_rows for group in range(written.num_row_groups)] == [3, 3, 1]


def test_a_row_id_that_another_post_has_is_a_rejection(
    reader: Reader, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(INGEST, "row_id_of", lambda namespace, post: int(post.values["post_id"]) // 5)
    made = ingest(reader, workspace, "ingest/x")
    assert pq.read_table(workspace.path(made.fragments[0].path))["row_id"].to_pylist() == [0, 1, 2, 3, 4]
    assert made.counts["rejected_duplicate_post_id"] == made.counts["rejected"] == 20


def test_what_a_row_id_is_made_of() -> None:
    def row_id(namespace: str, post_id: str, title: str | None, image: str | bytes | None) -> int:
        return int(INGEST.row_id_of(namespace, RawPost({"post_id": post_id, "title": title}, image, "f")))

    base = row_id("", "1", "t", "a.jpg")
    others = [
        row_id("", "2", "t", "a.jpg"), row_id("", "1", "u", "a.jpg"), row_id("", "1", "t", "b.jpg"),
        row_id("", "1", "t", b"a.jpg"), row_id("", "1", None, "a.jpg"), row_id("", "1", "", "a.jpg"),
        row_id("", "1", "t", None), row_id("x", "1", "t", "a.jpg"), row_id("", "1t", "", "a.jpg"),
    ]  # fmt: skip
    assert len({base, *others}) == 10
    assert base == int.from_bytes(hashlib.blake2b(b"0:1:11:t11:named:a.jpg", digest_size=8).digest(), "big") & (
        2**63 - 1
    )
