"""What the feature matrix is made of before anything is fitted: numbers, categories, words and vectors of posts.

Everything here is a function of one post alone, so it is the same whichever posts train. Rows follow the posts table;
what is missing is NaN or None, never a made-up value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from smp_ray.store.join import vectors


@dataclass
class Columns:
    """Posts before encoding, all arrays in the same order of posts.

    Attributes:
        row_ids: int64 (posts,).
        post_ids: object (posts,).
        users: object (posts,) of user ids; None where missing.
        numbers: float64 (posts,) by column name; NaN where missing.
        categories: object (posts,) of texts or None by column name.
        counts: sparse (posts, buckets) of words and character n-grams of the texts, see `text.hashed_counts`.
        vectors: float16 or float32 (posts, width) by column name; a row of NaN where missing.
        families: the group of each number, category and vector, for the ablation.
    """

    row_ids: np.ndarray
    post_ids: np.ndarray
    users: np.ndarray
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    categories: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    families: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row_ids)

    def rows(self, which: np.ndarray) -> Columns:
        """Some posts, by a boolean mask or positions."""
        kinds = ("numbers", "categories", "counts", "vectors")
        parts = {kind: {name: values[which] for name, values in getattr(self, kind).items()} for kind in kinds}
        return Columns(self.row_ids[which], self.post_ids[which], self.users[which], families=self.families, **parts)

    def put(self, group: str, kind: str, name: str, values: Any) -> None:
        """Add a column of a group; `kind` is `numbers`, `categories` or `vectors`."""
        getattr(self, kind)[name] = values
        self.families[name] = group

    def put_arrow(self, group: str, name: str, column: pa.ChunkedArray) -> None:
        """Add a column by its type: texts are categories, fixed-size lists vectors; what has no place is left out."""
        kind = column.type
        if pa.types.is_fixed_size_list(kind):
            self.put(group, "vectors", name, vectors(column))
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            self.put(group, "categories", name, as_object(column))
        elif pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            self.put(group, "numbers", name, as_float(column))


def as_float(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers or truth values as float64 (posts,); NaN where missing."""
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def as_object(column: pa.ChunkedArray) -> np.ndarray:
    """Texts as object (posts,); None where missing."""
    return column.to_numpy(zero_copy_only=False)


def concatenated(pieces: list[Columns]) -> Columns:
    """All pieces one behind the other; a vector that a piece lacks altogether is missing there."""
    from scipy import sparse

    first = pieces[0]
    ids, posts, users = (
        np.concatenate([getattr(piece, key) for piece in pieces]) for key in ("row_ids", "post_ids", "users")
    )
    every = Columns(ids, posts, users, families=first.families)
    for kind in ("numbers", "categories"):
        for name in getattr(first, kind):
            getattr(every, kind)[name] = np.concatenate([getattr(piece, kind)[name] for piece in pieces])
    for name in first.vectors:
        width = max(piece.vectors[name].shape[1] for piece in pieces)
        every.vectors[name] = np.concatenate([of_width(piece.vectors[name], width) for piece in pieces])
    for name in first.counts:
        every.counts[name] = sparse.vstack([piece.counts[name] for piece in pieces], format="csr")
    return every


def of_width(vectors: np.ndarray, width: int) -> np.ndarray:
    """Vectors as they are, or (posts, width) of NaN where there are none at all and so no width."""
    return vectors if vectors.shape[1] else np.full((len(vectors), width), np.nan, vectors.dtype)
