from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from smp_ray.config import build_config
from smp_ray.fetch import Fetched, Fetcher
from smp_ray.store.workspace import Place, Workspace
from tests.sources.helpers import SmpdFiles, Taken, folder_of, section, take


def demo(workspace: str | Path, **options: Any) -> Taken:
    return take(workspace, kind="demo", **{"posts": 40, "seed": 3, "test_share": 0.25, **options})


def test_world_is_read_back_whole(tmp_path: Path) -> None:
    taken = demo(tmp_path)
    assert taken.made.details["synthetic"] is True
    assert taken.rejected == []
    (truth_file,) = tmp_path.glob("world/*/truth.jsonl")
    truth = [json.loads(line) for line in truth_file.open(encoding="utf-8")]
    assert len(truth) == 40
    for true in truth:
        post = taken.posts[true["Pid"]]
        assert (post["user_id"], post["split"]) == (true["Uid"], true["split"])
        assert Path(post["image_uri"]).is_file() == true["has_image"]
        if true["split"] == "train":
            assert post["popularity"] == pytest.approx(true["popularity"], abs=0.005)
        else:
            assert post["popularity"] is None
    unreadable = [name for name in taken.made.counts if name.startswith(("unreadable", "without_", "missing"))]
    assert {name: taken.made.counts[name] for name in unreadable if name != "without_title"} == {"without_image": 0}


def test_world_is_made_once(tmp_path: Path) -> None:
    demo(tmp_path)
    (marker,) = tmp_path.glob("world/*/world.json")
    before = marker.stat().st_mtime_ns
    demo(tmp_path)
    assert marker.stat().st_mtime_ns == before


def test_world_that_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    whole = demo(tmp_path / "whole")
    (folder,) = (tmp_path / "whole" / "world").iterdir()
    cut = tmp_path / "cut" / "world" / folder.name
    (cut / "train_allmetadata_json").mkdir(parents=True)
    (cut / "train_allmetadata_json" / "train_text.json").write_text("[{")
    assert [post["row_id"] for post in demo(tmp_path / "cut").posts.values()] == [
        post["row_id"] for post in whole.posts.values()
    ]


def test_other_worlds_are_other_posts(tmp_path: Path) -> None:
    worlds = [demo(tmp_path), demo(tmp_path, seed=4), demo(tmp_path, posts=41)]
    row_ids = [post["row_id"] for world in worlds for post in world.posts.values()]
    assert len(set(row_ids)) == len(row_ids) == 121


@pytest.mark.parametrize("share", [0, 0.01])
def test_world_without_test_posts(tmp_path: Path, share: float) -> None:
    taken = demo(tmp_path, test_share=share)
    assert taken.made.counts["split_train"] == taken.made.counts["accepted"] == 40


def test_dataset_and_workspace_on_s3(tmp_path: Path, bucket: str) -> None:
    local = SmpdFiles.of(tmp_path / "smpd").write()
    (local.root / "train" / "1@N0").mkdir(parents=True)
    (local.root / "train" / "1@N0" / "1.jpg").write_bytes(b"an image")
    remote = Place.open(bucket.format("data%20set"))
    pafs.copy_files(str(local.root), remote.root, pafs.LocalFileSystem(), remote.filesystem)
    source = {"kind": "smpd_image", "path": bucket.format("data%20set"), "splits": ("train",)}
    taken = take(bucket.format("ws"), **source)
    assert [post["popularity"] for post in taken.posts.values()] == [1.5, 2.5, 3.5]
    uri = taken.posts["1"]["image_uri"]
    assert uri == "s3://bucket/data%20set/train/1%40N0/1.jpg"
    config = build_config({"workspace": bucket.format("ws"), "source": {**source, "splits": ["train"]}, "features": {}})
    assert Fetcher(config.images).fetch_all([uri]) == [Fetched(b"an image")]
    assert taken.made.details["rejected"].startswith(
        folder_of(section(**source).open(Workspace.open(bucket.format("ws"))))
    )
    expected = take(tmp_path / "ws", kind="smpd_image", path=str(local.root), splits=("train",))
    assert {k: post["row_id"] for k, post in taken.posts.items()} == {
        k: post["row_id"] for k, post in expected.posts.items()
    }


def test_world_in_a_workspace_on_s3(tmp_path: Path, bucket: str) -> None:
    taken = demo(bucket.format("ws"), posts=12)
    expected = demo(tmp_path, posts=12)
    assert {k: post["row_id"] for k, post in taken.posts.items()} == {
        k: post["row_id"] for k, post in expected.posts.items()
    }
    there = 0
    for key, post in taken.posts.items():
        place = Place.open(bucket.format(post["image_uri"].removeprefix("s3://bucket/")))
        found = place.kind() == pafs.FileType.File
        assert found == Path(expected.posts[key]["image_uri"]).is_file()
        there += found
    assert there > 0
