"""Batches of texts: every row once, similar lengths together, bounded by rows and by padded tokens."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smp_ray.models.batches import by_length


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 9), st.integers(1, 600))
def test_every_row_once_within_bounds(lengths: list[int], most: int, tokens: int) -> None:
    counts = np.array(lengths, dtype=np.int32)
    batches = list(by_length(counts, most, tokens))
    assert sorted(np.concatenate([[], *batches])) == [row for row, length in enumerate(lengths) if length]
    for rows in batches:
        assert len(rows) <= most
        assert len(rows) == 1 or len(rows) * counts[rows].max() <= tokens
    ends = [counts[rows].max() for rows in batches]
    assert ends == sorted(ends)
