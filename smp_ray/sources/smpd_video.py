"""SMPD-Video (TikTok): posts.jsonl, users.jsonl, videos.jsonl and, for labels, popularity.jsonl, joined by key.

There are no images and no frames, so image_uri is null and the image families say `no_image`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from smp_ray.errors import DataError
from smp_ray.sources.base import Intake, RawPost, Reader, SourceSettings
from smp_ray.sources.json_stream import json_lines
from smp_ray.sources.location import Location, files_identity
from smp_ray.sources.record_store import RecordStore
from smp_ray.sources.values import as_id, as_label, as_number, as_text, as_texts, as_time
from smp_ray.store.workspace import Workspace

_POSTS, _USERS, _VIDEOS, _LABELS = "posts.jsonl", "users.jsonl", "videos.jsonl", "popularity.jsonl"

_USER_NUMBERS = (
    "user_following_count", "user_follower_count", "user_likes_count", "user_video_count", "user_digg_count",
    "user_heart_count", "user_friend_count",
)  # fmt: skip
_VIDEO_NUMBERS = ("video_height", "video_width", "video_duration", "music_duration")
_VIDEO_TEXTS = ("video_ratio", "video_format", "music_title")
#: Counts that the crawl kept in 32 bits: beyond 2^31 they read as negative numbers, and 2^32 more is the count.
_OVERFLOWED = ("user_likes_count", "user_heart_count")


class SmpdVideoSource(SourceSettings):
    """SMPD-Video (TikTok): posts.jsonl, users.jsonl, videos.jsonl and, for labels, popularity.jsonl."""

    kind: Literal["smpd_video"]
    path: str = Field(description="the folder with the JSON-lines files")

    def open(self, workspace: Workspace) -> SmpdVideoReader:
        """See `SourceSettings.open`."""
        return SmpdVideoReader(self)


class SmpdVideoReader(Reader):
    """Reads SMPD-Video from a folder; posts with a label are the split `train`, the others `test`."""

    #: User counts, video and music facts, suggested words and the country code of the post.
    extra_fields = [  # noqa: RUF012
        *(pa.field(name, pa.float64()) for name in (*_USER_NUMBERS, *_VIDEO_NUMBERS)),
        *(pa.field(name, pa.string()) for name in (*_VIDEO_TEXTS, "video_path", "post_location")),
        pa.field("suggested_words", pa.list_(pa.string())),
    ]

    def __init__(self, source: SmpdVideoSource) -> None:
        super().__init__(source)
        self._location = Location.open(source.path)
        if not self._location.is_file(_POSTS):
            raise DataError(f"{self._location.path(_POSTS)}: no such file; source.path is the folder that holds it")

    def identify(self) -> Any:
        """Name, size and content hash of the JSON-lines files that are there."""
        names = [name for name in (_POSTS, _USERS, _VIDEOS, _LABELS) if self._location.is_file(name)]
        return files_identity(self._location, names)

    def posts(self, intake: Intake) -> Iterator[RawPost]:
        """All posts in the order of posts.jsonl; see `Reader.posts`."""
        with RecordStore() as store:
            labelled = self._load(store, "labels", _LABELS, "pid", intake)
            self._load(store, "users", _USERS, "uid", intake)
            self._load(store, "videos", _VIDEOS, "pid", intake)
            store.fill("posts", self._post_keys())
            for table, name in (("labels", _LABELS), ("videos", _VIDEOS)):
                for key, text in store.missing_in(table, "posts"):
                    intake.reject(f"{table}_without_post", name, text, f"no post {key} in {_POSTS}")
            for number, record in json_lines(self._location, _POSTS):
                post = self._post(store, record, number, labelled, intake)
                if post is not None:
                    yield post

    def _load(self, store: RecordStore, table: str, name: str, key: str, intake: Intake) -> bool:
        there = self._location.is_file(name)
        if not there:
            intake.count(f"missing_file_{name}")
        store.fill(table, self._keyed(name, key, intake) if there else ())
        store.reject_repeats(table, name, intake)
        return there

    def _keyed(self, name: str, key: str, intake: Intake) -> Iterator[tuple[str, str]]:
        for number, record in json_lines(self._location, name):
            found = _id(record, key)
            if found is None:
                intake.reject("without_ids", name, record, f"line {number}: no {key}")
            else:
                yield found, json.dumps(record)

    def _post_keys(self) -> Iterator[tuple[str, str]]:
        for _, record in json_lines(self._location, _POSTS):
            key = _id(record, "pid")
            if key is not None:
                yield key, ""

    def _post(
        self, store: RecordStore, record: dict[str, Any], number: int, labelled: bool, intake: Intake
    ) -> RawPost | None:
        post_id, user_id = _id(record, "pid"), _id(record, "uid")
        if post_id is None or user_id is None:
            intake.reject("without_ids", _POSTS, record, f"line {number}: no {'uid' if post_id else 'pid'}")
            return None
        label = store.get("labels", post_id) if labelled else None
        try:
            popularity = None if label is None else as_label(label.get("popularity"), given=True)
        except ValueError as error:
            intake.reject("label", _LABELS, label, f"label of post {post_id}: {error}")
            return None
        values: dict[str, Any] = {
            "post_id": post_id, "user_id": user_id, "popularity": popularity, "media_type": "video",
            "split": "test" if popularity is None else "train",
        }  # fmt: skip
        self._fill_post(values, record, intake)
        for table, key, fill in (("users", user_id, _fill_user), ("videos", post_id, _fill_video)):
            joined = store.get(table, key)
            if joined is None:
                intake.count(f"without_{table}_record")
            else:
                fill(values, joined, intake)
        return RawPost(values, image_reference=None, source_file=_POSTS)

    def _fill_post(self, values: dict[str, Any], record: dict[str, Any], intake: Intake) -> None:
        _take(values, "title", record.get("post_content"), as_text, intake)
        # An empty text would split into one empty tag; as_texts leaves empty ones out.
        values["tags"] = as_texts(values.get("title"), ",")
        _take(values, "posted_at", record.get("post_time"), as_time, intake)
        _take(values, "text_language", record.get("post_text_language"), as_id, intake)
        if values.get("text_language") == "un":  # "unknown", not a language
            values["text_language"] = None
        # "NA" is Namibia here, so no text stands for a missing location but the empty one.
        _take(values, "post_location", record.get("post_location"), as_id, intake)
        _take(values, "video_path", record.get("video_path"), as_text, intake)
        _take(values, "suggested_words", record.get("post_suggested_words"), as_texts, intake)


def _fill_user(values: dict[str, Any], record: dict[str, Any], intake: Intake) -> None:
    for name in _USER_NUMBERS:
        _take(values, name, record.get(name), as_number, intake)
    for name in _OVERFLOWED:
        if (values.get(name) or 0) < 0:
            values[name] += 2.0**32
            intake.count(f"repaired_{name}")


def _fill_video(values: dict[str, Any], record: dict[str, Any], intake: Intake) -> None:
    for name in _VIDEO_NUMBERS:
        _take(values, name, record.get(name), as_number, intake)
    for name in _VIDEO_TEXTS:
        _take(values, name, record.get(name), as_text, intake)


def _take(values: dict[str, Any], column: str, value: Any, parse: Any, intake: Intake) -> None:
    """Parse one value into its column; what cannot be parsed is null and counted, the post itself is still good."""
    try:
        values[column] = parse(value)
    except ValueError:
        values[column] = None
        intake.count(f"unreadable_{column}")


def _id(record: dict[str, Any], key: str) -> str | None:
    try:
        return as_id(record.get(key))
    except ValueError:
        return None
