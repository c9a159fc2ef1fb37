"""Vectors in the records, and the index that serves them.

The records are committed first, the index follows. It remembers the generation it stands for; where that is not the
records' own (a crash, another process wrote, a model change), it is brought in line before the next question.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Protocol, cast

import numpy as np

from memarch.dialogue.errors import DialogueError, StoreUnavailable

from ._checks import check_chunks, check_embedder, check_query, check_vectors
from ._sqlite_database import Database, corrupt, numbers_json
from .base import Floats, Ids, VectorIndex
from .faiss_index import FLAT, SQ8, FaissIndex, erase_file

INDEX_FILE = "vectors.faiss"
MAX_EXACT_CHUNKS = 100_000
_SAMPLE = 20_000
_BATCH = 2000
_ALIVE = "embedded = 1 AND archived_at IS NULL"
_log = logging.getLogger(__name__)


class RemoteIndex(VectorIndex, Protocol):
    """An index that outlives the process, like Milvus, and knows what it stands for."""

    def generation(self) -> int | None:
        """Of the last `flush`; None where it holds nothing of this model."""

    def erase_user(self) -> None:
        """Remove all vectors of this user."""


OpenIndex = Callable[[str, int], RemoteIndex]
"""Opens the index for a model's name and dimension."""


class Vectors:
    """The vectors of one SQLite memory. open_index: a remote index instead of FAISS.

    Up to `max_exact` chunks alive the FAISS index is exact. Above, it keeps 8 bits a number, and what it finds is
    ranked again with the vectors of the records: a quarter of the memory, less time, cosines are exact as before.
    Beside encrypted records the FAISS index is never saved, but made anew from them: vectors tell what was said.
    """

    def __init__(self, db: Database, open_index: OpenIndex | None = None, *, max_exact: int = MAX_EXACT_CHUNKS) -> None:
        self._db, self._open_index, self._max_exact = db, open_index, max_exact
        self.path = db.path.with_name(INDEX_FILE)
        self._saved_at = None if db.encrypted else self.path
        self._index: VectorIndex | None = None
        self._stands_for: tuple[int, int] | None = None  # generation, model

    def current(self) -> tuple[int, str, int] | None:
        """Number, name and dimension of the current model."""
        row = self._db.row("SELECT models.model, name, dim FROM state JOIN models ON models.model = state.model")
        return None if row is None else (row[0], row[1], row[2])

    def use_embedder(self, name: str, dim: int) -> None:
        """See `Store.use_embedder`."""
        check_embedder(name, dim)
        with self._db.lock:
            before = self.current()
            if before is not None and before[1:] == (name, dim):
                return
            with self._db.transaction() as connection:
                connection.execute("INSERT OR IGNORE INTO models (name, dim) VALUES (?, ?)", (name, dim))
                (model,) = connection.execute(
                    "SELECT model FROM models WHERE (name, dim) = (?, ?)", (name, dim)
                ).fetchone()
                connection.execute("UPDATE state SET model = ?, generation = generation + 1", (model,))
                connection.execute(
                    "UPDATE chunks SET embedded = EXISTS "
                    "(SELECT 1 FROM vectors WHERE vectors.chunk = chunks.chunk AND vectors.model = ?)",
                    (model,),
                )
            self._forget_index()

    def put(self, chunks: Ids, vectors: Floats) -> None:
        """See `Store.put_vectors`."""
        with self._db.lock:
            if (model := self.current()) is None:
                raise ValueError("expected use_embedder(name, dim) before put_vectors: vectors belong to a model")
            chunks, vectors = check_vectors(chunks, vectors, model[2])
            if len(chunks) == 0:
                return
            self._drop_replaced(chunks)
            with self._db.transaction() as connection:
                there = dict(
                    connection.execute(
                        "SELECT chunk, archived_at IS NULL FROM chunks WHERE chunk IN (SELECT value FROM json_each(?))",
                        (numbers_json(chunks),),
                    )
                )
                connection.executemany(
                    "INSERT OR REPLACE INTO vectors (chunk, model, vector) VALUES (?, ?, ?)",
                    (
                        (chunk, model[0], vector.astype("<f4").tobytes())
                        for chunk, vector in zip(chunks.tolist(), vectors, strict=True)
                        if chunk in there
                    ),
                )
                connection.executemany("UPDATE chunks SET embedded = 1 WHERE chunk = ?", ((chunk,) for chunk in there))
                connection.execute("UPDATE state SET generation = generation + 1")
            alive = np.array([there.get(chunk, 0) == 1 for chunk in chunks.tolist()])
            self._follow(lambda index: index.add(chunks[alive], vectors[alive]))

    def _drop_replaced(self, chunks: Ids) -> None:
        """Bringing a remote index in line compares numbers, so what will get another vector must not be there."""
        if self._open_index is None or self._db.read_only:
            return
        replaced = np.intersect1d(chunks, self.alive_ids())
        if len(replaced) and (index := self._in_line()) is not None:
            index.remove(replaced)

    def get(self, chunks: Ids) -> tuple[Ids, Floats]:
        """See `Store.get_vectors`."""
        model = self.current()
        wanted = np.sort(check_chunks(chunks)).tolist()
        if model is None:
            return np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32)
        found, blobs = [], []
        for start in range(0, len(wanted), _BATCH):
            rows = self._db.rows(
                "SELECT chunk, vector FROM vectors WHERE model = ? AND chunk IN (SELECT value FROM json_each(?)) "
                "ORDER BY chunk",
                (model[0], json.dumps(wanted[start : start + _BATCH])),
            )
            found += [row[0] for row in rows]
            blobs += [row[1] for row in rows]
        return np.array(found, dtype=np.int64), self._matrix(blobs, model[2])

    def nearest(self, query: Floats, k: int) -> tuple[Ids, Floats]:
        """See `Store.nearest`."""
        with self._db.lock:
            if (model := self.current()) is None:
                if k < 1:
                    raise ValueError(f"k must be at least 1; got {k}")
                return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
            query = check_query(query, k, model[2])
            if (index := self._in_line()) is None:
                return self._scan(query, k)
            if isinstance(index, FaissIndex) and index.kind == SQ8:
                return self._rank_again(query, index.search(query, k + k // 2 + 32)[0], k)
            chunks, cosines = index.search(query, k)
            if self._open_index is None or len(chunks) == 0:
                return chunks, cosines
            # A remote index may lag behind what another process erased or archived.
            alive = self._db.rows(
                f"SELECT chunk FROM chunks WHERE {_ALIVE} AND chunk IN (SELECT value FROM json_each(?))",
                (numbers_json(chunks),),
            )
            keep = np.isin(chunks, [row[0] for row in alive])
            return chunks[keep], cosines[keep]

    def _rank_again(self, query: Floats, chunks: Ids, k: int) -> tuple[Ids, Floats]:
        """The nearest of these by their own vectors; of 200k clustered ones, k + 64 held the true k = 200."""
        chunks, vectors = self.get(chunks)
        cosines = vectors @ query
        best = np.argsort(-cosines, kind="stable")[:k]
        return chunks[best], cosines[best]

    def _scan(self, query: Floats, k: int) -> tuple[Ids, Floats]:
        """The nearest by reading all: for a reader whose remote index its writer has not brought in line."""
        batches = [(chunks, vectors @ query) for chunks, vectors in self.alive()]
        chunks = np.concatenate([np.empty(0, np.int64), *(each for each, _ in batches)])
        cosines = np.concatenate([np.empty(0, np.float32), *(each for _, each in batches)])
        best = np.argsort(-cosines, kind="stable")[:k]
        return chunks[best], cosines[best]

    def archive(self, chunks: Ids, turn: int) -> None:
        """See `Store.archive`."""
        self._set_archived(chunks, turn)
        self._follow(lambda index: index.remove(chunks))

    def restore(self, chunks: Ids) -> None:
        """See `Store.restore`."""
        with self._db.lock:
            self._set_archived(chunks, None)
            self._follow(lambda index: index.add(*self.get(chunks)))

    def _set_archived(self, chunks: Ids, turn: int | None) -> None:
        wanted = "archived_at IS NULL" if turn is not None else "archived_at IS NOT NULL"
        with self._db.transaction() as connection:
            connection.execute(
                f"UPDATE chunks SET archived_at = ? WHERE {wanted} AND chunk IN (SELECT value FROM json_each(?))",
                (turn, numbers_json(check_chunks(chunks))),
            )
            connection.execute("UPDATE state SET generation = generation + 1")

    def alive(self) -> Iterator[tuple[Ids, Floats]]:
        """Current vectors of the chunks that are alive, in batches."""
        model, after = self.current(), 0
        while model is not None:
            rows = self._db.rows(
                "SELECT chunk, vector FROM vectors JOIN chunks USING (chunk) WHERE model = ? AND archived_at IS NULL "
                "AND chunk > ? ORDER BY chunk LIMIT ?",
                (model[0], after, _BATCH),
            )
            if not rows:
                return
            after = rows[-1][0]
            yield np.array([row[0] for row in rows], dtype=np.int64), self._matrix([row[1] for row in rows], model[2])

    def alive_ids(self) -> Ids:
        """Numbers of the chunks that the index must hold, ascending."""
        return np.array(
            [row[0] for row in self._db.rows(f"SELECT chunk FROM chunks WHERE {_ALIVE} ORDER BY chunk")], np.int64
        )

    def index_ids(self) -> Ids:
        """Numbers that the index holds, after bringing it in line."""
        with self._db.lock:
            index = self._in_line()
            return self.alive_ids() if index is None else index.ids()

    def erase(self, chunks: Ids, *, everything: bool = False) -> tuple[str, ...]:
        """Take these, already gone from the records, out of the index and of its file; names of rewritten files."""
        with self._db.lock:
            if self._open_index is None:
                self._follow(lambda index: index.remove(chunks))
                try:
                    files = erase_file(self.path)
                except OSError as error:
                    raise StoreUnavailable(f"{self.path} could not be erased ({error}): make it writable") from error
            elif (index := self._in_line()) is not None:
                index.remove(chunks)
                if everything:
                    cast(RemoteIndex, index).erase_user()
                files = index.erase()
            else:
                files = ()
            self._try_to_flush()
            return files

    def rebuild(self) -> None:
        """Make the index anew from the records."""
        with self._db.lock:
            if self._open_index is None:
                self._forget_index()
                erase_file(self.path)
                self._in_line()
            elif (index := self._in_line()) is not None:
                index.remove(index.ids())
                for chunks, vectors in self.alive():
                    index.add(chunks, vectors)
            self._try_to_flush()

    def flush(self) -> None:
        """Save the index, if this process used it and may write."""
        with self._db.lock:
            if self._index is None or self._stands_for is None or self._db.read_only:
                return
            if self._stands_for[0] == self._generation():
                self._index.flush(self._stands_for[0])

    def close(self) -> None:
        """Save and release; a cache that cannot be saved is left to be rebuilt."""
        self._try_to_flush()
        self._forget_index()

    def _try_to_flush(self) -> None:
        try:
            self.flush()
        except DialogueError as error:
            _log.warning("%s", error)

    def _forget_index(self) -> None:
        if self._index is not None:
            self._index.close()
        self._index = self._stands_for = None

    def _follow(self, change: Callable[[VectorIndex], None]) -> None:
        """Apply to a loaded index what was just committed; if that fails, it is brought in line at its next use."""
        if self._index is None or self._stands_for is None:
            return
        if self._stands_for[0] + 1 != self._generation():  # it missed something else: this step alone will not do
            self._forget_index()
            return
        try:
            change(self._index)
        except DialogueError as error:
            _log.warning("the index lags behind the records: %s", error)
            self._forget_index()
        else:
            self._stands_for = (self._stands_for[0] + 1, self._stands_for[1])

    def _generation(self) -> int:
        return int(self._db.value("SELECT generation FROM state"))

    def _in_line(self) -> VectorIndex | None:
        model = self.current()
        if model is None:
            return None
        wanted = (self._generation(), model[0])
        if self._stands_for == wanted and not self._has_outgrown():
            return self._index
        self._forget_index()
        if self._open_index is None:
            self._index = self._load_faiss(wanted[0], model[1], model[2])
        else:
            self._index = self._sync(self._open_index(model[1], model[2]), wanted[0])
        self._stands_for = wanted
        return self._index

    def _load_faiss(self, generation: int, name: str, dim: int) -> FaissIndex:
        count = self._db.value(f"SELECT count(*) FROM chunks WHERE {_ALIVE}")
        index, kinds = None, self._kinds(count)
        if self._saved_at is not None:
            index = FaissIndex.load(
                self._saved_at, dim=dim, model=name, generation=generation, count=count, kinds=kinds
            )
        if index is None:
            index = FaissIndex(
                dim, model=name, path=self._saved_at, sample=None if kinds[0] == FLAT else self._sample()
            )
            for chunks, vectors in self.alive():
                index.add(chunks, vectors)
        return index

    def _kinds(self, count: int) -> tuple[str, ...]:
        """Kinds that will do for so many chunks, the one to build first. At the border not every erasure changes it."""
        if count > self._max_exact:
            return (SQ8,)
        return (FLAT, SQ8) if count > self._max_exact // 2 else (FLAT,)

    def _has_outgrown(self) -> bool:
        index = self._index
        return isinstance(index, FaissIndex) and index.kind not in self._kinds(len(index))

    def _sample(self) -> Floats:
        """Vectors of chunks spread evenly over those alive."""
        alive = self.alive_ids()
        return self.get(alive[:: max(1, len(alive) // _SAMPLE)])[1]

    def _sync(self, index: RemoteIndex, generation: int) -> RemoteIndex | None:
        """Add what the remote index lacks, remove what it holds too much, unless it stands for this generation.

        None for a reader that would miss something: it may not write, its writer brings the index in line.
        """
        try:
            if index.generation() == generation:
                return index
            held, wanted = index.ids(), self.alive_ids()
            if self._db.read_only:
                if np.isin(wanted, held).all():
                    return index
                index.close()
                return None
            index.remove(np.setdiff1d(held, wanted))
            for chunks, vectors in self.alive():
                lacking = ~np.isin(chunks, held)
                index.add(chunks[lacking], vectors[lacking])
            return index
        except DialogueError:
            index.close()
            raise

    def _matrix(self, blobs: list[bytes], dim: int) -> Floats:
        if any(len(blob) != 4 * dim for blob in blobs):
            raise corrupt(self._db.path, f"a vector has not {dim} dimensions")
        return np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(blobs), dim).astype(np.float32)
