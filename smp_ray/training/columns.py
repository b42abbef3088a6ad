"""What the feature matrix is made of before anything is fitted: numbers, texts and vectors of posts, from the store.

Everything here is a function of one post alone (and of the label-free number of posts of its user), so it is the same
whichever posts train. Rows follow the posts table; what is missing is NaN or None, never a made-up value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.config import MatrixFamily
from smp_ray.schema import POSTS, StoredFamily
from smp_ray.store import FamilyReader, iter_posts
from smp_ray.training.text import hashed_counts
from smp_ray.workspace import Manifest, Workspace

#: Posts read at once.
PIECE = 50_000
#: Texts of the posts table that are categories; further text columns of a source are taken unless named below.
CATEGORIES = ("category", "subcategory", "concept", "text_language", "media_type")
#: Texts that name one thing each and so say nothing about another post.
_NAMES = ("_path", "_uri", "_alias", "_id", "_url")
#: Which stored family each family of the matrix is read from.
STORED: dict[MatrixFamily, StoredFamily] = {
    "clip": "clip", "similarity": "clip", "adapted": "adapted", "perplexity": "perplexity",
}  # fmt: skip
_DAY = 86_400.0


@dataclass
class Columns:
    """Posts before encoding, all arrays in the same order of posts.

    Attributes:
        row_ids: int64 (posts,).
        post_ids: object (posts,).
        numbers: float64 (posts,) by column name; NaN where missing.
        categories: object (posts,) of texts or None by column name.
        texts: object (posts,) of title, tags and suggested words by name, each "" where missing.
        counts: sparse (posts, buckets) of words and character n-grams of the texts, see `text.hashed_counts`.
        vectors: float16 or float32 (posts, width) by column name; a row of NaN where missing.
        families: the family of each number, category, text and vector.
    """

    row_ids: np.ndarray
    post_ids: np.ndarray
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    categories: dict[str, np.ndarray] = field(default_factory=dict)
    texts: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    families: dict[str, MatrixFamily] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row_ids)

    def rows(self, which: np.ndarray) -> Columns:
        """Some posts, by a boolean mask or positions."""
        kinds = ("numbers", "categories", "texts", "counts", "vectors")
        parts = {kind: {name: values[which] for name, values in getattr(self, kind).items()} for kind in kinds}
        return Columns(self.row_ids[which], self.post_ids[which], families=self.families, **parts)


def load_columns(
    workspace: Workspace,
    posts: Manifest,
    stored: Mapping[StoredFamily, Manifest],
    families: tuple[MatrixFamily, ...],
) -> Columns:
    """Read what `families` need for every post of a posts artefact, joined by row id.

    Args:
        workspace: where posts and store lie.
        posts: the posts artefact.
        stored: the committed artefact of each stored family that is needed.
        families: families of the matrix.
    """
    readers = {
        name: FamilyReader(workspace, stored[name], name)
        for name in dict.fromkeys(STORED[family] for family in families if family in STORED)
    }
    pieces: list[Columns] = []
    for table in iter_posts(workspace, posts, None, PIECE):
        if "image_bytes" in table.column_names:
            table = table.drop_columns(["image_bytes"])
        row_ids = table["row_id"].to_numpy()
        piece = Columns(row_ids, table["post_id"].to_numpy(zero_copy_only=False))
        if "metadata" in families:
            _metadata(piece, table)
        if "text" in families:
            _texts(piece, table)
        read = {name: reader.read(row_ids) for name, reader in readers.items()}
        for family in families:
            if family in STORED:
                _stored(piece, family, read[STORED[family]])
        pieces.append(piece)
    every = _concatenated(pieces)
    if "metadata" in families:
        _user_posts(every, workspace, posts)
    _drop_uninformative(every)
    _ratios(every)
    if every.texts:
        every.counts = hashed_counts(every.texts)
    return every


def _put(piece: Columns, family: MatrixFamily, kind: str, name: str, values: np.ndarray) -> None:
    getattr(piece, kind)[name] = values
    piece.families[name] = family


def _stored(piece: Columns, family: MatrixFamily, table: pa.Table) -> None:
    """Vectors and numbers of a stored family."""
    for column in table.schema:
        name = column.name
        if name.endswith(("_status", "_error")) or (family != "adapted" and _of_clip(name) not in (None, family)):
            continue
        if pa.types.is_fixed_size_list(column.type):
            _put(piece, family, "vectors", name, as_vectors(table[name]))
        elif pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            _put(piece, family, "numbers", name, _as_float(table[name]))


def _of_clip(name: str) -> str | None:
    if name.startswith("similarity_"):
        return "similarity"
    return "clip" if name.startswith("clip_") else None


def as_vectors(column: pa.ChunkedArray) -> np.ndarray:
    """A fixed-size list column as (posts, width), a row of NaN where the list is null."""
    array = column.combine_chunks()
    width = array.type.list_size
    values = np.full((len(array), width), np.nan, dtype=np.dtype(array.type.value_type.to_pandas_dtype()))
    present = array.is_valid().to_numpy(zero_copy_only=False)
    values[present] = array.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return values


def _as_float(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def signed_log(values: np.ndarray) -> np.ndarray:
    """sign(x) * log(1 + |x|), which is defined for counts that a source publishes below 0, too."""
    return np.sign(values) * np.log1p(np.abs(values))


def _metadata(piece: Columns, table: pa.Table) -> None:
    posted = pd.DatetimeIndex(table["posted_at"].to_pandas())
    seconds = _seconds(table["posted_at"])
    times = {
        "post_hour": posted.hour + posted.minute / 60.0, "post_weekday": posted.dayofweek, "post_month": posted.month,
        "post_day_of_month": posted.day, "post_days_since_1970": seconds / _DAY,
    }  # fmt: skip
    for name, values in times.items():
        _put(piece, "metadata", "numbers", name, np.asarray(values, dtype=np.float64))
    for name in ("latitude", "longitude", "geo_accuracy"):
        _put(piece, "metadata", "numbers", name, _as_float(table[name]))
    for name in CATEGORIES:
        _put(piece, "metadata", "categories", name, _as_object(table[name]))
    for name in (column for column in table.column_names if column not in POSTS.names):
        _extra(piece, name, table[name], seconds)
    _text_counts(piece, table)


def _extra(piece: Columns, name: str, column: pa.ChunkedArray, posted: np.ndarray) -> None:
    """A column that the source added: a number as it is and as a log, a category, a date as an age, or a vector."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if not name.endswith(_NAMES):
            _put(piece, "metadata", "categories", name, _as_object(column))
    elif pa.types.is_list(kind):
        if pa.types.is_floating(kind.value_type):
            _put(piece, "metadata", "vectors", name, _ragged(column))
        else:
            _put(piece, "metadata", "numbers", f"{name}_count", _as_float(pc.list_value_length(column)))
    elif "date" in name:
        # A date means what it is before the post: how long the user had been there.
        _put(piece, "metadata", "numbers", f"days_since_{name}", (posted - _as_float(column)) / _DAY)
    elif pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        values = _as_float(column)
        _put(piece, "metadata", "numbers", name, values)
        if name.endswith("_count"):
            _put(piece, "metadata", "numbers", f"log_{name}", signed_log(values))


def _ratios(piece: Columns) -> None:
    """Logs of one user count per another (likes per video): trees cannot divide."""
    counts = [
        name
        for name in piece.numbers
        if name.startswith("user_") and name.endswith("_count") and f"log_{name}" in piece.numbers
    ]
    for place, above in enumerate(counts):
        for below in counts[place + 1 :]:
            ratio = piece.numbers[f"log_{above}"] - piece.numbers[f"log_{below}"]
            name = f"log_{above.removesuffix('_count')}_per_{below.removeprefix('user_').removesuffix('_count')}"
            _put(piece, "metadata", "numbers", name, ratio)


def _text_counts(piece: Columns, table: pa.Table) -> None:
    title = table["title"].combine_chunks()
    length = _as_float(pc.utf8_length(title))
    counts = {
        "title_characters": length,
        "title_words": _as_float(pc.count_substring_regex(title, r"[^\s,]+")),
        "title_letter_share": _as_float(pc.count_substring_regex(title, r"\p{L}")) / np.maximum(length, 1),
        "title_capital_share": _as_float(pc.count_substring_regex(title, r"\p{Lu}")) / np.maximum(length, 1),
        "title_digit_share": _as_float(pc.count_substring_regex(title, r"\p{Nd}")) / np.maximum(length, 1),
        "title_symbols": _as_float(pc.count_substring_regex(title, r"[^\p{L}\p{N}\s]")),
        "tag_count": _as_float(pc.list_value_length(table["tags"])),
    }
    for name, values in counts.items():
        _put(piece, "metadata", "numbers", name, values)


def _texts(piece: Columns, table: pa.Table) -> None:
    texts = {"title": table["title"], "tags": _joined(table["tags"])}
    for name in table.column_names:
        kind = table[name].type
        if name not in POSTS.names and pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
            texts[name] = _joined(table[name])
    for name, column in texts.items():
        _put(piece, "text", "texts", name, _as_object(pc.fill_null(column, "")))


def _joined(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.binary_join(column.cast(pa.list_(pa.string())), " ")


def _as_object(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False)


def _seconds(column: pa.ChunkedArray) -> np.ndarray:
    microseconds = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    return microseconds.cast(pa.float64()).to_numpy(zero_copy_only=False) / 1e6


def _ragged(column: pa.ChunkedArray) -> np.ndarray:
    """Lists of one length (the commonest) as (posts, width); others and nulls are rows of NaN."""
    array = column.combine_chunks()
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    width = int(np.bincount(lengths[lengths > 0]).argmax()) if (lengths > 0).any() else 0
    values = np.full((len(array), width), np.nan, dtype=np.float32)
    fitting = (lengths == width) & (width > 0)
    if fitting.any():
        values[fitting] = array.filter(pa.array(fitting)).flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return values


def _concatenated(pieces: list[Columns]) -> Columns:
    """All pieces one behind the other; a vector that a piece lacks altogether is missing there."""
    first = pieces[0]
    every = Columns(
        np.concatenate([piece.row_ids for piece in pieces]), np.concatenate([piece.post_ids for piece in pieces])
    )
    every.families = dict(first.families)
    for kind in ("numbers", "categories", "texts"):
        for name in getattr(first, kind):
            getattr(every, kind)[name] = np.concatenate([getattr(piece, kind)[name] for piece in pieces])
    for name in first.vectors:
        width = max(piece.vectors[name].shape[1] for piece in pieces)
        blocks = [piece.vectors[name] for piece in pieces]
        filled = [b if b.shape[1] == width else np.full((len(b), width), np.nan, b.dtype) for b in blocks]
        every.vectors[name] = np.concatenate(filled)
    return every


def _user_posts(every: Columns, workspace: Workspace, posts: Manifest) -> None:
    """Number of posts of the same user in the whole posts table; it does not look at any label."""
    users = pa.concat_tables(list(iter_posts(workspace, posts, ["user_id"], PIECE)))["user_id"]
    counted = users.value_counts()
    of_user = dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))
    of_user.pop(None, None)
    counts = np.array([of_user.get(user, np.nan) for user in users.to_pylist()], dtype=np.float64)
    _put(every, "metadata", "numbers", "user_posts_here", counts)


def _drop_uninformative(every: Columns) -> None:
    """Take out what is the same for every post, or as an earlier number (SMPD-Video's hearts are its likes)."""
    seen: set[bytes] = set()
    for name, values in list(every.numbers.items()):
        same = bool((values == values[0]).all()) or bool(np.isnan(values).all())
        content = hashlib.blake2b(values.tobytes(), digest_size=16).digest()
        if same or content in seen:
            del every.numbers[name], every.families[name]
        seen.add(content)
    for name, texts in list(every.categories.items()):
        if len(set(texts)) < 2:
            del every.categories[name], every.families[name]
    for name, vectors in list(every.vectors.items()):
        if not vectors.size or np.isnan(vectors[:, 0]).all():
            del every.vectors[name], every.families[name]
