"""What was seen so far, exactly and in little memory: duplicate post ids, and row ids that must stay unique.

A Python set of 100 million ids takes more than 10 GB; sorted arrays of hashes take 24 bytes a post.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Keys in the longest run: bounds the copy that merging two runs makes (256 MB of 128-bit keys).
_RUN_LIMIT = 2**24


class SeenKeys:
    """A growing set of fixed-size keys in a few sorted runs, asked and extended a batch at a time.

    Runs shrink geometrically, as in a log-structured merge tree, so that adding stays cheap; beyond `run_limit` keys
    runs are left alone.
    """

    def __init__(self, run_limit: int = _RUN_LIMIT) -> None:
        self._runs: list[NDArray[Any]] = []
        self._run_limit = run_limit

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, keys: NDArray[Any]) -> NDArray[np.bool_]:
        """Add a batch (n keys) and return n truth values: was this the first sight of the key?

        Of equal keys within the batch the first is the first sight.
        """
        unique, first = np.unique(keys, return_index=True)
        known = np.zeros(len(unique), dtype=bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            known |= run[places] == unique
        fresh = np.zeros(len(keys), dtype=bool)
        fresh[first[~known]] = True
        if fresh.any():
            self._push(unique[~known])
        return fresh

    def _push(self, run: NDArray[Any]) -> None:
        while self._runs and len(self._runs[-1]) < 2 * len(run) and len(self._runs[-1]) + len(run) <= self._run_limit:
            # A stable sort finds the two sorted halves and merges them.
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        self._runs.append(run)


class PostIds:
    """Tells new post ids from repeated ones, by their 128-bit hashes (a false match: under 1e-20 at 1e9 posts)."""

    def __init__(self) -> None:
        self._seen = SeenKeys()

    def first_sight(self, post_ids: list[str]) -> NDArray[np.bool_]:
        """Whether each id is new; the first of equal ones is."""
        digests = b"".join(hashlib.blake2b(post_id.encode(), digest_size=16).digest() for post_id in post_ids)
        # Byte strings of equal length sort and compare exactly, trailing zero bytes included.
        return self._seen.add(np.frombuffer(digests, dtype="S16"))


class RowIds:
    """Unique row ids: hashes of what a post is; of two posts with one hash the later is hashed again, counted."""

    def __init__(self, bits: int = 63) -> None:
        self._seen = SeenKeys()
        self._mask = (1 << bits) - 1

    def assign(self, contents: list[bytes]) -> NDArray[np.int64]:
        """A row id for each content, given in the order of the posts."""
        row_ids = np.array([self._hash(content, 0) for content in contents], dtype=np.int64)
        pending = np.flatnonzero(~self._seen.add(row_ids))
        attempt = 0
        while len(pending):
            attempt += 1
            row_ids[pending] = [self._hash(contents[index], attempt) for index in pending]
            pending = pending[~self._seen.add(row_ids[pending])]
        return row_ids

    def _hash(self, content: bytes, attempt: int) -> int:
        salted = content if attempt == 0 else content + b"\0again" + str(attempt).encode()
        return int.from_bytes(hashlib.blake2b(salted, digest_size=8).digest(), "big") & self._mask


def post_content(namespace: str, post_id: str, title: str | None, image: str | bytes | None) -> bytes:
    """The bytes that a row id is the hash of: the post, and what its features are computed from.

    Image bytes enter by their hash; lengths are written out, so that no two posts give the same bytes.
    """
    parts = [namespace.encode(), post_id.encode(), None if title is None else title.encode(), None]
    if isinstance(image, bytes):
        parts[3] = b"bytes:" + hashlib.blake2b(image, digest_size=16).digest()
    elif image is not None:
        parts[3] = b"named:" + image.encode("utf-8", "replace")
    return b"".join(b"-" if part is None else str(len(part)).encode() + b":" + part for part in parts)
