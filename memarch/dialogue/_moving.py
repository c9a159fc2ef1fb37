"""What export, import and migration share: turns with the state of their chunks, read from one store, put into another.

A store numbers turns itself and leaves no gaps, so what was the 12th turn may become the 9th elsewhere: every number
that is kept (archived at, summaries' sources) is translated.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from memarch.dialogue.errors import StoreCorrupt
from memarch.dialogue.records import Chunk, NewTurn, Summary, Turn
from memarch.dialogue.stores.base import Store

# Settings that belong to the content; others are a store's or a session's own.
SETTINGS = ("compact_blocks",)
TURN_SETTINGS = ("forgotten_at",)
_BATCH_TURNS, _BATCH_CHARS = 256, 4_000_000


@dataclass(frozen=True)
class ChunkState:
    """What a chunk has beside its text."""

    pinned: bool = False
    archived_at: int | None = None
    retrieved_at: int | None = None
    vector: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Entry:
    """A turn of the source: its number there, the turn, the states of its chunks."""

    turn: int
    new: NewTurn
    chunks: tuple[ChunkState, ...]


def read_entries(store: Store, *, vectors: bool = True) -> Iterator[list[Entry]]:
    """All turns in order, some at a time: not even the texts of one user need fit into memory."""
    after = chunk_after = 0
    while batch := _some_turns(store, after):
        chunks: list[Chunk] = []
        for chunk in store.chunks(after=chunk_after):
            if chunk.turn > batch[-1].turn:
                break
            chunks.append(chunk)
        after = batch[-1].turn
        chunk_after = chunks[-1].chunk if chunks else chunk_after
        found: dict[int, NDArray[np.float32]] = {}
        if vectors and chunks:
            numbers, rows = store.get_vectors(np.array([chunk.chunk for chunk in chunks], dtype=np.int64))
            found = dict(zip(numbers.tolist(), rows, strict=True))
        by_turn: dict[int, list[Chunk]] = {}
        for chunk in chunks:
            by_turn.setdefault(chunk.turn, []).append(chunk)
        yield [_entry(turn, by_turn.get(turn.turn, []), found) for turn in batch]


def _some_turns(store: Store, after: int) -> list[Turn]:
    batch: list[Turn] = []
    chars = 0
    for turn in islice(store.turns(after=after), _BATCH_TURNS):
        batch.append(turn)
        chars += len(turn.text)
        if chars > _BATCH_CHARS:
            break
    return batch


def _entry(turn: Turn, chunks: list[Chunk], vectors: Mapping[int, NDArray[np.float32]]) -> Entry:
    new = NewTurn(turn.session, turn.role, turn.text, turn.time, turn.source_id, _spans(turn, chunks))
    if new.sha256 != turn.sha256:
        raise StoreCorrupt(f"turn {turn.turn} ({turn.source_id!r}) does not match its hash: run verify on this memory")
    states = (ChunkState(c.pinned, c.archived_at, c.retrieved_at, vectors.get(c.chunk)) for c in chunks)
    return Entry(turn.turn, new, tuple(states))


def _spans(turn: Turn, chunks: list[Chunk]) -> tuple[tuple[int, int], ...]:
    """Where in the turn its chunks stand: stores give their texts only."""
    found = []
    start = stop = 0
    for chunk in chunks:
        start = stop if turn.text.startswith(chunk.text, stop) else turn.text.find(chunk.text, start)
        stop = start + len(chunk.text)
        found.append((start, stop))
    if not found or any(start < 0 for start, _ in found):
        raise StoreCorrupt(f"turn {turn.turn} ({turn.source_id!r}) and its chunks disagree: run repair on this memory")
    return tuple(found)


class TurnNumbers:
    """From the source's turn numbers to the target's."""

    def __init__(self, pairs: Mapping[int, int]) -> None:
        self.pairs = pairs
        self._ascending = sorted(pairs)

    def at(self, turn: int | None) -> int | None:
        """The target's number for a moment of the source: of the last turn said until then."""
        if turn is None or not self._ascending:
            return None
        place = bisect.bisect_right(self._ascending, turn)
        return self.pairs[self._ascending[max(place - 1, 0)]]


def chunk_numbers(store: Store) -> dict[int, list[int]]:
    """Chunk numbers by turn, in their order."""
    found: dict[int, list[int]] = {}
    for chunk in store.chunks():
        found.setdefault(chunk.turn, []).append(chunk.chunk)
    return found


def put_states(
    store: Store, entries: Sequence[Entry], numbers: TurnNumbers, chunks: Mapping[int, list[int]], *, vectors: bool
) -> int:
    """Give chunks their vectors, pins and marks; how many vectors. Doing it twice is the same as once."""
    embedded: list[tuple[int, NDArray[np.float32]]] = []
    pinned: list[int] = []
    archived: dict[int, list[int]] = {}
    retrieved: dict[int, list[int]] = {}
    for entry in entries:
        for chunk, state in zip(chunks[numbers.pairs[entry.turn]], entry.chunks, strict=False):
            if vectors and state.vector is not None:
                embedded.append((chunk, state.vector))
            if state.pinned:
                pinned.append(chunk)
            for moment, marks in ((state.archived_at, archived), (state.retrieved_at, retrieved)):
                if (at := numbers.at(moment)) is not None:
                    marks.setdefault(at, []).append(chunk)
    if embedded:
        rows = np.stack([vector for _, vector in embedded]).astype(np.float32, copy=False)
        store.put_vectors(_ids(chunk for chunk, _ in embedded), rows)
    if pinned:
        store.pin(_ids(pinned))
    for turn, members in retrieved.items():
        store.mark_retrieved(_ids(members), turn)
    for turn, members in archived.items():
        store.archive(_ids(members), turn)
    return len(embedded)


def put_summaries(store: Store, summaries: Iterable[Summary], numbers: TurnNumbers, block_turns: int | None) -> int:
    """Add summaries of which every source is there; how many. The others are made again by Compact Memory.

    block_turns: the size of its blocks; a summary that would cross a block in the new numbering is left out too.
    """
    known = {(s.level, s.first_turn): s.summary for s in store.summaries()}
    made: dict[int, int] = {}
    count = 0
    for summary in sorted(summaries, key=lambda s: (s.level, s.first_turn)):
        pairs = numbers.pairs if summary.level == 1 else made
        first, last = numbers.pairs.get(summary.first_turn), numbers.pairs.get(summary.last_turn)
        if first is None or last is None or not all(source in pairs for source in summary.sources):
            continue
        if (there := known.get((summary.level, first))) is not None:
            made[summary.summary] = there
            continue
        if summary.level == 1 and block_turns and (
            (first - 1) % block_turns or (last - 1) // block_turns != (first - 1) // block_turns
        ):  # fmt: skip
            continue
        sources = [pairs[source] for source in summary.sources]
        put = store.put_summary(
            level=summary.level,
            text=summary.text,
            first_turn=first,
            last_turn=last,
            sources=sources,
            summarizer=summary.summarizer,
        )
        made[summary.summary] = put.summary
        count += 1
    return count


def put_settings(store: Store, settings: Mapping[str, str], numbers: TurnNumbers) -> None:
    """Settings of the content that the store does not have yet."""
    for name, value in settings.items():
        if name in SETTINGS + TURN_SETTINGS and store.get_setting(name) is None:
            store.put_setting(name, str(numbers.at(int(value)) or 0) if name in TURN_SETTINGS else value)


def read_settings(store: Store) -> dict[str, str]:
    """Settings of the content."""
    found = {name: store.get_setting(name) for name in SETTINGS + TURN_SETTINGS}
    return {name: value for name, value in found.items() if value is not None}


def _ids(numbers: Iterable[int]) -> NDArray[np.int64]:
    return np.array(list(numbers), dtype=np.int64)
