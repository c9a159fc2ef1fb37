"""Ctrl-C as a request: the first is noted and acted on between steps, the second interrupts at once.

Here, not in memarch.training, because the chat needs it before torch is loaded.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_interrupt(request_stop: Callable[[], None]) -> Iterator[None]:
    """While inside, SIGINT calls `request_stop` instead of raising; a second SIGINT raises KeyboardInterrupt.

    An optimiser stopped in the middle of a step is in no state worth saving, hence the wait. Outside the main thread,
    where Python allows no signal handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        request_stop()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
