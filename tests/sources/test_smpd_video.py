from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from smp_ray.errors import DataError
from tests.sources.helpers import Taken, take, write_lines


def post(number: int, **values: Any) -> dict[str, Any]:
    return {
        "pid": f"P{number}", "uid": f"U{number % 2}", "post_content": "a,b", "post_location": "RO",
        "post_suggested_words": ["x y"], "post_text_language": "en", "video_path": f"train/U/V{number}.mp4",
        "post_time": "2023-07-29 18:21", **values,
    }  # fmt: skip


def user(number: int, **values: Any) -> dict[str, Any]:
    counts = {
        f"user_{name}_count": 10 + number
        for name in ("following", "follower", "likes", "video", "digg", "heart", "friend")
    }
    return {"uid": f"U{number}", **counts, **values}


def video(number: int, **values: Any) -> dict[str, Any]:
    return {
        "vid": f"V{number}", "pid": f"P{number}", "uid": "U", "video_height": 1024, "video_width": 576,
        "video_duration": 63, "video_ratio": "540p", "video_format": "mp4", "music_title": "原聲 ♪",
        "music_duration": 60, **values,
    }  # fmt: skip


def label(number: int, value: Any = None) -> dict[str, Any]:
    return {"pid": f"P{number}", "uid": "U", "popularity": number + 0.5 if value is None else value}


class Files:
    """The four files, to be bent before they are written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lines: dict[str, list[Any]] = {
            "posts": [post(n) for n in range(3)], "users": [user(n) for n in range(2)],
            "videos": [video(n) for n in range(3)], "popularity": [label(n) for n in range(3)],
        }  # fmt: skip

    def take(self) -> Taken:
        self.root.mkdir(exist_ok=True)
        for name, records in self.lines.items():
            write_lines(self.root / f"{name}.jsonl", records)
        return take(self.root.parent / "ws", kind="smpd_video", path=str(self.root))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "video")


def test_every_column_of_a_post(files: Files) -> None:
    taken = files.take()
    found = taken.posts["P1"]
    assert found.pop("row_id") >= 0
    assert {name: value for name, value in found.items() if value is not None} == {
        "post_id": "P1", "user_id": "U1", "split": "train", "title": "a,b", "tags": ["a", "b"], "text_language": "en",
        "media_type": "video", "posted_at": datetime(2023, 7, 29, 18, 21, tzinfo=UTC), "popularity": 1.5,
        **{f"user_{name}_count": 11.0 for name in
           ("following", "follower", "likes", "video", "digg", "heart", "friend")},
        "video_height": 1024.0, "video_width": 576.0, "video_duration": 63.0, "music_duration": 60.0,
        "video_ratio": "540p", "video_format": "mp4", "music_title": "原聲 ♪", "video_path": "train/U/V1.mp4",
        "post_location": "RO", "suggested_words": ["x y"],
    }  # fmt: skip
    assert taken.made.counts["without_image"] == 3


def test_counts_that_overflowed_are_repaired(files: Files) -> None:
    files.lines["users"][1] = user(1, user_likes_count=-1594967296, user_heart_count=-1594967296)
    taken = files.take()
    assert taken.posts["P1"]["user_likes_count"] == taken.posts["P1"]["user_heart_count"] == 2_700_000_000
    assert taken.posts["P0"]["user_likes_count"] == 10
    assert taken.made.counts["repaired_user_likes_count"] == 1


def test_duplicate_users_do_not_fan_out(files: Files) -> None:
    files.lines["users"] += [user(0), user(1, user_digg_count=99)]
    taken = files.take()
    assert len(taken.posts) == taken.made.rows == 3
    assert taken.posts["P1"]["user_digg_count"] == 11
    assert taken.made.counts["repeated_records_users"] == 1
    assert taken.made.counts["rejected_conflicting_record"] == 1
    assert json.loads(taken.rejected[0]["record"])["user_digg_count"] == 99


def test_namibia_is_a_place_and_un_is_no_language(files: Files) -> None:
    files.lines["posts"][0] = post(0, post_location="NA", post_text_language="un")
    files.lines["posts"][1] = post(1, post_location="")
    posts = files.take().posts
    assert (posts["P0"]["post_location"], posts["P0"]["text_language"]) == ("NA", None)
    assert posts["P1"]["post_location"] is None


def test_empty_text_has_no_tags(files: Files) -> None:
    files.lines["posts"] = [post(0, post_content=""), post(1, post_content=None), post(2, post_content="NA,,null, ")]
    taken = files.take()
    assert [(found["title"], found["tags"]) for found in taken.posts.values()] == [
        ("", []), (None, None), ("NA,,null, ", ["NA", "null"]),
    ]  # fmt: skip
    assert taken.made.counts["without_title"] == 2


def test_posts_without_a_label_are_the_test_split(files: Files) -> None:
    del files.lines["popularity"][1]
    posts = files.take().posts
    assert [(found["split"], found["popularity"]) for found in posts.values()] == [
        ("train", 0.5), ("test", None), ("train", 2.5),
    ]  # fmt: skip


def test_no_label_file(files: Files) -> None:
    del files.lines["popularity"]
    taken = files.take()
    assert {found["split"] for found in taken.posts.values()} == {"test"}
    assert taken.made.counts["missing_file_popularity.jsonl"] == 1


@pytest.mark.parametrize("value", ["nan", "x", [1], True, ""])
def test_label_that_is_not_a_finite_number(files: Files, value: Any) -> None:
    files.lines["popularity"][1] = label(1, value)
    taken = files.take()
    assert list(taken.posts) == ["P0", "P2"]
    assert taken.rejected[0]["source_file"] == "popularity.jsonl"
    assert taken.reasons.startswith("label of post P1: found ")


@pytest.mark.parametrize(
    "line", ['{"pid": "P1", "popularity": NaN}', '{"pid": "P1"}', '{"pid": "P1", "popularity": null}']
)
def test_label_that_is_not_there_is_no_test_post(files: Files, line: str) -> None:
    files.lines["popularity"][1] = line
    taken = files.take()
    assert list(taken.posts) == ["P0", "P2"]
    assert taken.made.counts["rejected_label"] == 1


def test_records_without_ids_or_without_a_post(files: Files) -> None:
    files.lines["posts"] += [post(7, pid=None), post(8, uid=""), post(0)]
    files.lines["popularity"] += [label(99), {"popularity": 3}]
    taken = files.take()
    assert len(taken.posts) == 3
    assert taken.reasons.splitlines() == [
        "line 5: no pid", "no post P99 in posts.jsonl", "line 4: no pid", "line 5: no uid",
        "post_id 'P0' (or its row_id) was taken before; the first is kept",
    ]  # fmt: skip


def test_users_and_videos_that_are_missing_are_counted(files: Files) -> None:
    del files.lines["users"][0], files.lines["videos"][0]
    taken = files.take()
    assert taken.posts["P0"]["user_likes_count"] is None
    counts = taken.made.counts
    assert (counts["without_users_record"], counts["without_videos_record"]) == (2, 1)


@pytest.mark.parametrize("name", ["posts", "users", "videos", "popularity"])
def test_broken_line_is_named(files: Files, name: str) -> None:
    files.lines[name].insert(1, '{"pid": "P9", "uid')
    with pytest.raises(DataError, match=rf"{name}\.jsonl: line 2 column 15: not readable as JSON"):
        files.take()


@pytest.mark.parametrize("name", ["posts", "users"])
def test_empty_file(files: Files, name: str) -> None:
    files.lines[name] = []
    with pytest.raises(DataError, match=rf"{name}\.jsonl: an empty file"):
        files.take()


def test_folder_without_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"posts\.jsonl: no such file; source\.path is the folder"):
        take(tmp_path / "ws", kind="smpd_video", path=str(tmp_path))


def test_real_posts(smp_video: Path, tmp_path: Path) -> None:
    taken = take(tmp_path / "ws", kind="smpd_video", path=str(smp_video))
    posts = list(taken.posts.values())
    assert len(posts) == len({found["row_id"] for found in posts}) == 2972
    assert taken.rejected == []
    assert taken.made.counts["labelled"] == taken.made.counts["split_train"] == 2972
    assert taken.made.counts["repaired_user_likes_count"] == 11
    assert min(found["user_likes_count"] for found in posts) >= 0
    assert {found["split"] for found in posts} == {"train"}
    assert sum(found["title"] == "" for found in posts) == taken.made.counts["without_title"] == 44
    assert sum(found["tags"] == [] for found in posts) == 44
    assert all("" not in found["tags"] for found in posts)
    assert "un" not in {found["text_language"] for found in posts}
    raw = [json.loads(line) for line in (smp_video / "posts.jsonl").open(encoding="utf-8")]
    assert [found["post_id"] for found in posts] == [record["pid"] for record in raw]
    assert [found["title"] for found in posts] == [record["post_content"] for record in raw]
    assert {found["post_location"] for found in posts} == {record["post_location"] for record in raw}
    labels = [json.loads(line) for line in (smp_video / "popularity.jsonl").open(encoding="utf-8")]
    assert {found["post_id"]: found["popularity"] for found in posts} == {r["pid"]: r["popularity"] for r in labels}
