from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from smp_ray.config import Config
from smp_ray.errors import DataError, WorkspaceError
from smp_ray.schema import POSTS, REJECTED
from smp_ray.sources import ingest, parquet_parts, posts_fingerprint
from smp_ray.sources.base import RawPost
from smp_ray.workspace import Workspace
from tests.sources.helpers import SmpdFiles, take, take_smpd, write_lines

#: The module: the package exports the function of the same name.
STAGE = importlib.import_module("smp_ray.sources.ingest")
COLUMNS = {"post_id": "id", "title": "t"}


def table_config(path: Path) -> Config:
    return Config.model_validate(
        {"workspace": "unused", "source": {"kind": "table", "path": str(path), "columns": COLUMNS}}
    )


@pytest.fixture
def config(tmp_path: Path) -> Config:
    write_lines(tmp_path / "posts.jsonl", [{"id": number, "t": f"title {number}"} for number in range(25)])
    return table_config(tmp_path / "posts.jsonl")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "ws"))


def test_artefact_is_as_its_manifest_says(config: Config, workspace: Workspace) -> None:
    manifest = ingest(config, workspace)
    assert manifest.fingerprint == posts_fingerprint(config, workspace)
    assert manifest.counts == {
        "accepted": 25, "rejected": 0, "split_test": 25, "labelled": 0, "without_image": 25, "without_title": 0,
    }  # fmt: skip
    assert manifest.config == config.source.model_dump(mode="json")
    assert manifest.details == {
        "source": "table", "synthetic": False, "extra_columns": [],
        "rejected": f"ingest/{manifest.fingerprint}/rejected.parquet",
    }  # fmt: skip
    assert [fragment.path for fragment in manifest.fragments] == [
        f"ingest/{manifest.fingerprint}/posts/part-00000.parquet"
    ]
    assert manifest.fragments[0].bytes == os.path.getsize(workspace.path(manifest.fragments[0].path))
    assert pq.read_schema(workspace.path(manifest.fragments[0].path)).equals(POSTS)
    assert pq.read_schema(workspace.path(manifest.details["rejected"])).equals(REJECTED)
    assert workspace.manifest("ingest", manifest.fingerprint) == manifest


def test_second_run_changes_nothing(config: Config, workspace: Workspace) -> None:
    first = ingest(config, workspace)
    before = {info.path: info.mtime_ns for info in workspace.files()}
    assert ingest(config, workspace) == first
    assert {info.path: info.mtime_ns for info in workspace.files()} == before


def test_changed_data_is_another_artefact_and_changed_back_the_first(config: Config, workspace: Workspace) -> None:
    path = Path(config.source.path)  # type: ignore[union-attr]
    before, first = path.read_bytes(), ingest(config, workspace)
    path.write_bytes(before.replace(b"title 7", b"title X"))
    second = ingest(config, workspace)
    assert second.fingerprint != first.fingerprint
    path.write_bytes(before)
    assert ingest(config, workspace) == first
    one, other = (pq.read_table(workspace.path(m.fragments[0].path)).to_pylist() for m in (first, second))
    changed = [new["post_id"] for old, new in zip(one, other, strict=True) if old["row_id"] != new["row_id"]]
    assert changed == ["7"]


def test_what_a_killed_run_left_is_made_anew(config: Config, workspace: Workspace) -> None:
    own = posts_fingerprint(config, workspace)
    leftover = Path(workspace.make_dir("ingest", own, "posts"))
    (leftover / "part-00000.parquet").write_bytes(b"PAR1 cut sh")
    (leftover / "part-00007.parquet").write_bytes(b"PAR1")
    manifest = ingest(config, workspace)
    assert [path.name for path in leftover.iterdir()] == ["part-00000.parquet"]
    assert manifest.rows == 25


def test_files_have_a_bounded_number_of_rows(
    config: Config, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_parts, "_FILE_ROWS", 10)
    monkeypatch.setattr(STAGE, "_BATCH_POSTS", 4)
    manifest = ingest(config, workspace)
    assert [fragment.rows for fragment in manifest.fragments] == [8, 8, 9]
    assert [fragment.path.rpartition("/")[2] for fragment in manifest.fragments][2] == "part-00002.parquet"


def test_row_ids_do_not_depend_on_order_neighbours_or_batches(
    config: Config, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = take(workspace.root, **config.source.model_dump())
    rows = [{"id": number, "t": f"title {number}"} for number in range(40, 4, -1)]
    write_lines(tmp_path / "other.jsonl", rows)
    monkeypatch.setattr(STAGE, "_BATCH_POSTS", 3)
    other = take(tmp_path / "elsewhere", **table_config(tmp_path / "other.jsonl").source.model_dump())
    common = first.posts.keys() & other.posts.keys()
    assert len(common) == 20
    assert all(first.posts[key]["row_id"] == other.posts[key]["row_id"] for key in common)


def test_row_ids_stay_the_same_when_the_dataset_moves(tmp_path: Path) -> None:
    one = take_smpd(SmpdFiles.of(tmp_path / "a" / "smpd"))
    other = take_smpd(SmpdFiles.of(tmp_path / "b" / "smpd"))
    assert one.manifest.fingerprint != other.manifest.fingerprint  # image_uri is absolute
    assert [post["row_id"] for post in one.posts.values()] == [post["row_id"] for post in other.posts.values()]


def test_duplicates_are_found_across_batches(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(STAGE, "_BATCH_POSTS", 3)
    rows = [{"id": number % 10, "t": str(number)} for number in range(35)]
    write_lines(tmp_path / "posts.jsonl", rows)
    taken = take(workspace.root, **table_config(tmp_path / "posts.jsonl").source.model_dump())
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


def test_nothing_taken_is_an_error_and_no_artefact(tmp_path: Path, workspace: Workspace) -> None:
    write_lines(tmp_path / "posts.jsonl", [{"id": None, "t": "a"}, {"id": "", "t": "b"}])
    config = table_config(tmp_path / "posts.jsonl")
    with pytest.raises(
        DataError, match="no post could be taken, 2 were rejected, the first because: line 1: no id"
    ) as error:
        ingest(config, workspace)
    rejected = pq.read_table(str(error.value).split("; all reasons are in ")[1])
    assert rejected.num_rows == 2
    assert workspace.manifest("ingest", posts_fingerprint(config, workspace)) is None


def test_failure_half_way_leaves_no_artefact(config: Config, workspace: Workspace) -> None:
    path = Path(config.source.path)  # type: ignore[union-attr]
    path.write_text(path.read_text() + '{"id": 99')
    with pytest.raises(DataError, match="line 26"):
        ingest(config, workspace)
    assert workspace.manifests("ingest") == []


def test_workspace_that_cannot_be_written(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WorkspaceError):
        ingest(config, Workspace.open(str(tmp_path / "file")))


def test_progress_is_told(config: Config, workspace: Workspace) -> None:
    told: list[tuple[str, int, int | None]] = []
    ingest(config, workspace, lambda what, done, total: told.append((what, done, total)))
    assert told[-1] == ("posts", 25, None)


def test_large_images_do_not_fill_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STAGE, "_BATCH_BYTES", 1000)
    posts = (RawPost({"image_bytes": b"x" * 400}, None, "file") for _ in range(7))
    assert [len(batch) for batch in STAGE._batches(posts)] == [3, 3, 1]
