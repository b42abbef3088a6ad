"""One thread ends what the main thread does; Ctrl-C is ignored where it was before."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from smp_ray.interrupt import interrupt, interruptible


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_the_main_thread_is_interrupted_however_the_process_was_started(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        with interruptible():
            threading.Timer(0.1, interrupt).start()
            with interruptible(), pytest.raises(KeyboardInterrupt):
                time.sleep(10)
            if handler is signal.SIG_IGN:
                signal.raise_signal(signal.SIGINT)  # Ctrl-C, to which such a process stays deaf
            threading.Timer(0.1, interrupt).start()
            with pytest.raises(KeyboardInterrupt):
                time.sleep(10)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
