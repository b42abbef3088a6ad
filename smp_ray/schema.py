"""The Arrow schema of every stored table, once.

Embedding widths depend on the CLIP model, so the clip family is a function of the width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import pyarrow as pa

from smp_ray.config import Family

#: Status of one family of one post.
OK, NO_IMAGE, BAD_IMAGE, NO_TEXT, ERROR = "ok", "no_image", "bad_image", "no_text", "error"
STATUSES = (OK, NO_IMAGE, BAD_IMAGE, NO_TEXT, ERROR)
FAMILIES: tuple[Family, ...] = get_args(Family)
#: What the store holds: the families of the feature pass, and what the cross-fitted adapters make of clip.
StoredFamily = Family | Literal["adapted"]

#: The core of the posts table; a source may add `user_*` and `video_*` columns behind it.
POSTS = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("post_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("text_language", pa.string()),
        pa.field("media_type", pa.string()),
        pa.field("image_uri", pa.string()),
        pa.field("posted_at", pa.timestamp("us", tz="UTC")),
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
        pa.field("geo_accuracy", pa.float64()),
        pa.field("category", pa.string()),
        pa.field("subcategory", pa.string()),
        pa.field("concept", pa.string()),
        pa.field("popularity", pa.float64()),
        # Only filled where the source itself holds the encoded images instead of naming them.
        pa.field("image_bytes", pa.large_binary()),
    ]
)

#: Records that ingest could not take.
REJECTED = pa.schema(
    [
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("record", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)

#: What identifies a row of the feature store.
KEYS = pa.schema([pa.field("row_id", pa.int64(), nullable=False), pa.field("post_id", pa.string(), nullable=False)])


def family_fields(family: StoredFamily, clip_width: int = 0) -> list[pa.Field]:
    """Columns of one feature family; `clip_width` is the CLIP embedding width, for clip and adapted."""
    if family == "caption":
        own = [pa.field("caption", pa.string())]
    elif family == "clip":
        vector = pa.list_(pa.float16(), clip_width)
        own = [pa.field(name, vector) for name in ("clip_image", "clip_title", "clip_caption")]
        own += [
            pa.field(name, pa.float32())
            for name in ("similarity_title_caption", "similarity_image_title", "similarity_image_caption")
        ]
    elif family == "adapted":
        vector = pa.list_(pa.float16(), clip_width)
        own = [pa.field(name, vector) for name in ("adapted_image", "adapted_title")]
        own += [pa.field(name, pa.float32()) for name in ("adapted_similarity", "adapted_prediction")]
    else:
        own = [
            pa.field("title_perplexity", pa.float32()),
            pa.field("title_mean_nll", pa.float32()),
            pa.field("title_token_count", pa.int32()),
        ]
    return [*own, pa.field(f"{family}_status", pa.string()), pa.field(f"{family}_error", pa.string())]


def feature_schema(families: Iterable[Family], clip_width: int = 0) -> pa.Schema:
    """Schema of a file of the feature pass that computed `families`, in the store's column order."""
    wanted = set(families)
    fields = list(KEYS)
    for family in FAMILIES:
        if family in wanted:
            fields += family_fields(family, clip_width)
    return pa.schema(fields)
