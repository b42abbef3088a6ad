"""What the user sees while a stage works: a bar in a terminal, in a log a line of key=value pairs now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

#: Seconds between two lines of a log that is not a terminal.
LOG_EVERY = 15.0

#: What it is given is said as it is: titles and ids may hold :names: of emoji.
console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def say(line: str) -> None:
    """One plain line to the user, on standard error."""
    console.print(line, markup=False)


class Reporter:
    """Shows how far one stage is. `update` may be called as often as one likes."""

    def __init__(self, stage: str, unit: str = "posts") -> None:
        self._stage, self._unit = stage, unit
        self._began = self._said = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(stage, total=None, note="")

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, total: int | None, note: str = "") -> None:
        """Say that `done` of `total` (None: unknown) are finished."""
        self._bar.update(self._task, completed=done, total=total, note=note)
        now = time.monotonic()
        if self._bar.disable and now - self._said >= LOG_EVERY:
            self._said = now
            fields = {"total": total, "unit": self._unit, "seconds": round(now - self._began), "note": f'"{note}"'}
            shown = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
            say(f"progress stage={self._stage.replace(' ', '_')} done={done} {shown}")


@contextmanager
def repeating(every: float, work: Callable[[], bool]) -> Iterator[None]:
    """Do `work` every so many seconds in a thread, until the block ends or it says False."""
    stop = Event()

    def loop() -> None:
        while not stop.wait(every) and work():
            pass

    thread = Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def polled(reporter: Reporter, ask: Callable[[], tuple[int, int | None, str]], every: float = 0.5) -> Iterator[None]:
    """Call `ask` in a thread and show its answer until the block ends; a failing `ask` only ends the showing."""

    def poll() -> bool:
        try:
            reporter.update(*ask())
        except Exception as error:  # the display must never end the work
            print(f"progress display stopped: {error}", file=sys.stderr)
            return False
        return True

    with repeating(every, poll):
        yield
