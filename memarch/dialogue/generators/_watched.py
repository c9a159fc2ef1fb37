"""Watch an answer from outside: whoever makes it may hang, yet waiting ends, by time-out, stop or Ctrl-C."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

from memarch.dialogue.errors import GenerationTimeout

from .base import StopSignal

# How often the one who waits looks whether to stop.
_POLL_SECONDS = 0.05


class Watcher:
    """Runs one answer at a time in a thread of its own.

    A thread cannot be killed: one that hangs is told to end, and as long as it does not, the next answer is refused.
    """

    def __init__(self, what: str, timeout_seconds: float) -> None:
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be above 0; got {timeout_seconds!r}")
        self._what, self._timeout = what, timeout_seconds
        self._thread: threading.Thread | None = None

    def pieces(
        self,
        make: Callable[[threading.Event], Iterator[str]],
        stop: StopSignal | None,
        *,
        abandon: Callable[[], None] = lambda: None,
    ) -> Iterator[str]:
        """What `make` yields. It gets an event that is set when nobody waits any longer.

        abandon: called then as well, for example to close a connection that the thread reads from.
        Raises: what `make` raises; GenerationTimeout if no piece comes for `timeout_seconds`.
        """
        if self._thread is not None:
            self._thread.join(self._timeout)
            if self._thread.is_alive():
                raise GenerationTimeout(
                    f"{self._what} still hangs in an earlier answer ({self._timeout:g} s waited): start again"
                )
        over = threading.Event()
        pieces: queue.Queue[str | BaseException | None] = queue.Queue()

        def work() -> None:
            try:
                for piece in make(over):
                    pieces.put(piece)
                    if over.is_set():
                        return
                pieces.put(None)
            except BaseException as error:  # whatever it is, it belongs to the one who waits
                pieces.put(error)

        self._thread = threading.Thread(target=work, name=f"memarch {self._what}", daemon=True)
        self._thread.start()
        try:
            yield from self._taken(pieces, stop)
        finally:
            over.set()
            abandon()

    def _taken(self, pieces: queue.Queue[str | BaseException | None], stop: StopSignal | None) -> Iterator[str]:
        waited_since = time.monotonic()
        while stop is None or not stop.is_set():
            try:
                piece = pieces.get(timeout=min(_POLL_SECONDS, self._timeout))
            except queue.Empty:
                if time.monotonic() - waited_since > self._timeout:
                    raise GenerationTimeout(
                        f"{self._what} gave no token for {self._timeout:g} s: ask again, shorten the prompt "
                        "(its budget), or take a faster model"
                    ) from None
                continue
            if piece is None:
                return
            if isinstance(piece, BaseException):
                raise piece
            yield piece
            waited_since = time.monotonic()
