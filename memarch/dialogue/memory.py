"""HEMA dialogue memory (arXiv 2504.16754): what was said is kept, found again, summarised, and erased on demand.

with DialogueMemory("memories", user="ada") as memory:
    memory.add("user", "My sister Nora moved to Lyon.")
    memory.search("Where does Nora live?")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import numpy as np

from ._memory_core import MemoryCore, Progress, new_turn
from .budget import Budget
from .compact import Summarizer
from .embedders import DEFAULT_EMBEDDER, Embedder, open_embedder
from .prompt import Message, Prompt, compose
from .ranking import RankingWeights
from .records import ForgetReport, Hit, Receipt, Session, Stats, Turn, VerifyReport
from .salience import DEFAULT_POLICY, ForgettingPolicy, choose
from .stores import open_store
from .tokens import TokenCounter, estimate_tokens

FORGOTTEN_AT = "forgotten_at"


class DialogueMemory(MemoryCore):
    """One user's memory of long dialogues: summaries of everything, and every turn by words and by meaning.

    A turn is durable when `add` returns. Vectors and summaries follow when they are asked for: `search` first embeds
    what has no vector yet, so it sees every turn. All methods may be called from several threads; they take turns.

    Args:
        location: a directory (SQLite and FAISS, one sub-directory a user), or "postgresql://..." (with pgvector).
        user: whose memory. Two users share nothing.
        embedder: a sentence-transformers model's name or folder, an `Embedder`, or "none" to search by words alone.
            Another one than before embeds everything again, at the next search or by `index`.
        vectors: the URI of a Milvus server or file that serves the vectors, instead of the store's own index.
        summarizer: writes Compact Memory; None picks sentences without any model.
        policy: when and what to forget, by itself, every so many turns; None never does.
        weights: numbers of the ranking.
        read_only: beside another process that writes.

    Raises:
        StoreLocked, StoreUnavailable, StoreCorrupt: the message says what to do. ValueError: a bad argument.
    """

    def __init__(
        self,
        location: str | Path,
        *,
        user: str = "default",
        embedder: str | Path | Embedder | None = DEFAULT_EMBEDDER,
        vectors: str | None = None,
        summarizer: Summarizer | None = None,
        policy: ForgettingPolicy | None = DEFAULT_POLICY,
        weights: RankingWeights | None = None,
        read_only: bool = False,
    ) -> None:
        resolved = open_embedder(embedder)
        store = open_store(str(location), user=user, vectors=vectors, read_only=read_only)
        try:
            super().__init__(store, resolved, summarizer, policy, weights, read_only)
        except BaseException:
            store.close()
            raise

    @property
    def user(self) -> str:
        """Whose memory this is."""
        return self.store.user

    # Writing.

    def add(
        self,
        role: str,
        text: str,
        *,
        session: str | None = None,
        time: datetime | None = None,
        source_id: str | None = None,
    ) -> Turn:
        """Store a turn; it is durable on return.

        Args:
            role: "user", "assistant", or a speaker's name.
            session: None goes on with the latest turn's session ("1" in an empty memory).
            time: when it was said, with its zone; None is now.
            source_id: your name of the turn, unique per user; None makes one of the turn's number.

        Raises: ValueError (a taken source_id, a naive time, an empty role, text that is no str): nothing is stored.
        """
        return self.add_all([(role, text, session, time, source_id)])[0]

    def add_all(
        self, turns: Sequence[tuple[str, str, str | None, datetime | None, str | None]], *, forget: bool = True
    ) -> list[Turn]:
        """`add` of several (role, text, session, time, source_id) in one transaction: all or none."""
        with self._lock:
            self._writable()
            self._flush_retrieved()
            number = self.store.last_turn()
            session = self._latest_session(number)
            new = []
            for i, (role, text, own_session, time, source_id) in enumerate(turns):
                session = session if own_session is None else own_session
                default_id = f"turn-{number + i + 1}"
                if source_id is None and self.store.find_turns(source_id=default_id):
                    default_id += f"-{uuid4().hex[:8]}"  # an imported turn has that name
                new.append(new_turn(role, text, session, time, source_id, default_id=default_id))
            added = self.store.add_turns(new)
            self._catch_up()
            if forget and self.policy is not None and added:
                last = int(self.store.get_setting(FORGOTTEN_AT) or 0)
                if self.policy.is_due(added[-1].turn, last):
                    self.forget()
            return added

    def index(self, progress: Progress | None = None) -> int:
        """Embed what has no vector of the current embedder, in batches that are durable one by one; how many.

        Raises: EmbedderError: turns and earlier vectors stay as they are, and a later call goes on.
        """
        with self._lock:
            self._writable()
            return self._index(progress)

    # Reading.

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """The k turns that answer the query best, best first; fewer where fewer have anything to do with it.

        Every acknowledged turn is seen. If the embedder fails, the search goes on with words and says so in the log.
        Raises: ValueError if k < 1 or the query is no str.
        """
        if not isinstance(query, str):
            raise ValueError(f"query must be a str; got {type(query).__name__}")
        with self._lock:
            self._open()
            self._catch_up()
            now = self.store.last_turn()
            vector = self._query_vector(query)
            ranked = self._ranker.rank(
                query,
                k,
                query_vector=vector,
                nearest=None if vector is None else self.store.nearest,
                vectors=None if vector is None else self.store.get_vectors,
                salience=self._salience(now),
            )
            found = {chunk.chunk: chunk for chunk in self.store.chunks(numbers=[r.chunk for r in ranked])}
            hits = []
            for r in ranked:
                chunk = found.get(r.chunk)
                if chunk is None or chunk.archived_at is not None:
                    continue  # another process erased or archived it
                hits.append(
                    Hit(
                        text=chunk.text,
                        source_id=chunk.source_id,
                        score=r.score,
                        parts=r.parts,
                        age_turns=now - chunk.turn,
                        session=chunk.session,
                        role=chunk.role,
                        time=chunk.time,
                        turn=chunk.turn,
                        chunk=chunk.chunk,
                    )
                )
            if not self.read_only:
                self._retrieved.setdefault(now, set()).update(hit.chunk for hit in hits)
            return hits

    def compose(
        self,
        message: str,
        budget_tokens: int = 3500,
        *,
        system: str = "",
        session: str | None = None,
        budget: Budget | None = None,
        num_retrieved: int = 20,
        num_recent: int = 8,
        count_tokens: TokenCounter = estimate_tokens,
        count_prompt: Callable[[list[Message]], int] | None = None,
    ) -> Prompt:
        """The messages that answer `message` with this memory, never over the budget, and a report of every part.

        budget: how parts share `budget_tokens`, which replaces its own figure. session: whose last `num_recent` turns
        are shown; None is the latest. See `memarch.dialogue.prompt.compose`.
        Raises: ValueError if system prompt and message alone are over the budget.
        """
        with self._lock:
            hits = self.search(message, num_retrieved) if num_retrieved else []
            if session is None:
                session = self._latest_session(self.store.last_turn())
            return compose(
                message,
                system=system,
                compact=self.summary(),
                hits=hits,
                recent=list(self.store.turns(session=session, last=num_recent)) if num_recent else (),
                budget=replace(budget or Budget(), tokens=budget_tokens),
                count_tokens=count_tokens,
                count_prompt=count_prompt,
            )

    def summary(self) -> str:
        """Compact Memory brought up to date: one line a summary, oldest first."""
        with self._lock:
            self._open()
            if not self.read_only:
                self._compact.update()
            return self._compact.text()

    def turns(self, *, session: str | None = None, last: int | None = None) -> list[Turn]:
        """What was said, in order: of a session, or the latest so many."""
        with self._lock:
            self._open()
            return list(self.store.turns(session=session, last=last))

    def sessions(self) -> list[Session]:
        """All sessions in the order of their first turns."""
        with self._lock:
            self._open()
            return self.store.sessions()

    def stats(self) -> Stats:
        """Counts and sizes."""
        with self._lock:
            self._open()
            return self.store.stats()

    # Forgetting: soft. Archived chunks stay in the records until they are erased.

    def forget(self, *, policy: ForgettingPolicy | None = None, dry_run: bool = False) -> ForgetReport:
        """Put the least salient chunks away, out of `search`; `restore` brings them back.

        It runs by itself every `policy.every_turns` turns. dry_run only reports.
        """
        with self._lock:
            self._writable()
            self._flush_retrieved()
            now = self.store.last_turn()
            chosen = policy or self.policy or DEFAULT_POLICY
            report = choose(self.store.chunks(archived=False), now, chosen, dry_run=dry_run)
            if dry_run:
                return report
            if report.chunks:
                self.store.archive(np.array(report.chunks, np.int64), now)
                self._ranker.archive(report.chunks)
            self.store.put_setting(FORGOTTEN_AT, str(now))
            return report

    def restore(self, *, turn: int | None = None, source_id: str | None = None) -> ForgetReport:
        """Bring archived chunks back: of a turn, or all of them."""
        with self._lock:
            self._writable()
            only = None if turn is None and source_id is None else set(self._matching(turn=turn, source_id=source_id))
            chunks = [c.chunk for c in self.store.chunks(archived=True) if only is None or c.turn in only]
            if chunks:
                self.store.restore(np.array(chunks, np.int64))
                self._ranker.restore(chunks)
            return ForgetReport(tuple(chunks), (), len(chunks), 0, 0)

    def pin(self, *, turn: int | None = None, source_id: str | None = None, pinned: bool = True) -> int:
        """Keep a turn from being forgotten, or let it go again; how many chunks. Archived ones come back."""
        with self._lock:
            self._writable()
            if turn is None and source_id is None:
                raise ValueError("pin needs turn= or source_id=")
            turns = set(self._matching(turn=turn, source_id=source_id))
            if not turns:
                raise ValueError(f"there is no turn with turn={turn!r}, source_id={source_id!r} to pin")
            chunks = [c for c in self.store.chunks() if c.turn in turns]
            self.store.pin(np.array([c.chunk for c in chunks], np.int64), pinned=pinned)
            archived = [c.chunk for c in chunks if c.archived_at is not None]
            if pinned and archived:
                self.store.restore(np.array(archived, np.int64))
                self._ranker.restore(archived)
            return len(chunks)

    # Erasure: hard.

    def count(
        self,
        *,
        source_id: str | None = None,
        turn: int | None = None,
        session: str | None = None,
        before: datetime | None = None,
    ) -> int:
        """How many turns `erase` with these selectors would delete (none given: all)."""
        with self._lock:
            self._open()
            return len(self._matching(source_id=source_id, turn=turn, session=session, before=before))

    def erase(
        self,
        *,
        source_id: str | None = None,
        turn: int | None = None,
        session: str | None = None,
        before: datetime | None = None,
        user: str | None = None,
    ) -> Receipt:
        """Delete for good: text, vectors and every summary made of it, from the files too; the receipt lists numbers.

        Selectors are combined: session="3", before=... erases what both name. user= stands alone, must be this memory's
        user, and closes the memory. Summaries that lost a source are remade from what is left.

        Raises: ValueError without a selector, or for another user; nothing is erased.
        """
        with self._lock:
            self._writable()
            given = {"source_id": source_id, "turn": turn, "session": session, "before": before, "user": user}
            selector = {name: _as_text(value) for name, value in given.items() if value is not None}
            if not selector:
                raise ValueError("erase needs a selector: source_id=, turn=, session=, before= or user=")
            if user is not None:
                if user != self.user or len(selector) > 1:
                    raise ValueError(f"user= stands alone and must be this memory's user {self.user!r}; got {selector}")
                receipt = self.store.erase_user()
                self.close()
                return receipt
            turns = self._matching(source_id=source_id, turn=turn, session=session, before=before)
            self._flush_retrieved()
            receipt = self.store.erase(turns, selector=selector)
            self._ranker.remove(receipt.chunks)
            remade = self._compact.remake(receipt)
            return replace(receipt, summaries_remade=tuple(s.summary for s in remade))

    def receipts(self) -> list[Receipt]:
        """Of all erasures, oldest first."""
        with self._lock:
            self._open()
            return self.store.receipts()

    # Health.

    def verify(self, *, deep: bool = True) -> VerifyReport:
        """Compare records, vectors and index; changes nothing."""
        with self._lock:
            self._open()
            stats = self.store.stats()
            checked = {"turns": stats.num_turns, "chunks": stats.num_chunks, "vectors": stats.num_vectors}
            return VerifyReport(tuple(self.store.verify(deep=deep)), checked)

    def repair(self) -> VerifyReport:
        """Mend what can be mended without losing anything; what it mended."""
        with self._lock:
            self._writable()
            mended = tuple(self.store.repair())
            self._fill_ranker()
            return VerifyReport(mended)

    def flush(self) -> None:
        """Save caches; records are always saved."""
        with self._lock:
            self._open()
            if not self.read_only:
                self._flush_retrieved()
            self.store.flush()

    def close(self) -> None:
        """Save caches and let go of the store; closing twice is allowed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                if not self.read_only and self._retrieved:
                    self._flush_retrieved()
            finally:
                self.store.close()

    def __enter__(self) -> DialogueMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _as_text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
