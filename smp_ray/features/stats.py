"""Counting what the workers of a pass report, so that the driver can show it; losing it loses no data."""

from __future__ import annotations

import time
from typing import Any

import ray


@ray.remote(num_cpus=0)
class PassStats:
    """Counts what the workers report."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._rows: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._loads: dict[str, list[float]] = {}
        self._batches: list[tuple[float, int]] = []
        self._first_batches: dict[str, float] = {}

    def add(self, what: str, rows: int, seconds: float) -> None:
        """A worker spent `seconds` on one step of a batch."""
        self._rows[what] = self._rows.get(what, 0) + rows
        self._seconds[what] = self._seconds.get(what, 0.0) + seconds

    def loaded(self, what: str, seconds: float) -> None:
        """An actor has its models."""
        self._loads.setdefault(what, []).append(seconds)

    def finished(self, actor: str, rows: int) -> None:
        """An actor of the last pool handed a batch to the writer."""
        now = time.monotonic() - self._began
        self._first_batches.setdefault(actor, now)
        self._rows["posts"] = self._rows.get("posts", 0) + rows
        self._batches.append((now, rows))
        # Enough for a rate; a long pass must not grow the actor.
        del self._batches[:-10_000]

    def snapshot(self) -> dict[str, Any]:
        """Rows and busy seconds by step, load seconds by actor, seconds to the first and latest batch, steady rate.

        The steady rate counts what was handed on after every actor of the last pool had finished its first batch:
        loading and warming up are not in it, and no work done before the window is credited beyond one batch.
        """
        steady = None
        if self._batches:
            start, last = max(self._first_batches.values()), self._batches[-1][0]
            rows = sum(count for moment, count in self._batches if moment > start)
            steady = rows / (last - start) if rows else None
        return {
            "rows": dict(self._rows),
            "seconds": dict(self._seconds),
            "loads": {name: list(values) for name, values in self._loads.items()},
            "first_batch_seconds": min(self._first_batches.values(), default=None),
            "last_batch_seconds": self._batches[-1][0] if self._batches else None,
            "rows_per_second_steady": steady,
        }
