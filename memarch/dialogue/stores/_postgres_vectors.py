"""Vectors in PostgreSQL: kept in a pgvector column, which also serves them unless a remote index (Milvus) does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np

from memarch.dialogue.errors import DialogueError

from ._checks import check_chunks, check_embedder, check_query, check_vectors
from ._postgres_connection import PostgresConnection
from ._sqlite_vectors import OpenIndex, RemoteIndex
from .base import Floats, Ids

_BATCH = 2000
_log = logging.getLogger(__name__)


class PostgresVectors:
    """The vectors of one user. open_index: a remote index that serves them instead of pgvector.

    The records are committed first, a remote index follows. It remembers the generation that it stands for; where that
    is not the records' own, it is brought in line before the next question.
    """

    def __init__(self, db: PostgresConnection, open_index: OpenIndex | None) -> None:
        self._db, self._open_index = db, open_index
        self._index: RemoteIndex | None = None
        self._stands_for: tuple[int, int] | None = None  # generation, model

    def current(self) -> tuple[int, str, int] | None:
        """Number, name and dimension of the current model."""
        rows = self._db.rows(
            "SELECT model, models.name, dim FROM users JOIN models USING (model) WHERE owner = %(owner)s"
        )
        return (rows[0][0], rows[0][1], rows[0][2]) if rows else None

    def use_embedder(self, name: str, dim: int) -> None:
        """See `Store.use_embedder`."""
        check_embedder(name, dim)
        with self._db.lock:
            before = self.current()
            if before is not None and before[1:] == (name, dim):
                return
            with self._db.writing(vectors=True) as (connection, owner):
                connection.execute("INSERT INTO models (name, dim) VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, dim))
                connection.execute(
                    "UPDATE users SET model = (SELECT model FROM models WHERE (name, dim) = (%s, %s)) WHERE owner = %s",
                    (name, dim, owner),
                )
                connection.execute(MARK_EMBEDDED, {"owner": owner})
            self.forget()

    def put(self, chunks: Ids, vectors: Floats) -> None:
        """See `Store.put_vectors`."""
        with self._db.lock:
            if (model := self.current()) is None:
                raise ValueError("expected use_embedder(name, dim) before put_vectors: vectors belong to a model")
            chunks, vectors = check_vectors(chunks, vectors, model[2])
            if len(chunks) == 0:
                return
            self._drop_replaced(chunks)
            with self._db.writing(vectors=True) as (connection, owner):
                there = dict(
                    connection.execute(
                        "UPDATE chunks SET embedded = true WHERE owner = %s AND chunk = ANY (%s) "
                        "RETURNING chunk, archived_at IS NULL",
                        (owner, chunks.tolist()),
                    ).fetchall()
                )
                with connection.cursor() as cursor:
                    cursor.executemany(
                        "INSERT INTO vectors (owner, chunk, model, alive, vector) VALUES (%s, %s, %s, %s, %b) "
                        "ON CONFLICT (owner, chunk) DO UPDATE SET model = excluded.model, alive = excluded.alive, "
                        "vector = excluded.vector",
                        [
                            (owner, chunk, model[0], there[chunk], vector)
                            for chunk, vector in zip(chunks.tolist(), vectors, strict=True)
                            if chunk in there  # others were erased meanwhile
                        ],
                    )
            alive = np.array([there.get(chunk, False) for chunk in chunks.tolist()])
            self._follow(lambda index: index.add(chunks[alive], vectors[alive]))

    def _drop_replaced(self, chunks: Ids) -> None:
        """Bringing a remote index in line compares numbers, so what will get another vector must not be there."""
        if self._open_index is None or self._db.read_only:
            return
        replaced = np.intersect1d(chunks, self.alive_ids(among=chunks))
        if len(replaced) and (index := self._in_line()) is not None:
            index.remove(replaced)

    def get(self, chunks: Ids) -> tuple[Ids, Floats]:
        """See `Store.get_vectors`."""
        model = self.current()
        wanted = np.sort(check_chunks(chunks)).tolist()
        if model is None:
            return np.empty(0, np.int64), np.empty((0, 0), np.float32)
        pages = [
            self._db.rows(
                "SELECT chunk, vector FROM vectors WHERE owner = %(owner)s AND model = %(model)s "
                "AND chunk = ANY (%(wanted)s) ORDER BY chunk",
                {"model": model[0], "wanted": wanted[start : start + _BATCH]},
            )
            for start in range(0, len(wanted), _BATCH)
        ]
        return _arrays([row for page in pages for row in page], model[2])

    def nearest(self, query: Floats, k: int) -> tuple[Ids, Floats]:
        """See `Store.nearest`."""
        with self._db.lock:
            if (model := self.current()) is None:
                if k < 1:
                    raise ValueError(f"k must be at least 1; got {k}")
                return np.empty(0, np.int64), np.empty(0, np.float32)
            query = check_query(query, k, model[2])
            if (index := self._in_line()) is not None:
                chunks, cosines = index.search(query, k)
                # A remote index may lag behind what another process erased or archived.
                keep = np.isin(chunks, self.alive_ids(among=chunks))
                return chunks[keep], cosines[keep]
            # The cast lets the planner use an index over this expression, if somebody made one for the user.
            rows = self._db.rows(
                b"SELECT chunk, vector::vector(%d) <#> %%(query)b AS distance FROM vectors WHERE owner = %%(owner)s "
                b"AND model = %%(model)s AND alive ORDER BY distance, chunk LIMIT %%(k)s" % model[2],
                {"query": query, "model": model[0], "k": k},
            )
            return np.array([row[0] for row in rows], np.int64), -np.array([row[1] for row in rows], np.float32)

    def archive(self, chunks: Ids, turn: int | None) -> None:
        """Put away at this turn, or bring back with None. See `Store.archive` and `Store.restore`."""
        chunks = check_chunks(chunks)
        with self._db.lock:
            with self._db.writing(vectors=True) as (connection, owner):
                values = {"owner": owner, "chunks": chunks.tolist(), "turn": turn}
                connection.execute(
                    "UPDATE chunks SET archived_at = %(turn)s WHERE owner = %(owner)s AND chunk = ANY (%(chunks)s) "
                    "AND (archived_at IS NULL) = (%(turn)s::bigint IS NOT NULL)",
                    values,
                )
                connection.execute(
                    "UPDATE vectors SET alive = %(turn)s::bigint IS NULL WHERE owner = %(owner)s "
                    "AND chunk = ANY (%(chunks)s) AND alive = (%(turn)s::bigint IS NOT NULL)",
                    values,
                )
            if turn is None:
                self._follow(lambda index: index.add(*self.get(chunks)))
            else:
                self._follow(lambda index: index.remove(chunks))

    def alive(self) -> Iterator[tuple[Ids, Floats]]:
        """Current vectors of the chunks that are alive, in batches."""
        model, after = self.current(), 0
        while model is not None:
            rows = self._db.rows(
                "SELECT chunk, vector FROM vectors WHERE owner = %(owner)s AND model = %(model)s AND alive "
                "AND chunk > %(after)s ORDER BY chunk LIMIT %(batch)s",
                {"model": model[0], "after": after, "batch": _BATCH},
            )
            if not rows:
                return
            after = rows[-1][0]
            yield _arrays(rows, model[2])

    def alive_ids(self, *, among: Ids | None = None) -> Ids:
        """Numbers of the chunks that the index must hold, ascending; only these, where some are given."""
        rows = self._db.rows(
            "SELECT chunk FROM chunks WHERE owner = %(owner)s AND embedded AND archived_at IS NULL "
            "AND (%(among)s::bigint[] IS NULL OR chunk = ANY (%(among)s::bigint[])) ORDER BY chunk",
            {"among": None if among is None else among.tolist()},
        )
        return np.array([row[0] for row in rows], np.int64)

    def index_ids(self) -> Ids:
        """Numbers that the index serves."""
        with self._db.lock:
            if self._open_index is not None:
                index = self._in_line()
                return np.empty(0, np.int64) if index is None else index.ids()
            rows = self._db.rows(
                "SELECT chunk FROM vectors JOIN users USING (owner, model) WHERE owner = %(owner)s AND alive "
                "ORDER BY chunk"
            )
            return np.array([row[0] for row in rows], np.int64)

    def erase(self) -> tuple[str, ...]:
        """Take what is no longer in the records out of a remote index and its files; names of rewritten files."""
        with self._db.lock:
            if (index := self._in_line()) is None:
                return ()
            files = index.erase()
            self.try_to_flush()
            return files

    def erase_user(self, owner: int) -> tuple[str, ...]:
        """Take all of this user out of a remote index, by the model of the erased row; names of rewritten files."""
        with self._db.lock:
            self.forget()
            models = self._db.rows(
                "SELECT models.name, dim FROM users JOIN models USING (model) WHERE owner = %(erased)s",
                {"erased": owner},
            )
            if self._open_index is None or not models:
                return ()
            index = self._open_index(*models[0])
            try:
                index.erase_user()
                return index.erase()
            finally:
                index.close()

    def rebuild(self) -> None:
        """Make a remote index anew from the records."""
        with self._db.lock:
            if self._open_index is not None and (index := self._in_line()) is not None:
                index.remove(index.ids())
                for chunks, vectors in self.alive():
                    index.add(chunks, vectors)
                self.try_to_flush()

    def flush(self) -> None:
        """Note in a remote index what it stands for, if this process used it and may write."""
        with self._db.lock:
            if self._index is None or self._stands_for is None or self._db.read_only:
                return
            if self._stands_for[0] == self._db.generation:
                self._index.flush(self._stands_for[0])

    def try_to_flush(self) -> None:
        """A cache that cannot be saved is left to be brought in line."""
        try:
            self.flush()
        except DialogueError as error:
            _log.warning("%s", error)

    def close(self) -> None:
        """Save and release."""
        self.try_to_flush()
        self.forget()

    def forget(self) -> None:
        """Release a remote index; the next use opens it again."""
        if self._index is not None:
            self._index.close()
        self._index = self._stands_for = None

    def _follow(self, change: Callable[[RemoteIndex], None]) -> None:
        """Apply to a remote index what was just committed; if that fails, it is brought in line at its next use."""
        if self._index is None or self._stands_for is None:
            return
        if self._stands_for[0] + 1 != self._db.generation:  # it missed something else: this step alone will not do
            self.forget()
            return
        try:
            change(self._index)
        except DialogueError as error:
            _log.warning("the index lags behind the records: %s", error)
            self.forget()
        else:
            self._stands_for = (self._stands_for[0] + 1, self._stands_for[1])

    def _in_line(self) -> RemoteIndex | None:
        """The remote index as the records have it; None where pgvector serves."""
        model = self.current()
        if model is None or self._open_index is None:
            return None
        wanted = (self._db.value("SELECT generation FROM users WHERE owner = %(owner)s"), model[0])
        if self._stands_for != wanted:
            self.forget()
            self._index = self._open_index(model[1], model[2])
            if self._index.generation() != wanted[0] and not self._sync(self._index):
                self.forget()
            self._stands_for = wanted
        return self._index

    def _sync(self, index: RemoteIndex) -> bool:
        """Add what it lacks, remove what it holds too much; False for a reader, who may not, if it lacks anything."""
        held, wanted = index.ids(), self.alive_ids()
        if self._db.read_only:
            return bool(np.isin(wanted, held).all())
        index.remove(np.setdiff1d(held, wanted))
        for chunks, vectors in self.alive():
            lacking = ~np.isin(chunks, held)
            index.add(chunks[lacking], vectors[lacking])
        return True


MARK_EMBEDDED = (
    "UPDATE chunks SET embedded = NOT embedded WHERE owner = %(owner)s AND embedded <> EXISTS (SELECT 1 FROM vectors "
    "JOIN users USING (owner, model) WHERE owner = chunks.owner AND chunk = chunks.chunk)"
)


def _arrays(rows: list[tuple[int, object]], dim: int) -> tuple[Ids, Floats]:
    vectors = np.empty((len(rows), dim), np.float32)
    for row, (_, vector) in enumerate(rows):
        vectors[row] = vector.to_numpy()  # type: ignore[attr-defined]
    return np.array([row[0] for row in rows], np.int64), vectors
