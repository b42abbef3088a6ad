"""The posts table and the keys and statuses of the feature store; each family describes its own columns."""

import pyarrow as pa

#: Status of one family of one post.
OK, NO_IMAGE, BAD_IMAGE, NO_TEXT, ERROR = "ok", "no_image", "bad_image", "no_text", "error"
#: The image's server or store failed for now. It counts as done; `--retry unreachable` asks again.
UNREACHABLE = "unreachable"
#: The store's readers know a status by its position: new ones go to the end.
STATUSES = (OK, NO_IMAGE, BAD_IMAGE, NO_TEXT, ERROR, UNREACHABLE)
#: What the error of a post says that killed its worker.
KILLED = "killed its worker"
#: How the error of a post ends that had one in the run before as well, and what such posts are counted as: they stay as
#: they are until `--retry error`, so that one that always fails holds up nothing.
TWICE, FAILED_TWICE = ", in two runs", "failed_twice"

#: What identifies a post, and a row of the feature store.
KEYS = pa.schema([pa.field("row_id", pa.int64(), nullable=False), pa.field("post_id", pa.string(), nullable=False)])

#: The core of the posts table; a source may add `user_*` and `video_*` columns behind it.
POSTS = pa.schema(
    [
        *KEYS,
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
