"""SMPD-Video (TikTok): posts.jsonl, users.jsonl, videos.jsonl and, for labels, popularity.jsonl, joined by key.

There are no images and no frames, so image_uri is null and the image families say `no_image`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from smp_ray.errors import DataError
from smp_ray.sources import values as read
from smp_ray.sources.base import Intake, RawPost, Reader, SourceSettings
from smp_ray.sources.joined import Readings, Records, key_of, read_fields
from smp_ray.sources.json_files import json_lines
from smp_ray.sources.location import Location, files_identity
from smp_ray.store.workspace import Workspace

_POSTS = "posts.jsonl"


def _language(value: Any) -> str | None:
    """A language; "un" stands for an unknown one."""
    found = read.as_id(value)
    return None if found == "un" else found


_POST: Readings = {
    "title": ("post_content", read.as_text),
    # An empty text would split into one empty tag; as_texts leaves empty ones out.
    "tags": ("post_content", lambda value: read.as_texts(value, ",")),
    "posted_at": ("post_time", read.as_time),
    "text_language": ("post_text_language", _language),
    # "NA" is Namibia here, so no text stands for a missing location but the empty one.
    "post_location": ("post_location", read.as_id),
    "video_path": ("video_path", read.as_text),
    "suggested_words": ("post_suggested_words", read.as_texts),
}
_USER: Readings = {
    f"user_{name}_count": (f"user_{name}_count", read.as_number)
    for name in ("following", "follower", "likes", "video", "digg", "heart", "friend")
}
_VIDEO_NUMBERS = ("video_height", "video_width", "video_duration", "music_duration")
_VIDEO_TEXTS = ("video_ratio", "video_format", "music_title")
_VIDEO: Readings = {
    **{name: (name, read.as_number) for name in _VIDEO_NUMBERS},
    **{name: (name, read.as_text) for name in _VIDEO_TEXTS},
}
#: Counts that the crawl kept in 32 bits: beyond 2^31 they read as negative numbers, and 2^32 more is the count.
_OVERFLOWED = ("user_likes_count", "user_heart_count")


class SmpdVideoSource(SourceSettings):
    """SMPD-Video (TikTok): posts.jsonl, users.jsonl, videos.jsonl and, for labels, popularity.jsonl."""

    kind: Literal["smpd_video"]
    path: str = Field(description="the folder with the JSON-lines files")

    def open(self, workspace: Workspace) -> SmpdVideoReader:
        """See `SourceSettings.open`."""
        return SmpdVideoReader(self, workspace)


class SmpdVideoReader(Reader):
    """Reads SMPD-Video from a folder; posts with a label are the split `train`, the others `test`."""

    #: User counts, video and music facts, suggested words and the country code of the post.
    extra_fields = [  # noqa: RUF012
        *(pa.field(name, pa.float64()) for name in (*_USER, *_VIDEO_NUMBERS)),
        *(pa.field(name, pa.string()) for name in (*_VIDEO_TEXTS, "video_path", "post_location")),
        pa.field("suggested_words", pa.list_(pa.string())),
    ]

    def __init__(self, source: SmpdVideoSource, workspace: Workspace) -> None:
        super().__init__(source)
        self._workspace = workspace
        self._location = Location.open(source.path)
        if not self._location.is_file(_POSTS):
            raise DataError(f"{self._location.path(_POSTS)}: no such file; source.path is the folder that holds it")

    def identify(self) -> Any:
        """Name, size and content hash of the JSON-lines files that are there."""
        names = (_POSTS, "users.jsonl", "videos.jsonl", "popularity.jsonl")
        there = [name for name in names if self._location.is_file(name)]
        return files_identity(self._location, there, self._workspace)

    def posts(self, intake: Intake) -> Iterator[RawPost]:
        """All posts in the order of posts.jsonl; see `Reader.posts`."""
        records = Records()
        for kind, key in (("popularity", "pid"), ("users", "uid"), ("videos", "pid")):
            file = f"{kind}.jsonl"
            if self._location.is_file(file):
                records.fill(kind, file, json_lines(self._location, file), (key,), intake)
            else:
                intake.counts[f"missing_file_{file}"] += 1
        post_ids = {key_of(record, "pid") for _, record in json_lines(self._location, _POSTS)}
        for kind in ("popularity", "videos"):
            for key, record in records.items(kind):
                if key not in post_ids:
                    intake.reject(f"{kind}_without_post", f"{kind}.jsonl", record, f"no post {key} in {_POSTS}")
        for line, record in json_lines(self._location, _POSTS):
            post_id, user_id = key_of(record, "pid"), key_of(record, "uid")
            if post_id is None or user_id is None:
                intake.reject("without_ids", _POSTS, record, f"{line}: no {'uid' if post_id else 'pid'}")
                continue
            label = records.get("popularity", post_id)
            try:
                popularity = None if label is None else read.as_label(label.get("popularity"), given=True)
            except ValueError as error:
                intake.reject("label", "popularity.jsonl", label, f"label of post {post_id}: {error}")
                continue
            values: dict[str, Any] = {
                "post_id": post_id, "user_id": user_id, "popularity": popularity, "media_type": "video",
                "split": "test" if popularity is None else "train",
            }  # fmt: skip
            read_fields(values, record, _POST, intake)
            for kind, key, readings in (("users", user_id, _USER), ("videos", post_id, _VIDEO)):
                joined = records.get(kind, key)
                if joined is None:
                    intake.counts[f"without_{kind}_record"] += 1
                else:
                    read_fields(values, joined, readings, intake)
            for column in _OVERFLOWED:
                if (values.get(column) or 0) < 0:
                    values[column] += 2.0**32
                    intake.counts[f"repaired_{column}"] += 1
            yield RawPost(values, image_reference=None, source_file=_POSTS)
