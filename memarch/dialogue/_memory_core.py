"""What a dialogue memory holds open, kept in step: the store, the word index beside it, and the embedder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from threading import RLock

import numpy as np

from .chunking import spans
from .compact import CompactMemory, ExtractiveSummarizer, Summarizer
from .embedders import Embedder, unit_vectors
from .errors import DialogueError, EmbedderError, StoreUnavailable
from .ranking import Floats, Ranker, RankingWeights, embedding_text
from .records import NewTurn, utc_now
from .salience import DEFAULT_POLICY, ForgettingPolicy, salience
from .stores.base import Store

logger = logging.getLogger("memarch")

Progress = Callable[[int, int], None]
"""Called with what is done and how much there is."""

EMBED_BATCH = 256
WORDS = "words"
"""The word index, as a cache of the store."""
SAVE_WORDS_EVERY = 1000
"""So many new chunks, or a twentieth of all, until it is kept again: 50 ms of indexing, for the next process."""
MAX_NAME_CHARS = 200


class MemoryCore:
    """Everything of `DialogueMemory` but its verbs. Methods of this class expect the caller to hold `_lock`."""

    def __init__(
        self,
        store: Store,
        embedder: Embedder | None,
        summarizer: Summarizer | None,
        policy: ForgettingPolicy | None,
        weights: RankingWeights | None,
        summary_every_turns: int,
        read_only: bool,
    ) -> None:
        self.store, self.embedder, self.policy, self.read_only = store, embedder, policy, read_only
        self._lock = RLock()
        self._closed = False
        self._weights = weights
        self._retrieved: dict[int, set[int]] = {}
        self._reported = ""
        self._compact = CompactMemory(store, summarizer or ExtractiveSummarizer(), every_turns=summary_every_turns)
        self._fill_ranker()

    @property
    def user(self) -> str:
        """Whose memory this is."""
        return self.store.user

    def _fill_ranker(self) -> None:
        """Start the word index anew; the next search fills it, so that opening a large memory costs nothing."""
        self._ranker = Ranker(self._weights)
        self._last_chunk = self._num_unsaved = 0

    def _open(self) -> None:
        if self._closed:
            raise ValueError("this memory is closed; open it again with DialogueMemory(location, user=...)")

    def _writable(self) -> None:
        self._open()
        if self.read_only:
            raise StoreUnavailable("this memory was opened with read_only=True; open it without to change it")

    def _catch_up(self) -> None:
        """Make chunks that were stored since findable by words."""
        if not self._last_chunk:
            self._load_words()
        for chunk in self.store.chunks(after=self._last_chunk):
            self._ranker.add(chunk)
            self._last_chunk = chunk.chunk
            self._num_unsaved += 1
        if self._num_unsaved >= max(SAVE_WORDS_EVERY, self._ranker.lexical.num_slots // 20):
            self._save_words()

    def _load_words(self) -> None:
        """Begin with the word index that an earlier process kept, if it is of exactly these chunks."""
        data = self.store.get_cache(WORDS)
        if data is None or not self._ranker.load(data):
            return
        chunks, marks = self._ranker.lexical.chunks, self.store.marks()
        last = int(chunks[-1]) if len(chunks) else 0
        if not np.array_equal(chunks, marks.chunks[marks.chunks <= last]):
            self._fill_ranker()
            return
        self._last_chunk = last
        self._ranker.archive(marks.chunks[marks.archived & (marks.chunks <= last)].tolist())

    def _save_words(self) -> None:
        """Keep the word index in the store, for processes to come."""
        if self.read_only:
            return
        self._num_unsaved = 0
        try:
            self.store.put_cache(WORDS, self._ranker.dump())
        except DialogueError as error:  # a full disk, say: the next process makes it anew
            logger.warning("the word index was not kept: %s", error)

    def _latest_session(self, number: int) -> str:
        latest = list(self.store.turns(last=1)) if number else []
        return latest[0].session if latest else "1"

    def _query_vector(self, query: str) -> Floats | None:
        """The query's vector, after every chunk has one; None where the search must do with words."""
        embedder = self.embedder
        if embedder is None:
            return None
        try:
            if not self.read_only:
                self._index()
            elif self.store.embedder() != (embedder.name, embedder.dim):
                return None
            vector = _vectors_of(embedder, lambda: [embedder.embed_query(query)], 1)[0]
            self._reported = ""
            return vector
        except EmbedderError as error:
            if str(error) != self._reported:
                self._reported = str(error)
                logger.warning("search goes on with words alone: %s", error)
            return None

    def _salience(self, now: int) -> dict[int, float] | None:
        """Salience of the chunks alive, if the ranking uses it."""
        if not self._ranker.weights.salience:
            return None
        marks = self.store.marks(archived=False)
        values = salience(marks.turns, marks.retrieved_at, now, self.policy or DEFAULT_POLICY)
        return dict(zip(marks.chunks.tolist(), values.tolist(), strict=True))

    def _flush_retrieved(self) -> None:
        """Store which chunks searches returned: kept back until the next write, a crash may lose it."""
        for turn, chunks in sorted(self._retrieved.items()):
            if turn and chunks:
                self.store.mark_retrieved(np.array(sorted(chunks), np.int64), turn)
        self._retrieved.clear()

    def _matching(
        self,
        *,
        source_id: str | None = None,
        turn: int | None = None,
        session: str | None = None,
        before: datetime | None = None,
    ) -> list[int]:
        if before is not None:
            check_time("before", before)
        return self.store.find_turns(source_id=source_id, turn=turn, session=session, before=before)

    @staticmethod
    def _is_selected(*selectors: object) -> bool:
        return any(selector is not None for selector in selectors)

    def _index(self, progress: Progress | None = None) -> int:
        """Embed what has no vector of the current embedder, in batches that are durable one by one; how many."""
        if self.embedder is None:
            return 0
        current = (self.embedder.name, self.embedder.dim)
        if self.store.embedder() != current:
            self.store.use_embedder(*current)
            self._ranker.forget_vectors()
        done, total = 0, -1
        while pending := self.store.without_vector(limit=EMBED_BATCH):
            if total < 0 and progress is not None:
                total = len(pending) if len(pending) < EMBED_BATCH else self.store.stats().num_pending
            texts = [embedding_text(chunk.role, chunk.text) for chunk in pending]
            numbers = np.array([chunk.chunk for chunk in pending], np.int64)
            vectors = _vectors_of(self.embedder, partial(self.embedder.embed_documents, texts), len(texts))
            self.store.put_vectors(numbers, vectors)
            done += len(pending)
            if progress is not None:
                progress(done, max(done, total))
        return done

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


def _vectors_of(embedder: Embedder, call: Callable[[], object], num_texts: int) -> Floats:
    """What `call` returns as unit vectors. EmbedderError for whatever goes wrong: an embedder may be anybody's code."""
    try:
        raw = np.asarray(call(), np.float32)
    except EmbedderError:
        raise
    except Exception as error:  # anybody's code may raise anything, and the search goes on without it
        raise EmbedderError(f"{embedder.name} failed: {type(error).__name__}: {error}") from error
    return unit_vectors(raw, num_texts=num_texts, dim=embedder.dim, model=embedder.name)


def new_turn(
    role: str, text: str, session: str, time: datetime | None, source_id: str | None, *, default_id: str
) -> NewTurn:
    if not isinstance(text, str):
        raise ValueError(f"text must be a str; got {type(text).__name__}")
    for name, value in (("role", role), ("session", session), ("source_id", source_id)):
        if value is None and name == "source_id":
            continue
        if not isinstance(value, str) or not value.strip() or len(value) > MAX_NAME_CHARS:
            raise ValueError(f"{name} must be a name of 1 to {MAX_NAME_CHARS} characters; got {str(value)[:80]!r}")
    if time is not None:
        check_time("time", time)
    return NewTurn(
        session=session,
        role=role,
        text=text,
        time=utc_now() if time is None else time,
        source_id=default_id if source_id is None else source_id,
        spans=spans(text),
    )


def check_time(name: str, value: datetime) -> None:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"{name} must be a datetime with its zone, as datetime.now(UTC) gives; got {value!r}")
