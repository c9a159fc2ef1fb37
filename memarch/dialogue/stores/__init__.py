"""Where dialogue memories are kept. `open_store` picks the store by the form of its location."""

from __future__ import annotations

from pathlib import Path

from ._checks import check_user
from ._sqlite_key import Key
from ._user_names import user_directory
from .base import Store, VectorIndex

__all__ = ["Key", "Store", "VectorIndex", "has_memory", "is_server", "open_store", "users"]

_SERVERS = ("postgresql://", "postgres://")


def open_store(
    location: str | Path,
    *,
    user: str,
    vectors: str | None = None,
    read_only: bool = False,
    key: Key | None = None,
    max_exact_chunks: int | None = None,
) -> Store:
    """One user's memory. location: a directory (SQLite and FAISS) or "postgresql://..." (PostgreSQL and pgvector).

    vectors: the URI of a Milvus that serves the vectors instead. read_only: open beside a writer. key: of an encrypted
    directory; whoever needs a server encrypted encrypts its disk. max_exact_chunks: of a directory, above how many
    chunks the index in memory is of a quarter of the size; None is 100,000.
    Raises: ValueError for an empty user, or a key where none can be; StoreLocked, StoreCorrupt, WrongKey or
    StoreUnavailable, with what to do.
    """
    check_user(user)
    if key is not None and vectors is not None:
        raise ValueError("key= encrypts a directory, but vectors= would keep vectors in the clear: give one of the two")
    open_index = None
    if vectors is not None:
        from .milvus import MilvusIndex

        def open_index(model: str, dim: int) -> MilvusIndex:
            return MilvusIndex(vectors, user=user, dim=dim, model=model)

    if is_server(location):
        if key is not None:
            raise ValueError("key= encrypts a directory; PostgreSQL takes none: encrypt its disk, and drop key=")
        from .postgres import PostgresStore

        return PostgresStore(str(location), user=user, open_index=open_index, read_only=read_only)
    from .sqlite import MAX_EXACT_CHUNKS, SQLiteStore

    return SQLiteStore(
        location,
        user=user,
        open_index=open_index,
        read_only=read_only,
        key=key,
        max_exact_chunks=MAX_EXACT_CHUNKS if max_exact_chunks is None else max_exact_chunks,
    )


def users(location: str | Path, *, key: Key | None = None) -> list[str]:
    """Names of all users who have a memory at this location, sorted; damaged and encrypted ones too.

    key: tells the names of encrypted memories whose directories do not; without it those are left out, with a warning.
    """
    if is_server(location):
        from .postgres import users as postgres_users

        return postgres_users(str(location))
    from .sqlite import users as sqlite_users

    return sqlite_users(location, key=key)


def has_memory(location: str | Path, user: str) -> bool:
    """Whether this directory holds files of the user's; True for a server, which only opening can tell."""
    return is_server(location) or user_directory(location, user).is_dir()


def is_server(location: str | Path) -> bool:
    """Whether this location names a database server rather than a directory."""
    return str(location).startswith(_SERVERS)
