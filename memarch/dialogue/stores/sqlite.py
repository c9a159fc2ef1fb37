"""The default store: one SQLite file a user is the only truth, with FAISS as a cache beside it.

<directory>/users/<name>/memory.db      records, vectors too (WAL, durable on return, deleted bytes overwritten)
<directory>/users/<name>/vectors.faiss  saved index, rebuilt whenever it does not fit the records
<directory>/users/<name>/writer.lock    held by the one process that writes; writer.pid names it

With a key memory.db is encrypted by SQLCipher and there is no vectors.faiss. A plain user's name stays readable as the
name of the directory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from memarch.dialogue.errors import DialogueError, StoreLocked, StoreUnavailable
from memarch.dialogue.records import Chunk, Marks, NewTurn, Problem, Receipt, Session, Stats, Summary, Turn

from . import _sqlite_records as records
from ._checks import check_chunks, check_name, check_user
from ._sqlite_database import numbers_json
from ._sqlite_erase import erase_everything, erase_turns, finish_erasure
from ._sqlite_home import holds_anything, lock_home, open_database, remove_directory, remove_files, size_of, users
from ._sqlite_key import Key, check_key
from ._sqlite_vectors import MAX_EXACT_CHUNKS, OpenIndex, Vectors
from ._sqlite_verify import DATABASE_FILE, find_problems, mend
from ._user_names import user_directory
from .base import Floats, Ids
from .faiss_index import erase_file, temporary

__all__ = ["MAX_EXACT_CHUNKS", "SQLiteStore", "users"]
_log = logging.getLogger(__name__)


class SQLiteStore:
    """One user's memory below `directory`, see `Store`. Threads may share it.

    open_index: opens a remote index (Milvus) for a model's name and dimension; by default FAISS serves the vectors.
    read_only: opens beside a writer and sees what it committed. An empty memory leaves no files behind when closed.
    key: encrypts a new memory and opens an encrypted one: a passphrase, or 32 random bytes.
    max_exact_chunks: above so many alive the index keeps 8 bits a number and ranks what it found again, see `Vectors`.

    Raises: ValueError for an empty user, or for a key that is none; StoreLocked while another process writes;
    StoreCorrupt for damaged records; WrongKey; StoreUnavailable for a newer schema, missing files or permissions, a
    full disk.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        user: str,
        open_index: OpenIndex | None = None,
        read_only: bool = False,
        key: Key | None = None,
        max_exact_chunks: int = MAX_EXACT_CHUNKS,
    ) -> None:
        if max_exact_chunks < 1:
            raise ValueError(f"max_exact_chunks must be at least 1; got {max_exact_chunks}")
        if key is not None:
            check_key(key)
            if open_index is not None:
                raise ValueError("key= goes with vectors in memory: a vector server keeps them in the clear; drop one")
        self.user, self.location = check_user(user), str(directory)
        self._home = user_directory(directory, user)
        self._closed = False
        self._lock = None if read_only else lock_home(self._home)
        try:
            self._db = open_database(self._home / DATABASE_FILE, user, read_only=read_only, key=key)
        except BaseException:
            if self._lock is not None:
                self._lock.release()
            raise
        self._vectors = Vectors(self._db, open_index, max_exact=max_exact_chunks)
        if not read_only:
            try:
                self._tidy()
            except BaseException:
                self.close()
                raise

    def _tidy(self) -> None:
        """Finish what a crash interrupted. A reader or a full disk must not bar the door: `verify` tells, too."""
        try:
            temporary(self._vectors.path).unlink(missing_ok=True)
            if self._db.encrypted:
                erase_file(self._vectors.path)
            finish_erasure(self._db, self._vectors)
        except (OSError, StoreLocked, StoreUnavailable) as error:
            _log.warning("%s: an erasure is not finished yet, repair() tries again: %s", self._home, error)

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
        return int(self._db.value("SELECT seq FROM sqlite_sequence WHERE name = 'turns'") or 0)

    def embedder(self) -> tuple[str, int] | None:
        """See `Store.embedder`."""
        current = self._vectors.current()
        return None if current is None else current[1:]

    def use_embedder(self, name: str, dim: int) -> None:
        """See `Store.use_embedder`."""
        self._vectors.use_embedder(name, dim)

    def without_vector(self, *, limit: int | None = None) -> list[Chunk]:
        """See `Store.without_vector`. Before any embedder nothing waits for one."""
        return [] if self._vectors.current() is None else records.pending_chunks(self._db, limit)

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
        self._set_on_chunks("retrieved_at", turn, chunks)

    def pin(self, chunks: Ids, *, pinned: bool = True) -> None:
        """See `Store.pin`."""
        self._set_on_chunks("pinned", int(pinned), chunks)

    def _set_on_chunks(self, column: str, value: int, chunks: Ids) -> None:
        wanted = numbers_json(check_chunks(chunks))
        with self._db.transaction() as connection:
            connection.execute(
                f"UPDATE chunks SET {column} = ? WHERE chunk IN (SELECT value FROM json_each(?))", (value, wanted)
            )

    def archive(self, chunks: Ids, turn: int) -> None:
        """See `Store.archive`."""
        self._vectors.archive(chunks, turn)

    def restore(self, chunks: Ids) -> None:
        """See `Store.restore`."""
        self._vectors.restore(chunks)

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
        value: str | None = self._db.value("SELECT value FROM settings WHERE name = ?", (name,))
        return value

    def put_setting(self, name: str, value: str | None) -> None:
        """See `Store.put_setting`."""
        check_name("a setting's name", name, empty=False)
        with self._db.transaction() as connection:
            if value is None:
                connection.execute("DELETE FROM settings WHERE name = ?", (name,))
            else:
                check_name(f"setting {name!r}", value)
                connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    def get_cache(self, name: str) -> bytes | None:
        """See `Store.get_cache`."""
        data: bytes | None = self._db.value("SELECT data FROM caches WHERE name = ?", (name,))
        return data

    def put_cache(self, name: str, data: bytes) -> None:
        """See `Store.put_cache`."""
        with self._db.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO caches (name, data) VALUES (?, ?)", (name, data))

    def erase(self, turns: Sequence[int], *, selector: Mapping[str, str]) -> Receipt:
        """See `Store.erase`. StoreLocked if a reader keeps an older state open: gone from the records all the same."""
        return erase_turns(self._db, self._vectors, turns, selector)

    def erase_user(self) -> Receipt:
        """See `Store.erase_user`. The user's directory goes when the store is closed, unless something was added."""
        return erase_everything(self._db, self._vectors)

    def receipts(self) -> list[Receipt]:
        """See `Store.receipts`."""
        return records.read_receipts(self._db)

    def change_key(self, key: Key) -> None:
        """Encrypt with another key. StoreLocked, with the old key still in force, while somebody reads.

        Raises: ValueError for a memory that is not encrypted.
        """
        self._db.require_writable()
        if not self._db.encrypted:
            raise ValueError(f"expected an encrypted memory; {self._home} is not: migrate(to=..., key=...) encrypts it")
        self._db.change_key(key)

    def verify(self, *, deep: bool = True) -> list[Problem]:
        """See `Store.verify`."""
        return find_problems(self._db, self._vectors, deep=deep)

    def repair(self) -> list[Problem]:
        """See `Store.repair`. Bad vectors are dropped, so that they are embedded again."""
        return mend(self._db, self._vectors)

    def stats(self) -> Stats:
        """See `Store.stats`."""
        embedder = self.embedder()
        count = self._db.value
        return Stats(
            num_turns=count("SELECT count(*) FROM turns"),
            num_sessions=count("SELECT count(DISTINCT session) FROM turns"),
            num_chunks=count("SELECT count(*) FROM chunks"),
            num_archived=count("SELECT count(*) FROM chunks WHERE archived_at IS NOT NULL"),
            num_pinned=count("SELECT count(*) FROM chunks WHERE pinned"),
            num_vectors=count("SELECT count(*) FROM chunks WHERE embedded"),
            num_pending=0 if embedder is None else count("SELECT count(*) FROM chunks WHERE NOT embedded"),
            num_summaries=count("SELECT count(*) FROM summaries"),
            embedder=None if embedder is None else embedder[0],
            dim=None if embedder is None else embedder[1],
            disk_bytes=sum(size_of(path) for path in self._home.iterdir()),
            location=self.location,
            user=self.user,
            encrypted=self._db.encrypted,
        )

    def flush(self) -> None:
        """See `Store.flush`."""
        self._vectors.flush()

    def close(self) -> None:
        """See `Store.close`."""
        with self._db.lock:
            if self._closed:
                return
            self._closed, empty = True, False
            try:
                self._vectors.close()
                empty = self._lock is not None and not holds_anything(self._db)
            except DialogueError as error:  # damaged or unreachable: then nothing is removed
                _log.warning("%s", error)
            finally:
                self._db.close()
                if self._lock is not None:
                    if empty:
                        remove_files(self._home)
                    self._lock.release(remove=empty)
                    if empty:
                        remove_directory(self._home)
