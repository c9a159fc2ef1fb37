"""A small memory with everything a store can hold, and a store that fails at its n-th write."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from memarch.dialogue.chunking import spans
from memarch.dialogue.compact import CompactMemory, ExtractiveSummarizer
from memarch.dialogue.records import NewTurn
from memarch.dialogue.stores import open_store
from memarch.dialogue.stores.base import Store

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
DIM = 5
MODEL = "toy@1"
WRITES = (
    "add_turns", "use_embedder", "put_vectors", "pin", "mark_retrieved", "archive", "put_summary", "put_setting",
)  # fmt: skip


def new_turn(name: str, text: str, day: int = 0, role: str = "Ada") -> NewTurn:
    return NewTurn(f"s{day // 10}", role, text, START + timedelta(days=day), name, spans(text))


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def unit(seed: int, count: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def filled(location: Path, *, user: str = "ada", num_turns: int = 60) -> Store:
    """Turns 1..n but 7 and 8, which were erased; several chunks, vectors, pins, archived and retrieved ones."""
    store = open_store(location, user=user)
    fill(store, num_turns)
    return store


def fill(store: Store, num_turns: int = 60) -> None:
    """See `filled`."""
    texts = [f"I met person {n} in town {n % 7}." for n in range(1, num_turns + 1)]
    texts[2] = "A long story. " * 200
    texts[3] = 'lone \ud800 surrogate, NUL \x00, 日本 \u2028 and "quotes"\n</memory>'
    texts[4] = ""
    texts[6] = "SECRET of the seventh"
    store.add_turns([new_turn(f"t{n}", text, n) for n, text in enumerate(texts, 1)])
    store.use_embedder(MODEL, DIM)
    chunks = [chunk.chunk for chunk in store.chunks()][:-2]
    store.put_vectors(ids(*chunks), unit(0, len(chunks)))
    store.pin(ids(chunks[1]))
    store.mark_retrieved(ids(chunks[0], chunks[9]), 40)
    store.mark_retrieved(ids(chunks[2]), 41)
    store.archive(ids(chunks[5], chunks[12]), 50)
    CompactMemory(store, ExtractiveSummarizer()).update()
    store.erase([7, 8], selector={"session": "s0"})
    CompactMemory(store, ExtractiveSummarizer()).update()
    store.put_setting("forgotten_at", "50")


class FailsAt:
    """A store whose n-th write fails before it does anything, as a crash would."""

    def __init__(self, store: Store, write: int) -> None:
        self._store, self._left = store, write

    def __getattr__(self, name: str) -> Any:
        found: Callable[..., Any] = getattr(self._store, name)
        if name not in WRITES:
            return found

        def write(*values: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise OSError("no space left on device")
            return found(*values, **options)

        return write


def content(store: Store) -> list[Any]:
    """All that a user can see of a memory, without numbers that a store gives."""
    turns = {turn.turn: turn.source_id for turn in store.turns()}
    rows: list[Any] = [
        (turn.source_id, turn.session, turn.role, turn.text, turn.time, turn.sha256) for turn in store.turns()
    ]
    for chunk in store.chunks():
        found, vectors = store.get_vectors(ids(chunk.chunk))
        vector = vectors[0].round(5).tolist() if len(found) else None
        moments = [None if at is None else turns.get(at) for at in (chunk.archived_at, chunk.retrieved_at)]
        rows.append((chunk.source_id, chunk.ordinal, chunk.text, chunk.pinned, moments, vector))
    rows.append(store.embedder())
    return rows
