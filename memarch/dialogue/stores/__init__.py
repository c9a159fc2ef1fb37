"""Where dialogue memories are kept. `open_store` picks the store by the form of its location."""

from __future__ import annotations

from pathlib import Path

from ._checks import check_user
from ._user_names import user_directory
from .base import Store, VectorIndex

__all__ = ["Store", "VectorIndex", "has_memory", "open_store", "users"]

_SERVERS = ("postgresql://", "postgres://")


def open_store(location: str | Path, *, user: str, vectors: str | None = None, read_only: bool = False) -> Store:
    """One user's memory. location: a directory (SQLite and FAISS) or "postgresql://..." (PostgreSQL and pgvector).

    vectors: the URI of a Milvus that serves the vectors instead. read_only: open beside a writer.
    Raises: ValueError for an empty user; StoreLocked, StoreCorrupt or StoreUnavailable, with what to do.
    """
    check_user(user)
    open_index = None
    if vectors is not None:
        from .milvus import MilvusIndex

        def open_index(model: str, dim: int) -> MilvusIndex:
            return MilvusIndex(vectors, user=user, dim=dim, model=model)

    if str(location).startswith(_SERVERS):
        from .postgres import PostgresStore

        return PostgresStore(str(location), user=user, open_index=open_index, read_only=read_only)
    from .sqlite import SQLiteStore

    return SQLiteStore(location, user=user, open_index=open_index, read_only=read_only)


def users(location: str | Path) -> list[str]:
    """Names of all users who have a memory at this location, sorted."""
    if str(location).startswith(_SERVERS):
        from .postgres import users as postgres_users

        return postgres_users(str(location))
    from .sqlite import users as sqlite_users

    return sqlite_users(location)


def has_memory(location: str | Path, user: str) -> bool:
    """Whether this directory holds files of the user's; True for a server, which only opening can tell."""
    return str(location).startswith(_SERVERS) or user_directory(location, user).is_dir()
