"""What a dialogue memory holds and returns: plain frozen records, shared by stores, retrieval and the command line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Turn:
    """One message as it was said.

    turn: 1, 2, ... in the order of arrival, per user, never reused. role: "user", "assistant", or a speaker's name.
    source_id: the caller's own name of the turn, unique per user. sha256 is of the text's UTF-8.
    """

    turn: int
    session: str
    role: str
    text: str
    time: datetime
    source_id: str
    sha256: str


@dataclass(frozen=True)
class NewTurn:
    """A turn before a store numbered it."""

    session: str
    role: str
    text: str
    time: datetime
    source_id: str
    spans: tuple[tuple[int, int], ...]
    """Character ranges of `text`, one a chunk; at least one, together all of it."""

    @property
    def sha256(self) -> str:
        """Hash of the text, kept for provenance."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Chunk:
    """A part of a turn, the unit of retrieval; a short turn is one chunk.

    chunk: increasing in the order of arrival, never reused. archived_at: the turn at which forgetting put it away, None
    while it is alive. retrieved_at: the last turn at which a search returned it. pinned: never forgotten.
    """

    chunk: int
    turn: int
    ordinal: int
    session: str
    role: str
    text: str
    time: datetime
    source_id: str
    pinned: bool = False
    archived_at: int | None = None
    retrieved_at: int | None = None


@dataclass(frozen=True, eq=False)
class Marks:
    """What forgetting looks at of many chunks, without their texts; arrays `[n]` in ascending order of the chunks.

    retrieved_at: as of `Chunk`, 0 for never.
    """

    chunks: NDArray[np.int64]
    turns: NDArray[np.int64]
    pinned: NDArray[np.bool_]
    archived: NDArray[np.bool_]
    retrieved_at: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int, bool, bool, int]]) -> Marks:
        """Of chunk, turn, pinned, archived, retrieved_at."""
        table = np.array(list(rows), dtype=np.int64).reshape(-1, 5)
        table = table[np.argsort(table[:, 0], kind="stable")]
        chunks, turns, pinned, archived, retrieved_at = table.T
        return cls(chunks, turns, pinned.astype(np.bool_), archived.astype(np.bool_), retrieved_at)

    def where(self, mask: NDArray[np.bool_]) -> Marks:
        """Of those chunks only for which `mask` `[n]` holds."""
        return Marks(
            self.chunks[mask], self.turns[mask], self.pinned[mask], self.archived[mask], self.retrieved_at[mask]
        )

    def __len__(self) -> int:
        return len(self.chunks)


@dataclass(frozen=True)
class Summary:
    """A piece of Compact Memory and its lineage.

    level 1 summarises turns, level 2 summarises level 1. first_turn..last_turn: what it covers. sources: the turns
    (level 1) or summaries (level 2) that it was made from: erasing any of them drops or remakes it.
    """

    summary: int
    level: int
    text: str
    first_turn: int
    last_turn: int
    sources: tuple[int, ...]
    summarizer: str


@dataclass(frozen=True)
class Session:
    """A conversation: first and last turn, times, and how many turns it has."""

    session: str
    first_turn: int
    last_turn: int
    started: datetime
    ended: datetime
    num_turns: int


@dataclass(frozen=True)
class Hit:
    """A memory that a search found.

    score: what hits are ordered by, comparable within one search only. parts: the terms that add up to it, by name.
    age_turns: turns since it was said.
    """

    text: str
    source_id: str
    score: float
    parts: dict[str, float]
    age_turns: int
    session: str
    role: str
    time: datetime
    turn: int
    chunk: int


@dataclass(frozen=True)
class Stats:
    """Counts and sizes of one user's memory; disk_bytes is None where the store cannot tell.

    encrypted: by us, with a key. A server's disk may be encrypted all the same.
    """

    num_turns: int
    num_sessions: int
    num_chunks: int
    num_archived: int
    num_pinned: int
    num_vectors: int
    num_pending: int
    num_summaries: int
    embedder: str | None
    dim: int | None
    disk_bytes: int | None
    location: str
    user: str
    encrypted: bool = False


@dataclass(frozen=True)
class ForgetReport:
    """What forgetting archived, or restoring brought back: chunk numbers, their salience, and why others stayed."""

    chunks: tuple[int, ...]
    salience: tuple[float, ...]
    num_considered: int
    num_pinned: int
    num_young: int
    dry_run: bool = False


@dataclass(frozen=True)
class Receipt:
    """Proof of an erasure: numbers and names of what is gone, never its content."""

    time: datetime
    selector: dict[str, str]
    turns: tuple[int, ...]
    source_ids: tuple[str, ...]
    chunks: tuple[int, ...]
    summaries_dropped: tuple[int, ...]
    summaries_remade: tuple[int, ...]
    files_rewritten: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """Something `verify` found: what, where, and whether `repair` can mend it without losing anything."""

    kind: str
    detail: str
    repairable: bool


@dataclass(frozen=True)
class VerifyReport:
    """Problems of one user's memory; empty is good."""

    problems: tuple[Problem, ...] = ()
    num_checked: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def utc_now() -> datetime:
    """The current time with its zone: stores keep UTC and refuse naive times."""
    return datetime.now(UTC)
