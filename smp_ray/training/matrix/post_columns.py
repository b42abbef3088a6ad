"""What of the posts table itself becomes columns of the matrix: the groups `metadata` and `text`."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.config import METADATA
from smp_ray.schema import POSTS
from smp_ray.training.matrix.columns import Columns, as_float, as_object

#: Texts of the posts table that are categories; further text columns of a source are taken unless named below.
CATEGORIES = ("category", "subcategory", "concept", "text_language", "media_type")
#: Texts that name one thing each and so say nothing about another post.
_NAMES = ("_path", "_uri", "_alias", "_id", "_url")
_DAY = 86_400.0


def signed_log(values: np.ndarray) -> np.ndarray:
    """sign(x) * log(1 + |x|), which is defined for counts that a source publishes below 0, too."""
    return np.sign(values) * np.log1p(np.abs(values))


def add_metadata(piece: Columns, table: pa.Table) -> None:
    """Times, places, categories, what the source added, and what a title looks like, of posts of the posts table."""
    posted = pd.DatetimeIndex(table["posted_at"].to_pandas())
    seconds = _seconds(table["posted_at"])
    times = {
        "post_hour": posted.hour + posted.minute / 60.0, "post_weekday": posted.dayofweek, "post_month": posted.month,
        "post_day_of_month": posted.day, "post_days_since_1970": seconds / _DAY,
    }  # fmt: skip
    for name, values in times.items():
        piece.put(METADATA, "numbers", name, np.asarray(values, dtype=np.float64))
    for name in ("latitude", "longitude", "geo_accuracy"):
        piece.put(METADATA, "numbers", name, as_float(table[name]))
    for name in CATEGORIES:
        piece.put(METADATA, "categories", name, as_object(table[name]))
    for name in (column for column in table.column_names if column not in POSTS.names):
        _extra(piece, name, table[name], seconds)
    _text_counts(piece, table)


def _extra(piece: Columns, name: str, column: pa.ChunkedArray, posted: np.ndarray) -> None:
    """A column that the source added: a number as it is and as a log, a category, a date as an age, or a vector."""
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if text and name.endswith(_NAMES):
        return
    if pa.types.is_list(column.type):
        if pa.types.is_floating(column.type.value_type):
            piece.put(METADATA, "vectors", name, _ragged(column))
        else:
            piece.put(METADATA, "numbers", f"{name}_count", as_float(pc.list_value_length(column)))
    elif "date" in name and not text:
        # A date means what it is before the post: how long the user had been there.
        piece.put(METADATA, "numbers", f"days_since_{name}", (posted - as_float(column)) / _DAY)
    else:
        piece.put_arrow(METADATA, name, column)
        if name.endswith("_count") and name in piece.numbers:
            piece.put(METADATA, "numbers", f"log_{name}", signed_log(piece.numbers[name]))


def _text_counts(piece: Columns, table: pa.Table) -> None:
    title = table["title"].combine_chunks()
    length = as_float(pc.utf8_length(title))
    counts = {
        "title_characters": length,
        "title_words": as_float(pc.count_substring_regex(title, r"[^\s,]+")),
        "title_letter_share": as_float(pc.count_substring_regex(title, r"\p{L}")) / np.maximum(length, 1),
        "title_capital_share": as_float(pc.count_substring_regex(title, r"\p{Lu}")) / np.maximum(length, 1),
        "title_digit_share": as_float(pc.count_substring_regex(title, r"\p{Nd}")) / np.maximum(length, 1),
        "title_symbols": as_float(pc.count_substring_regex(title, r"[^\p{L}\p{N}\s]")),
        "tag_count": as_float(pc.list_value_length(table["tags"])),
    }
    for name, values in counts.items():
        piece.put(METADATA, "numbers", name, values)


def texts_of(table: pa.Table) -> list[np.ndarray]:
    """Title, tags and further words of posts of the posts table, object (posts,) each, "" where missing."""
    lists = [f.name for f in table.schema if f.name not in POSTS.names and f.type == pa.list_(pa.string())]
    columns = [table["title"], *(_joined(table[name]) for name in ("tags", *lists))]
    return [as_object(pc.fill_null(column, "")) for column in columns]


def _joined(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.binary_join(column.cast(pa.list_(pa.string())), " ")


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


def ratios(numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Logs of one user count per another (likes per video): trees cannot divide."""
    counts = [
        name.removesuffix("_count")
        for name in numbers
        if name.startswith("user_") and name.endswith("_count") and f"log_{name}" in numbers
    ]
    return {
        f"log_{above}_per_{below.removeprefix('user_')}": numbers[f"log_{above}_count"] - numbers[f"log_{below}_count"]
        for above, below in combinations(counts, 2)
    }
