"""Counting what the workers of a pass report, so that the driver can show it; losing it loses no data."""

import time
from collections import Counter, defaultdict, deque
from typing import Any


class PassStats:
    """An actor that counts what the workers report."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._rows: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._loads: defaultdict[str, list[float]] = defaultdict(list)
        # Enough for a rate; a long pass must not grow the actor.
        self._batches: deque[tuple[float, int]] = deque(maxlen=10_000)
        self._first_batches: dict[str, float] = {}

    def add(self, what: str, rows: int, seconds: float) -> None:
        """A worker spent `seconds` on one step of a batch."""
        self._rows[what] += rows
        self._seconds[what] += seconds

    def loaded(self, what: str, seconds: float) -> None:
        """An actor has its models."""
        self._loads[what].append(seconds)

    def finished(self, actor: str, rows: int) -> None:
        """An actor of the last pool handed a batch to the writer."""
        now = time.monotonic() - self._began
        self._first_batches.setdefault(actor, now)
        self._rows["posts"] += rows
        self._batches.append((now, rows))

    def snapshot(self) -> dict[str, Any]:
        """Rows and busy seconds by step, load seconds by actor, seconds to the first and latest batch, steady rate.

        The steady rate counts what was handed on after every actor of the last pool had finished its first batch:
        loading and warming up are not in it, and no work done before the window is credited beyond one batch.
        """
        start, last = max(self._first_batches.values(), default=0.0), self._batches[-1][0] if self._batches else None
        rows = sum(count for moment, count in self._batches if moment > start)
        return {
            "rows": dict(self._rows),
            "seconds": dict(self._seconds),
            "loads": dict(self._loads),
            "first_batch_seconds": min(self._first_batches.values(), default=None),
            "last_batch_seconds": last,
            "rows_per_second_steady": rows / (last - start) if last and rows else None,
        }
