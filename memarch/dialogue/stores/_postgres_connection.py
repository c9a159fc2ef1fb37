"""One user's connection to PostgreSQL: holds the writer's lock, is opened again when it broke, and has clear errors."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, LiteralString

from memarch.dialogue.errors import StoreCorrupt, StoreLocked, StoreUnavailable

from ._checks import check_user, encode_text
from ._postgres_schema import NUM_PARTITIONS, PARTITIONED, migrate

if TYPE_CHECKING:
    import psycopg

CONNECT_SECONDS = 10
LOCK_SECONDS = 60
SCRUB_SECONDS = 20.0
# A killed client's backend lets go of its lock as soon as it notices, usually within milliseconds.
LINGER_SECONDS = 1.0


class PostgresConnection:
    """A connection for one user (None: to look at all of them). `lock` is held by whoever uses it.

    The writer's lock is a session-level advisory lock: the server drops it with the connection, however that ends.
    It and the search path belong to the session: PgBouncer must pool sessions, not transactions.
    Raises: StoreUnavailable, StoreLocked or StoreCorrupt for what the outside world did; other errors are bugs.
    """

    def __init__(self, dsn: str, *, user: str | None, schema: str, read_only: bool) -> None:
        if user is not None:
            check_user(user)
        if not schema or "\0" in schema:
            raise ValueError(f"expected the name of a schema, got {schema!r}")
        self.user, self.schema, self.read_only = user or "", schema, read_only
        self.lock = threading.RLock()
        self.name = encode_text(self.user)
        self.generation = 0
        self._dsn = dsn
        self._owner: int | None = None
        self._changes: int | None = None
        self.closed = False
        self._connection: psycopg.Connection | None = None
        self._connection = self._open()
        info = self._connection.info
        self.location = f"postgresql://{info.host}:{info.port}/{info.dbname}?schema={schema}"

    # Opening.
    def _open(self) -> psycopg.Connection:
        try:
            import psycopg
            from pgvector.psycopg import register_vector
        except ImportError as error:
            raise StoreUnavailable(
                f"PostgreSQL needs the package {error.name!r}, which is missing: pip install 'memarch[postgres]'"
            ) from error
        try:
            given: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(self._dsn)
        except psycopg.ProgrammingError as error:  # without the DSN or the error's text: a password may be in it
            raise ValueError(
                "expected a DSN like 'postgresql://user:password@host/database' or 'host=... dbname=...'; "
                "this one cannot be read"
            ) from error
        with self._translated():
            options = {"connect_timeout": CONNECT_SECONDS, "fallback_application_name": "memarch", **given}
            connection = psycopg.connect(**options, autocommit=True)
        try:
            with self._translated():
                self._prepare(connection)
                register_vector(connection)
                migrate(connection, self.schema, read_only=self.read_only)
                if self.read_only:
                    connection.execute("SET default_transaction_read_only = on")
                else:
                    self._lock_writer(connection)
                self._look_up_owner(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: psycopg.Connection) -> None:
        from psycopg import errors, sql

        find = "SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'vector'"
        home = connection.execute(find).fetchone()
        if home is None and not self.read_only:
            try:
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            except errors.UniqueViolation:  # two first openings at once: the other one made it
                pass
            except (errors.InsufficientPrivilege, errors.FeatureNotSupported, errors.UndefinedFile) as error:
                raise StoreUnavailable(
                    f"the database lacks pgvector ({error}): install it on the server, and let an administrator run "
                    "CREATE EXTENSION vector in this database"
                ) from error
            home = connection.execute(find).fetchone()
        if home is None:
            raise StoreUnavailable("the database lacks pgvector: open it once for writing, or CREATE EXTENSION vector")
        path = sql.SQL("SET search_path TO {}, {}").format(sql.Identifier(self.schema), sql.Identifier(home[0]))
        connection.execute(path)
        connection.execute("SET TimeZone TO 'UTC'")
        # Many conditions are optional ("%(x)s IS NULL OR ..."): a plan made for all of them would use no index.
        connection.execute("SET plan_cache_mode TO force_custom_plan")
        connection.execute(f"SET lock_timeout TO '{LOCK_SECONDS}s'".encode())
        # A writer whose machine died without a word lets go of its lock after two minutes, not after two hours.
        connection.execute(
            "SET tcp_keepalives_idle TO 60; SET tcp_keepalives_interval TO 10; SET tcp_keepalives_count TO 6"
        )

    def _lock_writer(self, connection: psycopg.Connection) -> None:
        key = int.from_bytes(
            hashlib.sha256(encode_text(self.schema) + b"\0" + self.name).digest()[:8], "big", signed=True
        )
        end = time.monotonic() + LINGER_SECONDS
        while not _value(connection, "SELECT pg_try_advisory_lock(%s)", (key,)):
            if time.monotonic() > end:
                raise StoreLocked(
                    f"the memory of {self.user!r} is being written by {self._holder(connection, key)}: close it there, "
                    "or open this one with read_only=True"
                )
            time.sleep(0.05)

    def _holder(self, connection: psycopg.Connection, key: int) -> str:
        holder = connection.execute(
            "SELECT a.pid, a.application_name, a.client_addr::text FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
            "WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND classid::bigint = %s AND objid::bigint = %s "
            "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            ((key >> 32) & 0xFFFFFFFF, key & 0xFFFFFFFF),
        ).fetchone()
        if holder is None:
            return "another connection"
        pid, application, address = holder
        return f"backend {pid} of {application or 'an unnamed application'} on {address or 'the server itself'}"

    def _look_up_owner(self, connection: psycopg.Connection) -> None:
        row = connection.execute(
            "SELECT owner, changes, generation FROM users WHERE name = %s", (self.name,)
        ).fetchone()
        if row is None and self.read_only and self.user and self._connection is None:
            raise StoreUnavailable(f"user {self.user!r} has no memory in {self.schema!r}: open it once for writing")
        owner, changes, generation = row or (None, 0, 0)
        if not self.read_only and self._changes not in (None, changes):
            raise StoreUnavailable(
                f"the memory of {self.user!r} changed while the connection was away: another writer came in between, "
                "or the last write was stored and never confirmed. Open it again to see what is there"
            )
        self._owner, self._changes, self.generation = owner, changes, generation

    @property
    def erased_name(self) -> bytes:
        """What stands for the name until the bytes of an erased user are gone."""
        return hashlib.sha256(b"erased\0" + self.name).digest()

    # Using.
    def rows(self, query: LiteralString | bytes, values: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of one statement that reads, in which %(owner)s is the user's number (-1 while the user is new)."""
        import psycopg

        with self.lock, self._translated():
            for attempt in (0, 1):
                connection = self._live()
                try:
                    if self._owner is None:
                        self._look_up_owner(connection)
                    owner = -1 if self._owner is None else self._owner
                    return connection.execute(query, {**(values or {}), "owner": owner}, binary=True).fetchall()
                except psycopg.OperationalError:
                    if attempt or not connection.closed:
                        raise
            raise AssertionError("unreachable")

    def value(self, query: LiteralString | bytes, values: Mapping[str, Any] | None = None) -> Any:
        """The first column of the first row, or None."""
        found = self.rows(query, values)
        return found[0][0] if found else None

    @contextmanager
    def writing(self, *, vectors: bool = False) -> Iterator[tuple[psycopg.Connection, int]]:
        """A transaction that is durable at the end, or nothing of it. vectors: whether it concerns the index."""
        if self.read_only:
            raise StoreUnavailable(f"the memory of {self.user!r} was opened with read_only=True: open it for writing")
        with self.lock, self._translated():
            with ExitStack() as stack:
                connection = self._begin(stack)
                owner = self._owner
                if owner is None:
                    insert = "INSERT INTO users (name) VALUES (%s) RETURNING owner"
                    owner = int(_value(connection, insert, (self.name,)))
                changes, generation = _row(
                    connection,
                    "UPDATE users SET changes = changes + 1, generation = generation + %s WHERE owner = %s "
                    "RETURNING changes, generation",
                    (int(vectors), owner),
                )
                yield connection, owner
            self._owner, self._changes, self.generation = owner, changes, generation

    def _live(self) -> psycopg.Connection:
        if self.closed:
            raise StoreUnavailable(f"the memory of {self.user!r} is closed: open it again")
        if self._connection is None or self._connection.closed:
            self._connection = self._open()
        return self._connection

    def _begin(self, stack: ExitStack) -> psycopg.Connection:
        """BEGIN shows whether the connection still works; if not, nothing was sent yet, so a new one may go on."""
        import psycopg

        connection = self._live()
        try:
            stack.enter_context(connection.transaction())
        except psycopg.OperationalError:
            if not connection.closed:
                raise
            connection = self._live()
            stack.enter_context(connection.transaction())
        return connection

    def forget_owner(self) -> None:
        """The user's row is gone: the next write makes a new one."""
        self._owner, self._changes, self.generation = None, 0, 0

    def rewrite(self, tables: Sequence[str], owner: int) -> tuple[str, ...]:
        """VACUUM FULL: the owner's part of these tables gets new files with what lives. Names of the rewritten parts.

        Raises: StoreUnavailable if deleted rows must stay because an older transaction may still read them, or because
        the role does not own the tables; the erasure is then pending, and the next open goes on.
        """
        from psycopg import sql

        with self.lock, self._translated():
            names = [name for table in tables for name in self._parts(table, owner)]
            connection = self._live()
            warnings: list[str] = []
            kept: list[int] = []

            def listen(notice: psycopg.errors.Diagnostic) -> None:  # which is empty once this returns
                if notice.severity_nonlocalized == "WARNING":  # it skips what the role does not own
                    warnings.append(notice.message_primary or "skipped")
                # "3 dead row versions cannot be removed yet.", in any language
                elif count := re.match(r"\D*(\d+)", notice.message_detail or ""):
                    kept.append(int(count[1]))

            connection.add_notice_handler(listen)
            end = time.monotonic() + SCRUB_SECONDS
            try:
                for name in names:
                    while True:
                        kept.clear()
                        connection.execute(sql.SQL("VACUUM (FULL, VERBOSE) {}").format(sql.Identifier(name)))
                        if not warnings and not sum(kept):
                            break
                        if warnings or time.monotonic() > end:
                            older = f"an older transaction on this server may still read {sum(kept)} deleted rows"
                            raise StoreUnavailable(
                                f"erased, but bytes are still in the files of table {name!r}: "
                                f"{warnings[0] if warnings else older}; when that is over, repair() or the next open "
                                "finishes the erasure"
                            )
                        time.sleep(0.1)
            finally:
                connection.remove_notice_handler(listen)
            return tuple(names)

    def _parts(self, table: str, owner: int) -> list[str]:
        if table not in PARTITIONED:
            return [table]
        rows = self.rows(
            "SELECT part FROM generate_series(0, %(parts)s - 1) part "
            "WHERE satisfies_hash_partition(%(table)s::regclass, %(parts)s, part, %(of)s::bigint)",
            {"parts": NUM_PARTITIONS, "table": table, "of": owner},
        )
        return [f"{table}_{part}" for (part,) in rows]

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            import psycopg
        except ImportError:  # `_open` says so
            yield
            return
        try:
            yield
        except psycopg.Error as error:
            if (ours := self._translate(error)) is None:
                raise
            raise ours from error

    def _translate(self, error: psycopg.Error) -> Exception | None:
        from psycopg import errors

        text = " ".join(str(error).split())
        if isinstance(error, (errors.DataCorrupted, errors.IndexCorrupted)):
            return StoreCorrupt(f"the database is damaged ({text}): restore it from a backup, or import an export")
        if isinstance(error, errors.DiskFull):
            hint = "nothing was changed: make room on the server's disk and try again"
        elif isinstance(error, (errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege)):
            hint = "nothing was changed: use a role that may write here, or open it with read_only=True"
        elif isinstance(error, errors.LockNotAvailable):
            hint = f"nothing was changed: something else held the tables for {LOCK_SECONDS} s; try again"
        elif isinstance(error, (errors.OperationalError, errors.InterfaceError)):
            hint = "check that the server runs and that the DSN is right. What was acknowledged is stored"
        else:
            return None
        return StoreUnavailable(f"PostgreSQL did not do as asked: {text}; {hint}")

    def close(self) -> None:
        """Close; the server then drops the writer's lock. A second time does nothing."""
        with self.lock:
            self.closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _row(connection: psycopg.Connection, query: Any, parameters: Sequence[Any]) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(query, parameters).fetchone()
    assert row is not None
    return row


def _value(connection: psycopg.Connection, query: Any, parameters: Sequence[Any]) -> Any:
    return _row(connection, query, parameters)[0]
