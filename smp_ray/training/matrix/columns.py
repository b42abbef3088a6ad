"""What the feature matrix is made of before anything is fitted: numbers, categories, words and vectors of posts.

Everything here is a function of one post and of what its user did before it, so it is the same whichever posts train.
Rows follow those given; what is missing is NaN or None, never a made-up value. Which column a group is made of follows
from the families' own columns.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.config import ADAPTED, HISTORY, METADATA, TEXT
from smp_ray.families.registry import columns_of, find
from smp_ray.store.join import vectors
from smp_ray.training.adapter.apply import Adapters
from smp_ray.training.adapter.rows import ADAPTED_COLUMNS
from smp_ray.training.matrix.post_columns import as_float, metadata, texts_of
from smp_ray.training.matrix.text import hashed_counts
from smp_ray.training.past import Past, seconds, user_hashes

#: How many posts the user had before.
USER_POSTS = "user_posts_before"


@dataclass
class Columns:
    """Posts before encoding, all arrays in the same order of posts.

    Attributes:
        row_ids: int64 (posts,).
        post_ids: object (posts,).
        past: what counts as the users' earlier posts.
        numbers: float64 (posts,) by column name; NaN where missing.
        categories: object (posts,) of texts or None by column name.
        vectors: float16 or float32 (posts, width) by column name; a row of NaN where missing.
        counts: sparse (posts, buckets) of words and character n-grams of the texts, see `text.hashed_counts`.
        families: the group of each number, category and vector, for the ablation.
    """

    row_ids: np.ndarray
    post_ids: np.ndarray
    past: Past
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
        return Columns(self.row_ids[which], self.post_ids[which], self.past, families=self.families, **parts)

    def put(self, group: str, name: str, values: np.ndarray) -> None:
        """Add a number, float64 (posts,)."""
        self.numbers[name], self.families[name] = values, group

    def add(self, group: str, name: str, column: pa.ChunkedArray, width: int | None = None) -> None:
        """Add a column by its type: texts are categories, lists of floats vectors; what has no place is left out.

        `width` is that of lists; None: that of most of them.
        """
        kind = column.type
        if pa.types.is_fixed_size_list(kind):
            self.vectors[name] = vectors(column)
        elif pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
            self.vectors[name] = _ragged(column, width)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            self.categories[name] = column.to_numpy()
        elif pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            self.numbers[name] = as_float(column)
        else:
            return
        self.families[name] = group


def columns_from(
    tables: Iterable[pa.Table],
    families: Sequence[str],
    groups: Sequence[str],
    past: Past | None = None,
    adapters: Adapters | None = None,
    delay_days: float | None = None,
    widths: Mapping[str, int] | None = None,
) -> Columns:
    """What some groups are made of.

    Args:
        tables: wide rows of posts, at least one, all with the same columns.
        families: those whose columns are among them.
        groups: of the matrix.
        past: what counts as the users' earlier posts; None: these posts themselves.
        adapters: for the group `adapted`.
        delay_days: when a popularity was known after its post; the group `history` needs it.
        widths: of vectors, by column, as an encoder was fitted on them.
    """
    from scipy import sparse

    known = columns_of(families)
    stored = {field.name for family in families for field in find(family).fields()}
    wanted = {c.name: c.group for group in groups for c in (*known.values(), *ADAPTED_COLUMNS) if c.group == group}
    pieces, counts, group_of = [], [], {}
    for table in tables:
        own = table.select([name for name in table.column_names if name not in stored])
        piece = metadata(own) if METADATA in groups else {}
        group_of = dict.fromkeys(piece, METADATA)
        piece |= {name: table[name] for name in ("row_id", "post_id", "popularity")}
        piece |= {"user": user_hashes(table["user_id"]), "posted": seconds(table["posted_at"])}
        features = table if adapters is None or ADAPTED not in groups else adapters.beside(table)
        for name, group in wanted.items():
            if name in features.column_names:
                piece[name], group_of[name] = features[name], group
        pieces.append(pa.table(piece))
        if TEXT in groups:
            counts.append(hashed_counts(texts_of(own)))
    every = pa.concat_tables(pieces)
    pieces.clear()
    row_ids, post_ids, users, times = (every[key].to_numpy() for key in ("row_id", "post_id", "user", "posted"))
    past = Past.of(users, times, as_float(every["popularity"])) if past is None else past
    found = Columns(row_ids, post_ids, past)
    if METADATA in groups:
        found.put(METADATA, USER_POSTS, past.counts(users, times))
    if HISTORY in groups:
        assert delay_days is not None, "the group `history` needs its delay"
        for name, values in past.history(users, times, delay_days).items():
            found.put(HISTORY, name, values)
    for name, group in group_of.items():
        found.add(group, name, every[name], (widths or {}).get(name))
        every = every.drop_columns([name])  # what is copied is given up, or vectors would be there twice
    if counts:
        found.counts = {name: sparse.vstack([part[name] for part in counts], format="csr") for name in counts[0]}
    return found


def _ragged(column: pa.ChunkedArray, width: int | None) -> np.ndarray:
    """Lists of one length (None: the commonest) as (posts, width); others and nulls are rows of NaN."""
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    if width is None:
        width = int(np.bincount(lengths[lengths > 0], minlength=1).argmax())
    values = np.full((len(column), width), np.nan, dtype=np.float32)
    fitting = lengths == width
    if width:
        values[fitting] = np.reshape(column.filter(pa.array(fitting)).combine_chunks().flatten(), (-1, width))
    return values
