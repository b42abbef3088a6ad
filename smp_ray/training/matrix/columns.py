"""What the feature matrix is made of before anything is fitted: numbers, categories, words and vectors of posts.

Everything here is a function of one post alone, so it is the same whichever posts train. Rows follow the posts table;
what is missing is NaN or None, never a made-up value. Which family and column a group is read from follows from the
families' own columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.config import ADAPTED, METADATA, TEXT
from smp_ray.families.registry import find
from smp_ray.store.join import vectors
from smp_ray.store.manifest import Manifest
from smp_ray.store.reader import FamilyReader, iter_posts
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.rows import ADAPTED_COLUMNS
from smp_ray.training.matrix.post_columns import as_float, metadata, texts_of
from smp_ray.training.matrix.text import hashed_counts

#: Posts read at once.
PIECE = 50_000


@dataclass
class Columns:
    """Posts before encoding, all arrays in the same order of posts.

    Attributes:
        row_ids: int64 (posts,).
        post_ids: object (posts,).
        users: object (posts,) of user ids; None where missing.
        numbers: float64 (posts,) by column name; NaN where missing.
        categories: object (posts,) of texts or None by column name.
        vectors: float16 or float32 (posts, width) by column name; a row of NaN where missing.
        counts: sparse (posts, buckets) of words and character n-grams of the texts, see `text.hashed_counts`.
        families: the group of each number, category and vector, for the ablation.
    """

    row_ids: np.ndarray
    post_ids: np.ndarray
    users: np.ndarray
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    categories: dict[str, np.ndarray] = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    families: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row_ids)

    def rows(self, which: np.ndarray) -> "Columns":
        """Some posts, by a boolean mask or positions."""
        kinds = ("numbers", "categories", "vectors", "counts")
        parts = {kind: {name: values[which] for name, values in getattr(self, kind).items()} for kind in kinds}
        return Columns(self.row_ids[which], self.post_ids[which], self.users[which], families=self.families, **parts)

    def add(self, group: str, name: str, column: pa.ChunkedArray) -> None:
        """Add a column by its type: texts are categories, lists of floats vectors; what has no place is left out."""
        kind = column.type
        if pa.types.is_fixed_size_list(kind):
            self.vectors[name] = vectors(column)
        elif pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
            self.vectors[name] = _ragged(column)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            self.categories[name] = column.to_numpy()
        elif pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            self.numbers[name] = as_float(column)
        else:
            return
        self.families[name] = group


def load_columns(
    workspace: Workspace, posts: Manifest, stored: Mapping[str, Manifest], groups: Sequence[str]
) -> Columns:
    """What some groups are made of, for every post; `stored` has the families that hold the groups' columns."""
    from scipy import sparse

    families = {name: ADAPTED_COLUMNS if name == ADAPTED else find(name).columns for name in stored}
    wanted = [
        (group, family, column.name)
        for group in groups
        for family, columns in families.items()
        for column in columns
        if column.group == group
    ]
    readers = {name: FamilyReader(workspace, manifest) for name, manifest in stored.items()}
    pieces, counts, group_of = [], [], {}
    for table in iter_posts(workspace, posts, None, PIECE):
        piece = metadata(table) if METADATA in groups else {}
        group_of = dict.fromkeys(piece, METADATA)
        read = {name: reader.read(table["row_id"].to_numpy()) for name, reader in readers.items()}
        for group, family, name in wanted:
            piece[name], group_of[name] = read[family][name], group
        pieces.append(pa.table({**{key: table[key] for key in ("row_id", "post_id", "user_id")}, **piece}))
        if TEXT in groups:
            counts.append(hashed_counts(texts_of(table)))
    every = pa.concat_tables(pieces)
    found = Columns(*(every[key].to_numpy() for key in ("row_id", "post_id", "user_id")))
    for name, group in group_of.items():
        found.add(group, name, every[name])
    if counts:
        found.counts = {name: sparse.vstack([part[name] for part in counts], format="csr") for name in counts[0]}
    return found


def _ragged(column: pa.ChunkedArray) -> np.ndarray:
    """Lists of one length (the commonest) as (posts, width); others and nulls are rows of NaN."""
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    width = int(np.bincount(lengths[lengths > 0], minlength=1).argmax())
    values = np.full((len(column), width), np.nan, dtype=np.float32)
    fitting = (lengths == width) & (width > 0)
    values[fitting] = np.reshape(column.filter(pa.array(fitting)).combine_chunks().flatten(), (-1, width))
    return values
