"""What of the posts table itself becomes columns of the matrix: the groups `metadata` and `text`."""

import re
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.schema import POSTS
from smp_ray.training.past import seconds

#: Texts of the posts table that are categories; further text columns of a source are taken unless named below.
CATEGORIES = ("category", "subcategory", "concept", "text_language", "media_type")
#: Texts that name one thing each and so say nothing about another post.
_NAMES = ("_path", "_uri", "_alias", "_id", "_url")
#: A date by its name: `user_firstdate`, `user_firstdatetaken`, `user_date_joined`; no `user_updates_count`.
_DATE = re.compile(r"(^|_)(first)?date(taken)?(_|$)")
_DAY = 86_400.0


def as_float(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers or truth values as float64 (posts,), the nearest where one has more digits; NaN where missing."""
    return column.cast(pa.float64(), safe=False).to_numpy()


def signed_log(values: np.ndarray) -> np.ndarray:
    """sign(x) * log(1 + |x|), which is defined for counts that a source publishes below 0, too."""
    return np.sign(values) * np.log1p(np.abs(values))


def metadata(table: pa.Table) -> dict[str, Any]:
    """Times, places, categories, what the source added, and what a title looks like, by name, of the posts table."""
    posted, since = pd.DatetimeIndex(table["posted_at"].to_pandas()), seconds(table["posted_at"])
    times = {
        "post_hour": posted.hour + posted.minute / 60.0, "post_weekday": posted.dayofweek, "post_month": posted.month,
        "post_day_of_month": posted.day, "post_days_since_1970": since / _DAY,
    }  # fmt: skip
    found = {name: np.asarray(values, dtype=np.float64) for name, values in times.items()}
    found |= {name: table[name] for name in ("latitude", "longitude", "geo_accuracy", *CATEGORIES)}
    for name in (column for column in table.column_names if column not in POSTS.names):
        found |= _extra(name, table[name], since)
    title = table["title"]
    length = as_float(pc.utf8_length(title))
    found["title_characters"] = length
    found["title_words"] = pc.count_substring_regex(title, r"[^\s,]+")
    for name, letters in {"letter": r"\p{L}", "capital": r"\p{Lu}", "digit": r"\p{Nd}"}.items():
        found[f"title_{name}_share"] = as_float(pc.count_substring_regex(title, letters)) / np.maximum(length, 1)
    found["title_symbols"] = pc.count_substring_regex(title, r"[^\p{L}\p{N}\s]")
    found["tag_count"] = pc.list_value_length(table["tags"])
    return found


def _extra(name: str, column: pa.ChunkedArray, posted: np.ndarray) -> dict[str, Any]:
    """A column that the source added: a number as it is and as a log, a category, a date as an age, or a vector."""
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if text and name.endswith(_NAMES):
        return {}
    if pa.types.is_list(column.type) and not pa.types.is_floating(column.type.value_type):
        return {f"{name}_count": pc.list_value_length(column)}
    dated = pa.types.is_timestamp(column.type)
    if dated or (_DATE.search(name) and not text and not pa.types.is_list(column.type)):
        # A date means what it is before the post: how long the user had been there.
        date = seconds(column.cast(pa.timestamp("us", column.type.tz))) if dated else as_float(column)
        return {f"days_since_{name}": (posted - date) / _DAY}
    counted = name.endswith("_count") and pa.types.is_primitive(column.type)
    return {name: column, f"log_{name}": signed_log(as_float(column))} if counted else {name: column}


def texts_of(table: pa.Table) -> list[str]:
    """Title, tags and further words of each post of the posts table; "" where it has none."""
    lists = [f.name for f in table.schema if f.name not in POSTS.names and f.type == pa.list_(pa.string())]
    words = [pc.binary_join(table[name].cast(pa.list_(pa.string())), " ") for name in ("tags", *lists)]
    joined = pc.binary_join_element_wise(table["title"], *words, " ", null_handling="replace", null_replacement="")
    return joined.to_pylist()


def ratios(numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Logs of one user count per another (likes per video): trees cannot divide."""
    logs = {name.removesuffix("_count"): numbers[name] for name in numbers if re.fullmatch("log_user_.*_count", name)}
    return {
        f"{above}_per_{below.removeprefix('log_user_')}": logs[above] - logs[below]
        for above, below in combinations(logs, 2)
    }
