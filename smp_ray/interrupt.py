"""Ending from another thread what the main thread does, which gets a KeyboardInterrupt.

A process that a script starts in the background ignores SIGINT. It goes on ignoring Ctrl-C, but hears this.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_asked = threading.Event()


def interrupt() -> None:
    """Interrupt the main thread while it is `interruptible`."""
    _asked.set()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[None]:
    """While this lasts, `interrupt` reaches the main thread, however the process was started."""
    deaf = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if deaf:
        _asked.clear()
        signal.signal(signal.SIGINT, _heard)
    try:
        yield
    finally:
        if deaf:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _heard(*_: Any) -> None:
    if _asked.is_set():
        _asked.clear()
        raise KeyboardInterrupt
