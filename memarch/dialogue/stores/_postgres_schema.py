"""The tables of a PostgreSQL memory, shared by all users, and how older ones become the current ones.

Every key begins with the user's number, and every statement names it. Texts are UTF-8 in `bytea`, since PostgreSQL's
text refuses NUL bytes and lone surrogates; a turn's text is stored once, its chunks are byte ranges. Tables that grow
are split by user into hash partitions, so that rewriting one after an erasure stops only its share of the users.
There are no foreign keys: a user has one writer and each change is one transaction; `verify` looks for orphans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memarch.dialogue.errors import MigrationError, StoreUnavailable

if TYPE_CHECKING:
    import psycopg

NUM_PARTITIONS = 16
PARTITIONED = ("turns", "chunks", "vectors", "summaries")
SMALL = ("settings", "receipts")
_MIGRATION_LOCK = 0x6D656D61726368  # "memarch": held while tables are made or changed


def _partitioned(name: str, columns: str) -> tuple[str, ...]:
    parts = (
        f"CREATE TABLE {name}_{part} PARTITION OF {name} FOR VALUES WITH (MODULUS {NUM_PARTITIONS}, REMAINDER {part})"
        for part in range(NUM_PARTITIONS)
    )
    return f"CREATE TABLE {name} (owner bigint NOT NULL, {columns}) PARTITION BY HASH (owner)", *parts


# ANALYZE copies samples of a column into the system's catalogue, where no erasure would reach them.
_UNSAMPLED = {
    "users": "name",
    "turns": "session role source_id sha256 text",
    "vectors": "vector",
    "summaries": "text",
    "settings": "name value",
    "receipts": "body",
}

_CREATE = (
    "CREATE TABLE models (model integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, "
    "dim integer NOT NULL CHECK (dim > 0), UNIQUE (name, dim))",
    # changes: counts all of the user's transactions; generation: those that concern vectors or what is alive.
    # pending_erasure: the receipt whose bytes are not yet gone. name: a hash of it while all of a user goes.
    "CREATE TABLE users (owner bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name bytea NOT NULL UNIQUE, "
    "changes bigint NOT NULL DEFAULT 0, generation bigint NOT NULL DEFAULT 0, last_turn bigint NOT NULL DEFAULT 0, "
    "last_chunk bigint NOT NULL DEFAULT 0, last_summary bigint NOT NULL DEFAULT 0, "
    "last_receipt bigint NOT NULL DEFAULT 0, model integer REFERENCES models, pending_erasure bigint)",
    *_partitioned(
        "turns",
        "turn bigint NOT NULL, session text NOT NULL, role text NOT NULL, time timestamptz NOT NULL, "
        "source_id text NOT NULL, sha256 bytea NOT NULL, text bytea NOT NULL, PRIMARY KEY (owner, turn), "
        "UNIQUE (owner, source_id)",
    ),
    "CREATE INDEX turns_by_session ON turns (owner, session)",
    # embedded: whether `vectors` holds one of the current model.
    *_partitioned(
        "chunks",
        "chunk bigint NOT NULL, turn bigint NOT NULL, ordinal integer NOT NULL, start integer NOT NULL, "
        "stop integer NOT NULL, pinned boolean NOT NULL DEFAULT false, archived_at bigint, retrieved_at bigint, "
        "embedded boolean NOT NULL DEFAULT false, PRIMARY KEY (owner, chunk), UNIQUE (owner, turn, ordinal)",
    ),
    "CREATE INDEX chunks_pending ON chunks (owner, chunk) WHERE NOT embedded",
    # alive: as in `chunks`, so that a search reads this table only.
    *_partitioned(
        "vectors",
        "chunk bigint NOT NULL, model integer NOT NULL, alive boolean NOT NULL, vector vector NOT NULL, "
        "PRIMARY KEY (owner, chunk)",
    ),
    # lineage: every turn that a summary goes back to, through however many levels.
    *_partitioned(
        "summaries",
        "summary bigint NOT NULL, level integer NOT NULL, text bytea NOT NULL, first_turn bigint NOT NULL, "
        "last_turn bigint NOT NULL, sources bigint[] NOT NULL, lineage bigint[] NOT NULL, summarizer text NOT NULL, "
        "PRIMARY KEY (owner, summary)",
    ),
    "CREATE TABLE settings (owner bigint NOT NULL, name text NOT NULL, value text NOT NULL, PRIMARY KEY (owner, name))",
    "CREATE TABLE receipts (owner bigint NOT NULL, receipt bigint NOT NULL, body text NOT NULL, "
    "PRIMARY KEY (owner, receipt))",
    # Uncompressed, so that a chunk is cut from a long text without reading all of it.
    "ALTER TABLE turns ALTER text SET STORAGE EXTERNAL",
    *(
        f"ALTER TABLE {table} " + ", ".join(f"ALTER {column} SET STATISTICS 0" for column in columns.split())
        for table, columns in _UNSAMPLED.items()
    ),
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_CREATE,)
"""The i-th holds the statements that lead from version i to i + 1; version 0 is no tables. Only ever append."""


def migrate(connection: psycopg.Connection, schema: str, *, read_only: bool) -> None:
    """Bring the schema (first on the search path) to the current version, each step one transaction.

    Raises: StoreUnavailable for a newer version, an older one opened read-only, or a schema that is not ours;
    MigrationError if a step fails.
    """
    import psycopg
    from psycopg import sql

    current = len(MIGRATIONS)
    version = _version(connection, schema)
    if version == current:
        return
    if version > current:
        raise StoreUnavailable(
            f"schema {schema!r} has version {version}; this memarch knows up to {current}: upgrade memarch to open it"
        )
    if read_only:
        raise StoreUnavailable(f"schema {schema!r} has version {version}, expected {current}: open it once for writing")
    try:
        while version < current:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
                if version == 0:
                    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
                version = _version(connection, schema)  # another process may have been quicker
                if version >= current:
                    break
                if version == 0:
                    connection.execute("CREATE TABLE schema_version (version integer NOT NULL)")
                    connection.execute("INSERT INTO schema_version VALUES (0)")
                for statement in MIGRATIONS[version]:
                    connection.execute(statement.encode())
                connection.execute("UPDATE schema_version SET version = %s", (version + 1,))
            version += 1
    except psycopg.Error as error:
        raise MigrationError(
            f"schema {schema!r} could not go from version {version} to {version + 1} ({error}); it is as it was. "
            "The role needs CREATE on the database, or on a schema that an administrator made for it"
        ) from error


def _version(connection: psycopg.Connection, schema: str) -> int:
    tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,)).fetchall()
    if not tables:
        return 0
    if ("schema_version",) not in tables:
        raise StoreUnavailable(f"schema {schema!r} holds tables, but no memory of memarch: choose another schema")
    row = connection.execute("SELECT version FROM schema_version").fetchone()
    return 0 if row is None else int(row[0])
