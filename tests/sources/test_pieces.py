"""A folder of files: each is read once for good, here or in Ray tasks, and ids are unique over all.

It also tests `sources/piece.py`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from smp_ray.config import build_config
from smp_ray.errors import DataError
from smp_ray.pipeline import open_run, run_stages
from smp_ray.ray_session import RaySession
from smp_ray.run import Run
from smp_ray.sources import Reader, ingest, piece, repeats
from smp_ray.sources.piece import NOTE, folder_of
from smp_ray.store.manifest import Made, Manifest
from smp_ray.store.workspace import Place, Workspace
from tests.sources.helpers import section, take, write_lines

COLUMNS = {"post_id": "id", "title": "t", "popularity": "s"}
#: Name of a file -> ids of its posts. "1" and "5" are repeated across files, "2" within one, "e" has nothing new.
FILES = {"a": ["1", "2", "3", "2"], "b": ["5", "1", "4"], "c": ["7", None, "6"], "d": ["8", "5", "9", "1"], "e": ["1"]}


def folder_with(path: Path, files: dict[str, list[Any]]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, ids in files.items():
        rows = [{"id": one, "t": f"{name}{number}", "s": number} for number, one in enumerate(ids)]
        write_lines(path / f"{name}.jsonl", rows)
    return path


def reader_of(path: Path | str, workspace: Workspace, **options: Any) -> Reader:
    return section(kind="table", path=str(path), columns=COLUMNS, **options).open(workspace)


def posts_of(made: Made | Manifest, workspace: Workspace) -> list[dict[str, Any]]:
    tables = [pq.read_table(workspace.path(one.path), filesystem=workspace.filesystem) for one in made.fragments]
    assert [table.num_rows for table in tables] == [one.rows for one in made.fragments]
    return [row for table in tables for row in table.to_pylist()]


def rejected_of(made: Made, workspace: Workspace) -> list[dict[str, Any]]:
    return pq.read_table(workspace.path(made.details["rejected"]), filesystem=workspace.filesystem).to_pylist()


def notes(workspace: Workspace) -> dict[str, int]:
    """When each finished file was finished."""
    return {info.path: info.mtime_ns for info in workspace.files("ingest/files") if info.base_name == NOTE}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "ws"))


def test_ids_are_unique_over_all_files(tmp_path: Path, workspace: Workspace) -> None:
    made = ingest(reader_of(folder_with(tmp_path / "raw", FILES), workspace), workspace, "ingest/x")
    titles = [post["title"] for post in posts_of(made, workspace)]
    assert titles == ["a0", "a1", "a2", "b0", "b2", "c0", "c2", "d0", "d2"]
    found = [
        (one["source_file"], json.loads(one["record"]).get("t"), one["reason"]) for one in rejected_of(made, workspace)
    ]
    taken = "post_id {!r} (or its row_id) was taken before; the first is kept".format
    assert found == [
        ("a.jsonl", None, taken("2")), ("b.jsonl", None, taken("1")), ("c.jsonl", "c1", "line 2: no id"),
        ("d.jsonl", None, taken("5")), ("d.jsonl", None, taken("1")), ("e.jsonl", None, taken("1")),
    ]  # fmt: skip
    assert json.loads(rejected_of(made, workspace)[1]["record"]) == {
        "post_id": "1", "split": "train", "title": "b1", "popularity": 1.0,
    }  # fmt: skip
    assert made.counts == {
        "accepted": 9, "rejected": 6, "rejected_duplicate_post_id": 5, "rejected_without_ids": 1, "split_train": 9,
        "labelled": 9, "without_image": 9, "without_title": 0,
    }  # fmt: skip
    own = [one.path for one in made.fragments if one.path.startswith("ingest/x/")]
    assert len(own) == 3  # a has a post twice; b and d lose posts to other files
    assert {info.base_name for info in workspace.files("ingest/x")} == {
        "rejected.parquet",
        *(Path(p).name for p in own),
    }


def test_at_once_or_file_by_file_or_in_tasks_is_the_same(
    tmp_path: Path, workspace: Workspace, session: RaySession, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = folder_with(tmp_path / "raw", FILES)
    at_once = ingest(reader_of(raw, workspace), workspace, "ingest/x")
    later = Workspace.open(str(tmp_path / "later"))
    for name in FILES:
        folder_with(tmp_path / "grown", {name: FILES[name]})
        grown = ingest(reader_of(tmp_path / "grown", later), later, f"ingest/{name}")
    assert posts_of(grown, later) == posts_of(at_once, workspace)
    assert grown.counts == at_once.counts
    monkeypatch.setattr(repeats, "SHARE", 3)
    other = Workspace.open(str(tmp_path / "tasks"))
    made = ingest(reader_of(raw, other), other, "ingest/x", session)
    assert made.fragments == at_once.fragments
    assert posts_of(made, other) == posts_of(at_once, workspace)
    assert rejected_of(made, other) == rejected_of(at_once, workspace)


def test_ids_of_many_files_against_a_set(tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece, "_BATCH_ROWS", 7)
    draw = random.Random(0)
    files = {
        f"{number:02d}": [str(draw.randrange(300)) for _ in range(draw.randrange(60))] + ["end"] for number in range(12)
    }
    made = ingest(reader_of(folder_with(tmp_path / "raw", files), workspace), workspace, "ingest/x")
    seen: dict[str, str] = {}
    for name, ids in files.items():
        for number, one in enumerate(ids):
            seen.setdefault(one, f"{name}{number}")
    assert [(post["post_id"], post["title"]) for post in posts_of(made, workspace)] == list(seen.items())
    assert made.counts["rejected"] == len(rejected_of(made, workspace)) == sum(map(len, files.values())) - len(seen)


def test_a_row_id_that_a_post_of_another_file_has(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys.modules["smp_ray.sources.ingest"], "row_id_of", lambda _, post: int(post.values["title"][1])
    )
    raw = folder_with(tmp_path / "raw", {"a": ["1", "2"], "b": ["3", "2", "5"]})
    made = ingest(reader_of(raw, workspace), workspace, "ingest/x")
    assert [post["title"] for post in posts_of(made, workspace)] == ["a0", "a1", "b2"]
    reasons = [one["reason"] for one in rejected_of(made, workspace)]
    assert reasons == [f"post_id '{one}' (or its row_id) was taken before; the first is kept" for one in "32"]


def test_a_new_or_changed_file_costs_itself(tmp_path: Path, workspace: Workspace) -> None:
    raw = folder_with(tmp_path / "raw", {"b": ["1"], "c": ["2"]})
    ingest(reader_of(raw, workspace), workspace, "ingest/x")
    before = notes(workspace)
    folder_with(raw, {"a": ["2"], "c": ["3", "4"]})
    made = ingest(reader_of(raw, workspace), workspace, "ingest/y")
    assert [post["title"] for post in posts_of(made, workspace)] == ["a0", "b0", "c0", "c1"]
    after = notes(workspace)
    assert len(after) == 4
    assert before.items() <= after.items()


def test_a_file_of_a_piece_that_is_gone_or_torn_is_made_again(tmp_path: Path, workspace: Workspace) -> None:
    raw = folder_with(tmp_path / "raw", {"a": ["1"], "b": ["2"], "c": ["3"]})
    made = ingest(reader_of(raw, workspace), workspace, "ingest/x")
    gone, torn, _ = (Path(workspace.path(fragment.path)) for fragment in made.fragments)
    gone.unlink()
    torn.write_bytes(torn.read_bytes()[:-9])
    before = notes(workspace)
    again = ingest(reader_of(raw, workspace), workspace, "ingest/x")
    assert len(posts_of(again, workspace)) == 3
    assert len(before.items() & notes(workspace).items()) == 1


def test_what_is_read_in_the_same_way_is_read_once(tmp_path: Path, workspace: Workspace) -> None:
    raw = folder_with(tmp_path / "raw", {"a": ["1"], "b": ["2"]})
    ingest(reader_of(raw, workspace), workspace, "ingest/x")
    before = notes(workspace)
    for options in ({"path": raw / "a.jsonl"}, {"path": raw, "format": "jsonl"}, {"path": raw, "image_root": "/no"}):
        ingest(reader_of(**options, workspace=workspace), workspace, "ingest/y")
        assert notes(workspace) == before
    other = section(kind="table", path=str(raw), columns={"post_id": "id"}).open(workspace)
    ingest(other, workspace, "ingest/z")
    assert len(notes(workspace)) == 4


@pytest.mark.parametrize("tasks", [False, True])
def test_a_file_that_breaks_off_costs_itself(
    tmp_path: Path, workspace: Workspace, session: RaySession, tasks: bool
) -> None:
    raw = folder_with(tmp_path / "raw", {"a": ["1"], "b": ["2"], "c": ["3"]})
    broken = raw / ("b.jsonl" if tasks else "c.jsonl")
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-5])
    with pytest.raises(DataError, match=rf"{broken.name}: line 1 column \d+: not readable as JSON"):
        ingest(reader_of(raw, workspace), workspace, "ingest/x", session if tasks else None)
    before = notes(workspace)
    assert len(before) == 2
    broken.write_bytes(b"")
    with pytest.raises(DataError, match=rf"{broken.name}: an empty file"):
        ingest(reader_of(raw, workspace), workspace, "ingest/x")
    broken.write_bytes(whole)
    assert len(posts_of(ingest(reader_of(raw, workspace), workspace, "ingest/x"), workspace)) == 3
    assert before.items() < notes(workspace).items()


def test_a_file_without_posts_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name, text in (("a", "id,t,s\n"), ("b", "id,t,s\n1,x,\n"), ("c", "id,t,s\n,x,\n")):
        (tmp_path / "raw" / f"{name}.csv").write_text(text)
    taken = take(tmp_path / "ws", kind="table", path=str(tmp_path / "raw"), columns=COLUMNS)
    assert (list(taken.posts), len(taken.rejected), len(taken.made.fragments)) == (["1"], 1, 1)


def test_raw_files_are_hashed_once(tmp_path: Path, workspace: Workspace) -> None:
    raw = folder_with(tmp_path / "raw", {"a": ["1"], "b": ["2"]})

    def hashes() -> list[str]:
        return [entry["blake2b"] for entry in reader_of(raw, workspace).identity["files"]]

    def set_to(content: bytes, second: int) -> None:
        (raw / "a.jsonl").write_bytes(content)
        os.utime(raw / "a.jsonl", (second, second))

    content = (raw / "a.jsonl").read_bytes()
    other = content.replace(b"1", b"9")
    workspace.make_dir()
    first = hashes()
    set_to(other, int(time.time()) + 60)
    fresh = hashes()
    assert fresh[0] != first[0]
    set_to(content, int(time.time()) + 60)
    assert hashes() == first  # what may change again at once is not remembered
    set_to(content, 1_700_000_000)
    assert hashes() == first
    set_to(other, 1_700_000_000)
    assert hashes() == first  # size and time of change are the same: it was not read
    set_to(other, 1_700_000_001)
    assert hashes() == fresh


def test_nothing_is_remembered_where_there_is_no_workspace(tmp_path: Path, workspace: Workspace) -> None:
    raw = folder_with(tmp_path / "raw", {"a": ["1"]})
    os.utime(raw / "a.jsonl", (1, 1))
    assert reader_of(raw, workspace).identity
    assert not workspace.exists()


def config_of(raw: str, workspace: str) -> dict[str, Any]:
    return {
        "workspace": workspace,
        "source": {"kind": "table", "path": raw, "columns": COLUMNS},
        "ray": {"num_cpus": 2},
    }


def run_of(raw: str, workspace: str, session: RaySession | None = None) -> Run:
    return open_run(build_config(config_of(raw, workspace)), session)


def command(tmp_path: Path, raw: str, workspace: str) -> list[str]:
    (tmp_path / "config.yaml").write_text(json.dumps(config_of(raw, workspace)))
    return [sys.executable, "-m", "smp_ray.cli", "ingest", str(tmp_path / "config.yaml")]


@pytest.mark.thorough
def test_a_killed_driver_keeps_the_finished_files(tmp_path: Path, workspace: Workspace) -> None:
    ids = {f"f{number}": [f"{number}-{row}" for row in range(30_000)] for number in range(8)}
    raw = str(folder_with(tmp_path / "raw", ids))
    running = subprocess.Popen(command(tmp_path, raw, workspace.uri))
    began = time.monotonic()
    while len(notes(workspace)) < 2:
        assert running.poll() is None, "ended before the kill"
        assert time.monotonic() - began < 240
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    time.sleep(3)  # the tasks end with their driver
    before = notes(workspace)
    assert 2 <= len(before) < 8
    again = subprocess.run(command(tmp_path, raw, workspace.uri), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert len(notes(workspace)) == 8
    assert before.items() < notes(workspace).items()
    posts = run_of(raw, workspace.uri).artefact("ingest")
    assert isinstance(posts, Manifest)
    assert [post["post_id"] for post in posts_of(posts, workspace)] == [one for found in ids.values() for one in found]


@pytest.mark.slow
def test_folder_and_workspace_on_s3_in_tasks(tmp_path: Path, bucket: str, session: RaySession) -> None:
    local, remote = folder_with(tmp_path / "raw", FILES), Place.open(bucket.format("raw"))
    pafs.copy_files(str(local), remote.root, pafs.LocalFileSystem(), remote.filesystem)
    done = subprocess.run(
        command(tmp_path, bucket.format("raw"), bucket.format("ws")), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = run_of(bucket.format("raw"), bucket.format("ws"))
    expected = run_of(str(local), str(tmp_path / "ws"), session)
    run_stages(expected, ["ingest"])
    posts = [run.artefact("ingest") for run in (found, expected)]
    assert isinstance(posts[0], Manifest)
    assert isinstance(posts[1], Manifest)
    assert posts_of(posts[0], found.workspace) == posts_of(posts[1], expected.workspace)
    assert posts[0].counts == posts[1].counts


def test_pieces_have_folders_of_their_own(tmp_path: Path, workspace: Workspace) -> None:
    raw = folder_with(tmp_path / "raw", {"a": ["1"], "b": ["1"]})
    reader = reader_of(raw, workspace)
    made = ingest(reader, workspace, "ingest/x")
    first, second = (folder_of(one) for one in reader.pieces())
    assert [one.path for one in made.fragments] == [f"{first}/posts/part-00000.parquet"]
    assert workspace.exists(second, NOTE)
