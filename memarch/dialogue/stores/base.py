"""What a store of dialogue memories must do: the contract that tests/dialogue/stores/test_contract.py checks.

A store holds ONE user's memory: two users never share an object, so nothing can be asked without naming whose it is.
It has two parts. `Store` keeps the records (SQLite or PostgreSQL) and is the only truth; `VectorIndex` (FAISS,
pgvector, Milvus) answers nearest-neighbour questions and can be rebuilt from the records at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memarch.dialogue.records import Chunk, Marks, NewTurn, Problem, Receipt, Session, Stats, Summary, Turn

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class VectorIndex(Protocol):
    """Unit vectors of one user's chunks that are alive, by chunk number. A cache: losing it loses nothing."""

    dim: int

    def add(self, chunks: Ids, vectors: Floats) -> None:
        """Insert or replace; vectors `[n, dim]`, unit length."""

    def remove(self, chunks: Ids) -> None:
        """Forget these; unknown numbers are ignored."""

    def search(self, query: Floats, k: int) -> tuple[Ids, Floats]:
        """The k chunks nearest to `query` `[dim]`, best first, and their cosines; all where there are fewer."""

    def ids(self) -> Ids:
        """All chunk numbers it holds, ascending."""

    def flush(self, generation: int) -> None:
        """Make the cache durable where it is a file, as of this generation of the records."""

    def erase(self) -> tuple[str, ...]:
        """Rewrite whatever is on disk so that no byte of a removed vector is left; names of rewritten files."""

    def close(self) -> None:
        """Release files and connections."""


class Store(Protocol):
    """One user's records. Every method that writes is one transaction: durable when it returns, or nothing changed."""

    user: str
    location: str

    # Turns and chunks.
    def add_turns(self, turns: Sequence[NewTurn]) -> list[Turn]:
        """Append in order; durable on return. ValueError if a source_id is taken (none is then added).

        Any text comes back as it was, NUL and lone surrogates too; session, role and source_id may hold neither.
        """

    def turns(
        self,
        *,
        numbers: Iterable[int] | None = None,
        session: str | None = None,
        after: int = 0,
        last: int | None = None,
    ) -> Iterator[Turn]:
        """In ascending order: these numbers, of this session, later than `after`; `last` keeps the latest so many."""

    def chunks(
        self, *, numbers: Iterable[int] | None = None, after: int = 0, archived: bool | None = None
    ) -> Iterator[Chunk]:
        """In ascending order, streamed. archived: None all, False those alive, True those put away."""

    def marks(self, *, archived: bool | None = None) -> Marks:
        """What forgetting looks at of all chunks, in one query and without texts. archived: as of `chunks`."""

    def find_turns(
        self, *, source_id: str | None = None, turn: int | None = None, session: str | None = None,
        before: datetime | None = None,
    ) -> list[int]:  # fmt: skip
        """Numbers of the turns that match all given selectors (none given: all turns)."""

    def sessions(self) -> list[Session]:
        """In the order of their first turns."""

    def last_turn(self) -> int:
        """Number of the latest turn ever added, 0 before any. Erased numbers are not given again."""

    # Vectors: kept with the records, served by `vectors`.
    def embedder(self) -> tuple[str, int] | None:
        """Name and dimension of the model whose vectors are current; None before any."""

    def use_embedder(self, name: str, dim: int) -> None:
        """Make this model current. Vectors of another stay until `put_vectors` replaces them, but are not served."""

    def without_vector(self, *, limit: int | None = None) -> list[Chunk]:
        """Chunks (archived too) that have no vector of the current model, oldest first; none before any model."""

    def put_vectors(self, chunks: Ids, vectors: Floats) -> None:
        """Store unit vectors `[n, dim]` of the current model, update the index; chunks erased meanwhile are ignored."""

    def get_vectors(self, chunks: Ids) -> tuple[Ids, Floats]:
        """Stored current vectors of these chunks: numbers found, ascending, and `[n, dim]`."""

    def nearest(self, query: Floats, k: int) -> tuple[Ids, Floats]:
        """`VectorIndex.search` among this user's chunks that are alive; empty before any vector."""

    # Retention.
    def mark_retrieved(self, chunks: Ids, turn: int) -> None:
        """Note that a search at this turn returned these chunks."""

    def pin(self, chunks: Ids, *, pinned: bool = True) -> None:
        """Pin or unpin."""

    def archive(self, chunks: Ids, turn: int) -> None:
        """Put away at this turn: out of `nearest`, kept in the records."""

    def restore(self, chunks: Ids) -> None:
        """Bring back what `archive` put away."""

    # Compact Memory.
    def put_summary(
        self, *, level: int, text: str, first_turn: int, last_turn: int, sources: Sequence[int], summarizer: str,
        replaces: Sequence[int] = (),
    ) -> Summary:  # fmt: skip
        """Add a summary, in the same transaction dropping those it replaces. ValueError if a source is gone.

        Summaries above a replaced one stay, and an erasure still finds them by the turns it went back to.
        """

    def summaries(self, *, level: int | None = None) -> list[Summary]:
        """In the order of their first turns."""

    # Settings that belong to a memory.
    def get_setting(self, name: str) -> str | None:
        """A setting by name."""

    def put_setting(self, name: str, value: str | None) -> None:
        """Store a setting; None deletes it."""

    # Caches: what was made of texts and can be made again.
    def get_cache(self, name: str) -> bytes | None:
        """What `put_cache` kept. None at any time: after an erasure or a repair, or always in stores that keep none."""

    def put_cache(self, name: str, data: bytes) -> None:
        """Keep this until something is erased. Of what is erased, `data` must not hold anything."""

    # Erasure and health.
    def erase(self, turns: Sequence[int], *, selector: Mapping[str, str]) -> Receipt:
        """Delete turns, their chunks, vectors and every summary with one of them in its lineage, and leave no byte.

        The receipt (numbers and names only) is kept as a tombstone, unless none of the turns exists. It is durable, and
        the bytes are gone, on return; a crash in between is finished by the next open.
        """

    def erase_user(self) -> Receipt:
        """Erase everything of this user, settings and tombstones too; numbers begin anew."""

    def receipts(self) -> list[Receipt]:
        """Tombstones, oldest first."""

    def verify(self, *, deep: bool = True) -> list[Problem]:
        """Compare records, vectors and index; deep also checks hashes and the database's own integrity."""

    def repair(self) -> list[Problem]:
        """Mend what is repairable (rebuild the index, ...); what it mended."""

    def stats(self) -> Stats:
        """Counts and sizes."""

    def flush(self) -> None:
        """Save caches."""

    def close(self) -> None:
        """Save caches, release files, connections and the writer's lock; closing twice is allowed."""
