"""The tables of a SQLite memory, and how an older one becomes the current one.

Texts are UTF-8 BLOBs (`encode_text`), so that NUL bytes and lone surrogates come back as they were; times are
microseconds since 1970. A turn's text is stored once, its chunks are character ranges. AUTOINCREMENT: the numbers of
what was erased are never given again.
"""

from __future__ import annotations

import sqlite3

from memarch.dialogue.errors import MigrationError, StoreUnavailable

from ._sqlite_key import sqlite_errors

APPLICATION_ID = 0x4D654D61  # "MeMa"

_CREATE = (
    "CREATE TABLE models (model INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, "
    "dim INTEGER NOT NULL CHECK (dim > 0), UNIQUE (name, dim))",
    # One row. generation: counts every change of vectors or of what is alive. pending_erasure: the receipt whose bytes
    # are not yet gone, 0 where all of the user goes.
    "CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), user BLOB NOT NULL, "
    "generation INTEGER NOT NULL DEFAULT 0, model INTEGER REFERENCES models, pending_erasure INTEGER)",
    # The text comes last, so that reading the rest does not touch its overflow pages.
    "CREATE TABLE turns (turn INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL, role TEXT NOT NULL, "
    "time INTEGER NOT NULL, source_id TEXT NOT NULL UNIQUE, sha256 BLOB NOT NULL, text BLOB NOT NULL)",
    "CREATE INDEX turns_by_session ON turns (session)",
    "CREATE INDEX turns_by_time ON turns (time)",
    # embedded: whether `vectors` holds one of the current model.
    "CREATE TABLE chunks (chunk INTEGER PRIMARY KEY AUTOINCREMENT, "
    "turn INTEGER NOT NULL REFERENCES turns ON DELETE CASCADE, ordinal INTEGER NOT NULL, start INTEGER NOT NULL, "
    "stop INTEGER NOT NULL, pinned INTEGER NOT NULL DEFAULT 0, archived_at INTEGER, retrieved_at INTEGER, "
    "embedded INTEGER NOT NULL DEFAULT 0, UNIQUE (turn, ordinal))",
    "CREATE INDEX chunks_pending ON chunks (chunk) WHERE embedded = 0",
    "CREATE TABLE vectors (chunk INTEGER PRIMARY KEY REFERENCES chunks ON DELETE CASCADE, "
    "model INTEGER NOT NULL REFERENCES models, vector BLOB NOT NULL)",
    "CREATE TABLE summaries (summary INTEGER PRIMARY KEY AUTOINCREMENT, level INTEGER NOT NULL, text BLOB NOT NULL, "
    "first_turn INTEGER NOT NULL, last_turn INTEGER NOT NULL, sources TEXT NOT NULL, summarizer TEXT NOT NULL)",
    # Every turn that a summary goes back to, through however many levels.
    "CREATE TABLE lineage (summary INTEGER NOT NULL REFERENCES summaries ON DELETE CASCADE, "
    "turn INTEGER NOT NULL REFERENCES turns, PRIMARY KEY (summary, turn)) WITHOUT ROWID",
    "CREATE INDEX lineage_by_turn ON lineage (turn)",
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE receipts (receipt INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, selector TEXT NOT NULL, "
    "turns TEXT NOT NULL, source_ids TEXT NOT NULL, chunks TEXT NOT NULL, summaries TEXT NOT NULL, "
    "files TEXT NOT NULL DEFAULT '[]')",
    f"PRAGMA application_id = {APPLICATION_ID}",
)

# What was made of texts and can be made again: an erasure deletes all of it in its own transaction.
_CREATE_CACHES = ("CREATE TABLE caches (cache INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, data BLOB NOT NULL)",)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_CREATE, _CREATE_CACHES)
"""The i-th holds the statements that lead from version i to i + 1; version 0 is an empty file. Only ever append."""


def migrate(connection: sqlite3.Connection, *, path: str, read_only: bool = False) -> bool:
    """Bring the database to the current version; whether anything was done.

    Each step is one transaction with its version number, so that a failing one leaves the version before it.
    Raises: StoreUnavailable for a newer version, a file that is not ours, or an older version opened read-only;
    MigrationError if a step fails.
    """
    version, current = _pragma(connection, "user_version"), len(MIGRATIONS)
    application = _pragma(connection, "application_id")
    if application != APPLICATION_ID and _pragma(connection, "schema_version"):
        raise StoreUnavailable(f"{path} is a database, but not a memory of memarch: choose another location")
    if version > current:
        raise StoreUnavailable(
            f"{path} has schema version {version}; this memarch knows up to {current}: upgrade memarch to open it"
        )
    if version < current and read_only:
        raise StoreUnavailable(f"{path} has schema version {version}, expected {current}: open it once for writing")
    for step in range(version, current):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in MIGRATIONS[step]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {step + 1}")
            connection.execute("COMMIT")
        except sqlite_errors() as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise MigrationError(
                f"{path} could not go from schema version {step} to {step + 1} ({error}); it is as it was"
            ) from error
    return version < current


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
