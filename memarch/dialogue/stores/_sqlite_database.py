"""A SQLite connection that is durable, leaves no deleted bytes, may be shared by threads, and has clear errors."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from memarch.dialogue.errors import DialogueError, StoreCorrupt, StoreLocked, StoreUnavailable

from ._sqlite_key import Key, change_key, check_fits, check_key, sqlcipher, sqlite_errors, unlock

BUSY_TIMEOUT_SECONDS = 5.0
_WAL_LIMIT_BYTES = 16 * 2**20
Row = tuple[Any, ...]


class Database:
    """One connection; `lock` is held by whoever uses it.

    WAL with synchronous=FULL: what is committed survives kill -9 and power loss. secure_delete overwrites freed cells.
    key: encrypts all files of the database, see `_sqlite_key`.
    Raises: StoreCorrupt, StoreLocked, StoreUnavailable or WrongKey, never a bare sqlite3 error for what the outside
    world did.
    """

    def __init__(self, path: Path, *, read_only: bool = False, key: Key | None = None) -> None:
        self.path, self.read_only, self.encrypted = path, read_only, key is not None
        self.lock = threading.RLock()
        self._closed = False
        if key is not None:
            check_key(key)
        check_fits(path, has_key=self.encrypted)
        with self.translated():
            self._connection = _connect(path, read_only=read_only, key=key)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite_errors() as error:
            if (ours := _translate(error, self.path, encrypted=self.encrypted)) is None:
                raise
            raise ours from error
        except MemoryError as error:
            if not self.encrypted:
                raise
            raise corrupt(self.path, "a page cannot be decrypted, or memory is short") from error

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection itself. StoreUnavailable once closed."""
        if self._closed:
            raise StoreUnavailable(f"the memory in {self.path.parent} is closed: open it again")
        return self._connection

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of a small result."""
        with self.lock, self.translated():
            return self.connection.execute(sql, parameters).fetchall()

    def row(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """The first row, or None."""
        with self.lock, self.translated():
            cursor = self.connection.execute(sql, parameters)
            found: Row | None = cursor.fetchone()
            cursor.close()
            return found

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first column of the first row, or None."""
        found = self.row(sql, parameters)
        return None if found is None else found[0]

    def page(self, sql: str, parameters: Sequence[Any], *, max_rows: int, max_bytes: int) -> list[Row]:
        """The first rows up to either limit, at least one where there is any: no read transaction stays open."""
        with self.lock, self.translated():
            cursor, page, size = self.connection.execute(sql, parameters), [], 0
            for row in cursor:
                page.append(row)
                size += sum(len(value) for value in row if isinstance(value, bytes))
                if len(page) >= max_rows or size >= max_bytes:
                    break
            cursor.close()
            return page

    def require_writable(self) -> None:
        """StoreUnavailable for a reader."""
        if self.read_only:
            raise StoreUnavailable(f"{self.path.parent} was opened with read_only=True: open it for writing")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it, durably, or nothing."""
        self.require_writable()
        with self.lock, self.translated():
            connection = self.connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite rolls back by itself on some errors
                    connection.execute("ROLLBACK")
                raise

    def compact(self) -> None:
        """Rewrite the file and empty the WAL, so that nothing deleted is left in either.

        Raises: StoreLocked if another connection keeps reading an older state for longer than the busy timeout.
        """
        with self.lock, self.translated():
            self._truncate_wal()
            self.connection.execute("VACUUM")
            self._truncate_wal()

    def change_key(self, key: Key) -> None:
        """Encrypt the file with another key; nothing under the old one is left on return. Expects an encrypted one."""
        check_key(key)
        with self.lock, self.translated():
            self._truncate_wal()  # before anything changes: a reader would keep the old pages in the log
            change_key(self.connection, key)
            self._truncate_wal()

    def _truncate_wal(self) -> None:
        busy = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise StoreLocked(
                f"another connection is reading {self.path}, so erased bytes are still in its log: close that reader, "
                "then repair() or the next open finishes the erasure"
            )

    def close(self) -> None:
        """Close; a second time does nothing."""
        with self.lock:
            if not self._closed:
                self._closed = True
                self._connection.close()


def _connect(path: Path, *, read_only: bool, key: Key | None) -> sqlite3.Connection:
    name = f"file:{quote(str(path.absolute()))}"
    if not read_only:
        connection = _open(f"{name}?mode=rwc", path, key)
        connection.execute("PRAGMA page_size = 8192")  # five vectors of 384 on a page instead of two on half of it
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            connection.close()
            raise StoreUnavailable(f"{path} is on a file system without SQLite's WAL: choose a local directory")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
        return connection
    try:
        connection = _open(f"{name}?mode=ro", path, key)
        connection.execute("PRAGMA schema_version")
    except sqlite_errors() as error:
        # Reading beside a writer needs a file beside the database. On read-only media there is no writer either.
        if type(error).__name__ != "OperationalError" or Path(f"{path}-wal").exists():
            raise
        connection = _open(f"{name}?mode=ro&immutable=1", path, key)
    return connection


def _open(uri: str, path: Path, key: Key | None) -> sqlite3.Connection:
    driver = sqlite3 if key is None else sqlcipher()
    connection = cast(
        sqlite3.Connection,
        driver.connect(uri, uri=True, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False),
    )
    try:
        if key is not None:
            unlock(connection, key, path)
            connection.execute("PRAGMA temp_store = MEMORY")  # sorting and VACUUM write nothing beside the file
        connection.execute("PRAGMA cache_size = -8000")
    except BaseException:
        connection.close()
        raise
    return connection


def _translate(error: Exception, path: Path, *, encrypted: bool) -> DialogueError | None:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    # SQLCipher has no code of its own for a page of which the checksum is wrong.
    bad_page = encrypted and str(error) == "SQL logic error"
    if bad_page or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return corrupt(path, str(error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLocked(f"{path} is locked by another program ({error}): close it there and try again")
    hint = {
        sqlite3.SQLITE_FULL: "make room on the disk and try again",
        sqlite3.SQLITE_IOERR: "check the disk and try again",
        sqlite3.SQLITE_READONLY: "make it writable, or open it with read_only=True",
        sqlite3.SQLITE_CANTOPEN: "check that the directory exists and its permissions",
        sqlite3.SQLITE_PERM: "check its permissions",
    }.get(code)
    return None if hint is None else StoreUnavailable(f"{path}: {error}; nothing was changed: {hint}")


def corrupt(path: Path, detail: str) -> StoreCorrupt:
    """The error for damaged records, with what to do."""
    return StoreCorrupt(
        f"{path} is damaged ({detail}): try `memarch memory repair`, or move it away and restore from an export"
    )


def numbers_json(numbers: Iterable[int]) -> str:
    """Numbers as one parameter for `IN (SELECT value FROM json_each(?))`."""
    return json.dumps(sorted({int(number) for number in numbers}))
