"""What a user did before a post: how many posts, and, of those whose popularity was known by then, how they did.

Only what was there before the post counts, by the labelled posts and, of those that are predicted, by these as well. A
user is a number of 64 bits, so that no name is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
from safetensors.numpy import load, save

_DAY = 86_400.0
#: Columns of the group `history`.
HISTORY_COLUMNS = (
    "user_history_posts", "user_history_mean", "user_history_deviation", "user_history_last", "user_history_last_three",
    "user_history_days_since",
)  # fmt: skip


def seconds(moments: pa.ChunkedArray) -> np.ndarray:
    """Timestamps in microseconds as seconds since 1970, float64 (posts,); NaN where missing."""
    return moments.cast(pa.int64()).cast(pa.float64(), safe=False).to_numpy() / 1e6


def user_hashes(users: pa.ChunkedArray) -> np.ndarray:
    """A number of 64 bits for each user id, uint64 (posts,), the same on any machine; 0 where there is none."""
    hashed = pd.util.hash_array(users.fill_null("").to_numpy().astype(object), categorize=True)
    return np.where(users.is_null().to_numpy(), 0, np.maximum(hashed, 1)).astype(np.uint64)


@dataclass(frozen=True)
class Past:
    """Posts in the order of users, and of time for each user; those without either are left out.

    Attributes:
        users: uint64 (posts,), see `user_hashes`.
        times: float64 (posts,), seconds since 1970.
        popularity: float64 (posts,), NaN where unknown.
    """

    users: np.ndarray
    times: np.ndarray
    popularity: np.ndarray

    @classmethod
    def of(cls, users: np.ndarray, times: np.ndarray, popularity: np.ndarray) -> Past:
        """The same of posts in any order; user 0 is none, and a time may be NaN."""
        known = (users != 0) & np.isfinite(times)
        order = np.flatnonzero(known)[np.lexsort((times[known], users[known]))]
        return cls(users[order], times[order], popularity[order])

    @classmethod
    def of_posts(cls, tables: Iterable[pa.Table]) -> Past:
        """Posts, at least one table with `user_id` and `posted_at`, popularity unknown: 24 bytes each."""
        found = [(user_hashes(table["user_id"]), seconds(table["posted_at"])) for table in tables]
        users, times = (np.concatenate(column) for column in zip(*found, strict=True))
        return cls.of(users, times, np.full(len(users), np.nan))

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        return save(self._arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Past:
        """The inverse of `to_bytes`."""
        return cls(**load(data))

    def joined(self, other: Past) -> Past:
        """All posts of both; as many of `other` as are here with their user and time are the same posts."""
        _, before = self.before(other.users, other.times)
        _, with_it = self.before(other.users, np.nextafter(other.times, np.inf))
        number = pd.DataFrame({"user": other.users, "time": other.times}).groupby(["user", "time"]).cumcount()
        known = number.to_numpy() < with_it - before
        new = {name: values[~known] for name, values in other._arrays.items()}
        return Past.of(*(np.concatenate([values, new[name]]) for name, values in self._arrays.items()))

    @property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {"users": self.users, "times": self.times, "popularity": self.popularity}

    @cached_property
    def _keys(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Users and times, each once and sorted, and a sorted number of both for each post."""
        names, codes = np.unique(self.users, return_inverse=True)
        distinct, ranks = np.unique(self.times, return_inverse=True)
        return names, distinct, codes.astype(np.int64) * (len(distinct) + 1) + ranks

    @cached_property
    def _known(self) -> tuple[Past, np.ndarray]:
        """The posts whose popularity is known, and sums of it and its square up to each, from each user's first on."""
        known = np.isfinite(self.popularity)
        past = Past(*(values[known] for values in self._arrays.values()))
        labels = pd.DataFrame({1: past.popularity, 2: past.popularity**2})
        # No sum depends, to the last bit, on what is later.
        return past, np.vstack([np.zeros((1, 2)), labels.groupby(past.users, sort=False).cumsum().to_numpy()])

    def before(self, users: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last + 1 of the user's posts before a moment, int64 (n,) each: positions in the arrays."""
        first = np.searchsorted(self.users, users, side="left")
        names, distinct, keys = self._keys
        code, rank = np.searchsorted(names, users), np.searchsorted(distinct, times, side="left")
        last = np.searchsorted(keys, code.astype(np.int64) * (len(distinct) + 1) + rank, side="left")
        there = (code < len(names)) & (names[np.minimum(code, len(names) - 1)] == users) if len(names) else code < 0
        there &= np.isfinite(times)
        return np.where(there, first, 0), np.where(there, np.maximum(last, first), 0)

    def counts(self, users: np.ndarray, times: np.ndarray) -> np.ndarray:
        """How many posts the user has before a moment, float64 (n,); NaN without user or time."""
        first, last = self.before(users, times)
        return np.where((users != 0) & np.isfinite(times), last - first, np.nan)

    def history(self, users: np.ndarray, times: np.ndarray, delay_days: float) -> Mapping[str, np.ndarray]:
        """`HISTORY_COLUMNS`, float64 (n,), of posts whose popularity was known `delay_days` after they were posted."""
        past, sums = self._known
        first, last = past.before(users, times - delay_days * _DAY)
        count, three = last - first, np.maximum(first, last - 3)
        some, latest = np.where(count > 0, count, np.nan), np.where(count > 0, last, 0)
        mean, square = sums[latest].T / some
        before_three = np.where(three > first, sums[three, 0], 0)
        last_label, last_time = (np.concatenate([[np.nan], values])[latest] for values in (past.popularity, past.times))
        values = (
            np.where((users != 0) & np.isfinite(times), count, np.nan), mean,
            np.sqrt(np.maximum(square - mean**2, 0)), last_label,
            (sums[latest, 0] - before_three) / np.where(count > 0, last - three, np.nan), (times - last_time) / _DAY,
        )  # fmt: skip
        return dict(zip(HISTORY_COLUMNS, values, strict=True))
