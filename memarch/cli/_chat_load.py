"""Load model and embedder in the background, so that the prompt is there at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memarch.dialogue.generators.base import Generator
    from memarch.dialogue.memory import DialogueMemory

    from ._chat_screen import Screen

# Embedding so many turns takes a moment; more is worth a bar, so that is left to the first message.
MAX_QUIET_PENDING = 200
_POLL_SECONDS = 0.05


def num_pending(memory: DialogueMemory) -> int:
    """How many chunks the next search will have to embed."""
    embedder, stats = memory.embedder, memory.stats()
    if embedder is None:
        return 0
    return stats.num_pending if stats.embedder == embedder.name else stats.num_chunks


class Loader:
    """Loads a generator, then what the first search needs. A load that failed is tried again by the next `wait`."""

    def __init__(self, generator: Generator, memory: DialogueMemory | None = None) -> None:
        self.generator, self._memory = generator, memory
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._ready = threading.Event()
        self._progress = ""

    @property
    def state(self) -> str:
        """For people: "ready", what is being done, or that it failed."""
        if self._ready.is_set():
            return "ready"
        if self._error is not None:
            return "not loaded"
        return self._progress or "loading"

    def start(self, *, then: Callable[[Exception | None], None] = lambda error: None) -> None:
        """Begin, unless it is loaded or being loaded. then: called in the background at the end."""
        if self._ready.is_set() or (self._thread is not None and self._thread.is_alive()):
            return
        self._error = None

        def work() -> None:
            try:
                self.generator.load(self._note)
                self._ready.set()
            except Exception as error:  # belongs to the one who waits
                self._error = error
            then(self._error)
            if self._error is None:
                self._warm_up()

        self._thread = threading.Thread(target=work, name="memarch load", daemon=True)
        self._thread.start()

    def wait(self, screen: Screen) -> None:
        """Until the generator is loaded. Raises: what loading raised; KeyboardInterrupt."""
        self.start()
        if self._ready.is_set():
            return
        with screen.waiting(f"loading {self.generator.name}"):
            while not self._ready.wait(_POLL_SECONDS):
                if self._error is not None:
                    error, self._thread = self._error, None
                    raise error

    def _note(self, what: str, done: int, total: int) -> None:
        self._progress = f"{what} {100 * done // total} %" if total > 1 and done < total else what

    def _warm_up(self) -> None:
        """A search in vain: it loads the embedder and fills the word index."""
        memory = self._memory
        if memory is None:
            return
        try:
            if num_pending(memory) <= MAX_QUIET_PENDING:
                memory.search("hello", 1, note_use=False)
        except Exception:  # the first message meets it again, and reports it
            return
