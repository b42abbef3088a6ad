"""What the feature matrix is made of before anything is fitted: numbers, texts and vectors of posts.

Everything here is a function of one post alone (and of the label-free number of posts of its user), so it is the same
whichever posts train. Rows follow the posts table; what is missing is NaN or None, never a made-up value.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa


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
        families: the group of each number, category, text and vector, for the ablation.
    """

    row_ids: np.ndarray
    post_ids: np.ndarray
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    categories: dict[str, np.ndarray] = field(default_factory=dict)
    texts: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    families: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row_ids)

    def rows(self, which: np.ndarray) -> Columns:
        """Some posts, by a boolean mask or positions."""
        kinds = ("numbers", "categories", "texts", "counts", "vectors")
        parts = {kind: {name: values[which] for name, values in getattr(self, kind).items()} for kind in kinds}
        return Columns(self.row_ids[which], self.post_ids[which], families=self.families, **parts)

    def put(self, group: str, kind: str, name: str, values: Any) -> None:
        """Add a column of a group; `kind` is `numbers`, `categories`, `texts` or `vectors`."""
        getattr(self, kind)[name] = values
        self.families[name] = group


def as_float(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers or truth values as float64 (posts,); NaN where missing."""
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def as_object(column: pa.ChunkedArray) -> np.ndarray:
    """Texts as object (posts,); None where missing."""
    return column.to_numpy(zero_copy_only=False)


def concatenated(pieces: list[Columns]) -> Columns:
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


def drop_uninformative(every: Columns) -> None:
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
