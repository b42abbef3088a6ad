"""Texts of similar length together, so that little of a forward pass is spent on padding."""

from collections.abc import Iterator

import numpy as np

#: Padded tokens of one forward pass at most, by kind of device: bounds the activations. A CPU is fastest while they
#: stay in its cache (measured with a model of 135 M parameters: 8,192 tokens at once take twice as long as 512).
TOKENS_A_BATCH = {"cpu": 512, "cuda": 16_384}


def by_length(lengths: np.ndarray, most: int, tokens: int) -> Iterator[np.ndarray]:
    """Rows in ascending order of their length, int (n,), at most `most` and `tokens` padded tokens together.

    A longer one is alone. Rows of length 0 are left out.
    """
    order = np.argsort(lengths, kind="stable")
    start = int(np.searchsorted(lengths[order], 1))
    while start < len(order):
        stop = start + 1
        # Sorted, so the next text is the longest of the batch.
        while stop < len(order) and stop - start < most and (stop - start + 1) * int(lengths[order[stop]]) <= tokens:
            stop += 1
        yield order[start:stop]
        start = stop
