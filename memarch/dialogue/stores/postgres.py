"""Memories on a PostgreSQL server with pgvector: for many users, several machines, and backups you already have.

    store = PostgresStore("postgresql://memories@db/memories", user="ada")

All users share tables in one schema (`memarch`); the user's number begins every key and is in every statement. One
writer a user, held by an advisory lock that the server drops with the connection; PgBouncer must pool sessions. Vectors
are in a pgvector column of any dimension and are searched exactly, among the user's own rows only: about 12 ms for
10,000 chunks of 384, and in proportion up to 100,000 or so.

There is no HNSW or IVFFlat index on purpose. One over all users would look for the nearest of everybody first and
filter by user then, so that a small memory beside large ones finds little or nothing. A user with very many chunks can
get a partial index of their own, which the planner then uses for this user alone and which answers approximately:

    SELECT owner, model FROM memarch.users WHERE name = 'ada';                  -- say 42, 1
    SELECT DISTINCT tableoid::regclass FROM memarch.vectors WHERE owner = 42;   -- say memarch.vectors_5
    CREATE INDEX ON memarch.vectors_5 USING hnsw ((vector::vector(384)) vector_ip_ops)
        WHERE owner = 42 AND model = 1 AND alive;
    ALTER ROLE memories SET hnsw.ef_search = 400;                               -- at least the k of your searches

What an erasure guarantees. Rows are gone at once for everybody. Before `erase` returns, the user's parts of the tables
are rewritten (VACUUM FULL, which needs their ownership and holds up the other users of the same part, a sixteenth of
all), so that the tables' files hold no byte of the text or vectors once the server has made its next checkpoint; no
sample of them is ever in the planner's statistics. If an older transaction still reads, it says so, and the next open
or `repair` goes on. The write-ahead log, its archive, replicas and backups keep what they hold until the operator
recycles them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from memarch.dialogue.errors import StoreUnavailable
from memarch.dialogue.records import Chunk, Marks, NewTurn, Problem, Receipt, Session, Stats, Summary, Turn

from . import _postgres_records as records
from ._checks import check_chunks, check_name, decode_text
from ._postgres_connection import PostgresConnection
from ._postgres_erasure import erase_everything, erase_turns, finish_erasure, read_receipts
from ._postgres_health import count, find_problems, mend
from ._postgres_vectors import PostgresVectors
from ._sqlite_vectors import OpenIndex
from .base import Floats, Ids

_log = logging.getLogger(__name__)


class PostgresStore:
    """One user's memory on a PostgreSQL server, see `Store`. Threads may share it.

    dsn: as libpq takes it, "postgresql://user:password@host/database" or "host=... dbname=...". open_index: opens a
    remote index (Milvus) for a model's name and dimension; by default pgvector serves the vectors. read_only: opens
    beside a writer and sees what it committed. schema: where the tables are, made at the first opening.

    A connection that broke is opened again by the next call, unless another writer came in between.

    Raises: ValueError for an empty user; StoreLocked while another connection writes, naming it; StoreUnavailable if
    the server is away, a package, pgvector or a right is missing, or the schema is of a newer memarch.
    """

    def __init__(
        self,
        dsn: str,
        *,
        user: str,
        open_index: OpenIndex | None = None,
        read_only: bool = False,
        schema: str = "memarch",
    ) -> None:
        self._db = PostgresConnection(dsn, user=user, schema=schema, read_only=read_only)
        self.user, self.location = user, self._db.location
        self._vectors = PostgresVectors(self._db, open_index)
        if not read_only:
            try:
                finish_erasure(self._db, self._vectors)
            except StoreUnavailable as error:  # which must not bar the door: `verify` tells, too
                _log.warning("an erasure is not finished yet, repair() tries again: %s", error)
            except BaseException:
                self.close()
                raise

    def add_turns(self, turns: Sequence[NewTurn]) -> list[Turn]:
        """See `Store.add_turns`."""
        return records.add_turns(self._db, turns)

    def turns(
        self,
        *,
        numbers: Iterable[int] | None = None,
        session: str | None = None,
        after: int = 0,
        last: int | None = None,
    ) -> Iterator[Turn]:
        """See `Store.turns`."""
        return records.read_turns(self._db, numbers=numbers, session=session, after=after, last=last)

    def chunks(
        self, *, numbers: Iterable[int] | None = None, after: int = 0, archived: bool | None = None
    ) -> Iterator[Chunk]:
        """See `Store.chunks`."""
        return records.read_chunks(self._db, numbers=numbers, after=after, archived=archived)

    def marks(self, *, archived: bool | None = None) -> Marks:
        """See `Store.marks`."""
        return records.read_marks(self._db, archived)

    def find_turns(
        self, *, source_id: str | None = None, turn: int | None = None, session: str | None = None,
        before: datetime | None = None,
    ) -> list[int]:  # fmt: skip
        """See `Store.find_turns`."""
        return records.find_turns(self._db, source_id=source_id, turn=turn, session=session, before=before)

    def sessions(self) -> list[Session]:
        """See `Store.sessions`."""
        return records.read_sessions(self._db)

    def last_turn(self) -> int:
        """See `Store.last_turn`."""
        return int(self._db.value("SELECT last_turn FROM users WHERE owner = %(owner)s") or 0)

    def embedder(self) -> tuple[str, int] | None:
        """See `Store.embedder`."""
        current = self._vectors.current()
        return None if current is None else current[1:]

    def use_embedder(self, name: str, dim: int) -> None:
        """See `Store.use_embedder`."""
        self._vectors.use_embedder(name, dim)

    def without_vector(self, *, limit: int | None = None) -> list[Chunk]:
        """See `Store.without_vector`. Before any embedder nothing waits for one."""
        if self._vectors.current() is None:
            return []
        return list(records.read_chunks(self._db, pending=True, limit=limit))

    def put_vectors(self, chunks: Ids, vectors: Floats) -> None:
        """See `Store.put_vectors`."""
        self._vectors.put(chunks, vectors)

    def get_vectors(self, chunks: Ids) -> tuple[Ids, Floats]:
        """See `Store.get_vectors`."""
        return self._vectors.get(chunks)

    def nearest(self, query: Floats, k: int) -> tuple[Ids, Floats]:
        """See `Store.nearest`."""
        return self._vectors.nearest(query, k)

    def mark_retrieved(self, chunks: Ids, turn: int) -> None:
        """See `Store.mark_retrieved`."""
        wanted = check_chunks(chunks).tolist()
        with self._db.writing() as (connection, owner):
            connection.execute(
                "UPDATE chunks SET retrieved_at = %s WHERE owner = %s AND chunk = ANY (%s)", (turn, owner, wanted)
            )

    def pin(self, chunks: Ids, *, pinned: bool = True) -> None:
        """See `Store.pin`."""
        wanted = check_chunks(chunks).tolist()
        with self._db.writing() as (connection, owner):
            connection.execute(
                "UPDATE chunks SET pinned = %s WHERE owner = %s AND chunk = ANY (%s)", (pinned, owner, wanted)
            )

    def archive(self, chunks: Ids, turn: int) -> None:
        """See `Store.archive`."""
        self._vectors.archive(chunks, turn)

    def restore(self, chunks: Ids) -> None:
        """See `Store.restore`."""
        self._vectors.archive(chunks, None)

    def put_summary(
        self, *, level: int, text: str, first_turn: int, last_turn: int, sources: Sequence[int], summarizer: str,
        replaces: Sequence[int] = (),
    ) -> Summary:  # fmt: skip
        """See `Store.put_summary`."""
        turns = (first_turn, last_turn)
        return records.put_summary(
            self._db, level=level, text=text, turns=turns, sources=sources, summarizer=summarizer, replaces=replaces
        )

    def summaries(self, *, level: int | None = None) -> list[Summary]:
        """See `Store.summaries`."""
        return records.read_summaries(self._db, level)

    def get_setting(self, name: str) -> str | None:
        """See `Store.get_setting`."""
        value: str | None = self._db.value(
            "SELECT value FROM settings WHERE owner = %(owner)s AND name = %(name)s", {"name": name}
        )
        return value

    def put_setting(self, name: str, value: str | None) -> None:
        """See `Store.put_setting`."""
        check_name("a setting's name", name, empty=False)
        if value is not None:
            check_name(f"setting {name!r}", value)
        with self._db.writing() as (connection, owner):
            connection.execute("DELETE FROM settings WHERE owner = %s AND name = %s", (owner, name))
            if value is not None:
                connection.execute(
                    "INSERT INTO settings (owner, name, value) VALUES (%s, %s, %s)", (owner, name, value)
                )

    def get_cache(self, name: str) -> bytes | None:
        """See `Store.get_cache`. None: of several processes one may have missed an erasure and bring its words back."""
        return None

    def put_cache(self, name: str, data: bytes) -> None:
        """See `Store.put_cache`. Keeps nothing."""

    def erase(self, turns: Sequence[int], *, selector: Mapping[str, str]) -> Receipt:
        """See `Store.erase`. StoreUnavailable while an older transaction reads: gone from the records all the same."""
        return erase_turns(self._db, self._vectors, turns, selector)

    def erase_user(self) -> Receipt:
        """See `Store.erase_user`."""
        return erase_everything(self._db, self._vectors)

    def receipts(self) -> list[Receipt]:
        """See `Store.receipts`."""
        return read_receipts(self._db)

    def verify(self, *, deep: bool = True) -> list[Problem]:
        """See `Store.verify`."""
        return find_problems(self._db, self._vectors, deep=deep)

    def repair(self) -> list[Problem]:
        """See `Store.repair`. Bad vectors are dropped, so that they are embedded again."""
        return mend(self._db, self._vectors)

    def stats(self) -> Stats:
        """See `Store.stats`. disk_bytes is that of all users together."""
        return count(self._db, self.embedder())

    def flush(self) -> None:
        """See `Store.flush`."""
        self._vectors.flush()

    def close(self) -> None:
        """See `Store.close`."""
        if not self._db.closed:
            self._vectors.close()
            self._db.close()


def users(dsn: str, *, schema: str = "memarch") -> list[str]:
    """Names of the users with a memory in this database, sorted."""
    db = PostgresConnection(dsn, user=None, schema=schema, read_only=True)
    try:
        rows = db.rows(
            "SELECT name FROM users WHERE EXISTS (SELECT 1 FROM turns WHERE turns.owner = users.owner) "
            "OR EXISTS (SELECT 1 FROM settings WHERE settings.owner = users.owner) "
            "OR EXISTS (SELECT 1 FROM receipts WHERE receipts.owner = users.owner)"
        )
    finally:
        db.close()
    return sorted(decode_text(row[0]) for row in rows)
