"""HEMA dialogue memory (arXiv 2504.16754): what was said is kept, found again, summarised, and erased on demand.

with DialogueMemory("memories", user="ada") as memory:
    memory.add("user", "My sister Nora moved to Lyon.")
    memory.search("Where does Nora live?")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from ._memory_core import SAVE_WORDS_EVERY, Progress, logger, new_turn
from ._memory_retention import MemoryRetention
from .budget import Budget
from .compact import Summarizer
from .embedders import DEFAULT_EMBEDDER, Embedder, open_embedder
from .errors import DialogueError, StoreCorrupt
from .prompt import Message, Prompt, compose
from .ranking import RankingWeights
from .records import Hit, Session, Stats, Turn, VerifyReport
from .salience import DEFAULT_POLICY, ForgettingPolicy
from .stores import Key, is_server, open_store
from .stores.sqlite import SQLiteStore
from .tokens import TokenCounter, estimate_tokens
from .transfer import ImportReport, MigrationReport, export_jsonl, import_jsonl, migrate


class DialogueMemory(MemoryRetention):
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
        summary_every_turns: the stretch of turns that is still open is summarised again only after so many new ones;
            1 keeps Compact Memory exact, more saves calls of a summarizer that takes seconds.
        read_only: beside another process that writes.
        key: encrypts a new memory in a directory and opens an encrypted one: a passphrase, or 32 random bytes. Nothing
            opens it again without. Names of users stay readable as names of directories.
        max_exact_chunks: in a directory, up to so many chunks (None: 100,000) the vector index is exact; above, it
            takes a quarter of the memory and its answers are ranked again with the exact vectors.

    Raises:
        StoreLocked, StoreUnavailable, StoreCorrupt, WrongKey: the message says what to do. ValueError: a bad argument.
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
        summary_every_turns: int = 1,
        read_only: bool = False,
        key: Key | None = None,
        max_exact_chunks: int | None = None,
    ) -> None:
        resolved = open_embedder(embedder)
        self._key = key
        store = open_store(
            str(location), user=user, vectors=vectors, read_only=read_only, key=key, max_exact_chunks=max_exact_chunks
        )
        try:
            super().__init__(store, resolved, summarizer, policy, weights, summary_every_turns, read_only)
        except BaseException:
            store.close()
            raise

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
            names = {turn[4] for turn in turns}
            for i, (role, text, own_session, time, source_id) in enumerate(turns):
                session = session if own_session is None else own_session
                default_id = f"turn-{number + i + 1}"
                if source_id is None and (default_id in names or self.store.find_turns(source_id=default_id)):
                    default_id += f"-{uuid4().hex[:8]}"  # a turn of the caller's has that name
                new.append(new_turn(role, text, session, time, source_id, default_id=default_id))
            added = self.store.add_turns(new)
            if forget and added:
                try:
                    self._forget_if_due(added[-1].turn)
                except DialogueError as error:  # the turns are stored, so `add` has not failed
                    logger.warning("forgetting waits for the next turn: %s", error)
            return added

    def index(self, progress: Progress | None = None) -> int:
        """Embed what has no vector of the current embedder, in batches that are durable one by one; how many.

        After many, and without an embedder, words are indexed too, so that the next process finds all at once.
        Raises: EmbedderError: turns and earlier vectors stay as they are, and a later call goes on.
        """
        with self._lock:
            self._writable()
            done = self._index(progress)
            if done >= SAVE_WORDS_EVERY or self.embedder is None:
                self._catch_up()
            return done

    # Reading.

    def search(self, query: str, k: int = 10, *, note_use: bool = True) -> list[Hit]:
        """The k turns that answer the query best, best first; fewer where fewer have anything to do with it.

        Every acknowledged turn is seen. If the embedder fails, the search goes on with words and says so in the log.
        note_use: whether forgetting learns which memories were found.
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
            if note_use and not self.read_only:
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

    # Moving.

    def export(self, path: str | Path, *, vectors: bool = False, progress: Progress | None = None) -> int:
        """Write everything to a file of JSON lines, for its owner's eyes only, in the clear; how many turns.

        vectors: with them `import_` need not embed again; they give away what was said nearly as the text does.
        """
        with self._lock:
            self._open()
            return export_jsonl(self.store, path, vectors=vectors, progress=progress)

    def import_(
        self, source: str | Path | Iterable[bytes], *, revive: bool = False, label: str = "stdin"
    ) -> ImportReport:
        """Add what `export` wrote, or lines of {"role", "text", ...}: every new turn, or none on an error.

        Turns that are there already are passed over; so are those that were erased here, unless `revive`. source: a
        path, or the lines as bytes, named `label` in messages. Other formats: `memarch.dialogue.formats`.
        Raises: OSError; ValueError with the line's number.
        """
        with self._lock:
            self._writable()
            return import_jsonl(self.store, source, revive=revive, label=label)

    def migrate(
        self,
        to: str | Path,
        *,
        vectors: str | None = None,
        key: Key | None = None,
        progress: Progress | None = None,
    ) -> MigrationReport:
        """Copy this memory to another location, as the same user, and compare both; this one stays as it is.

        to, vectors: as `location` and `vectors` of a memory. key: of the copy, so that a plain memory is encrypted;
        None takes this memory's own. The same call goes on with a move that was interrupted.
        Raises: MigrationError if the target holds something else or differs; ValueError if it is this memory's own, or
        if an encrypted memory would be copied to where it cannot be.
        """
        with self._lock:
            self._writable()
            if str(to) == self.store.location or Path(to).resolve() == Path(self.store.location).resolve():
                raise ValueError(f"expected another location than this memory's own; got {to}")
            if self._key is not None and (vectors is not None or is_server(to)):
                raise ValueError(
                    "an encrypted memory is copied to a directory only, without vectors=: to move it to a server, "
                    "export it and import the file there"
                )
            self._flush_retrieved()
            target = open_store(str(to), user=self.user, vectors=vectors, key=self._key if key is None else key)
            try:
                return migrate(self.store, target, progress=progress)
            finally:
                target.close()

    def change_key(self, key: Key) -> None:
        """Encrypt this memory, which has a key already, with another one; `migrate` encrypts a plain one.

        Raises: ValueError for a plain memory; StoreLocked while another process reads: the old key is then in force.
        """
        with self._lock:
            self._writable()
            if not isinstance(self.store, SQLiteStore):
                raise ValueError(f"expected a memory in a directory; {self.store.location} takes no key")
            self.store.change_key(key)
            self._key = key

    # Health.

    def verify(self, *, deep: bool = True) -> VerifyReport:
        """Compare records, vectors and index; changes nothing."""
        with self._lock:
            self._open()
            problems = tuple(self.store.verify(deep=deep))
            try:
                stats = self.store.stats()
            except StoreCorrupt:
                if not problems:
                    raise
                return VerifyReport(problems)  # so damaged that nothing can be counted
            checked = {"turns": stats.num_turns, "chunks": stats.num_chunks, "vectors": stats.num_vectors}
            return VerifyReport(problems, checked)

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

    def __enter__(self) -> DialogueMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
