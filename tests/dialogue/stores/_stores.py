"""The stores that the contract test runs on, and makers of what it stores.

To add one: a class with the methods of `World`, and a line in `WORLDS`.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from memarch.dialogue.records import NewTurn, Summary
from memarch.dialogue.stores import Store, open_store, users
from memarch.dialogue.stores._sqlite_database import Database

DIM = 13
START = datetime(2026, 1, 31, 23, 59, 59, 999_999, tzinfo=UTC)


class World:
    """One location that holds memories. Stores opened here are closed with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.opened: list[Store] = []

    @property
    def location(self) -> str:
        """What `open_store` and `users` take."""
        return str(self.directory / "memories")

    def open(self, user: str = "ada", *, read_only: bool = False) -> Store:
        """Open a user's memory, again too."""
        self.opened.append(open_store(self.location, user=user, read_only=read_only))
        return self.opened[-1]

    def users(self) -> list[str]:
        """Users with a memory here."""
        return users(self.location)

    def files_with(self, needle: bytes) -> list[str]:
        """Names of all files of the store that contain these bytes."""
        assert needle
        return [str(path) for path in self.directory.rglob("*") if path.is_file() and needle in path.read_bytes()]

    def close(self) -> None:
        """Close what was opened."""
        for store in self.opened:
            store.close()


class EncryptedWorld(World):
    """Files encrypted with a key. They are searched as they are, and table by table with the key."""

    key = bytes(range(32))

    def open(self, user: str = "ada", *, read_only: bool = False) -> Store:
        """Open a user's memory, again too."""
        self.opened.append(open_store(self.location, user=user, read_only=read_only, key=self.key))
        return self.opened[-1]

    def users(self) -> list[str]:
        """Users with a memory here."""
        return users(self.location, key=self.key)

    def files_with(self, needle: bytes) -> list[str]:
        """Names of all files of the store that contain these bytes, and of tables."""
        found = super().files_with(needle)
        for path in self.directory.rglob("memory.db"):
            db = Database(path, read_only=True, key=self.key)
            for (table,) in db.rows("SELECT name FROM sqlite_schema WHERE type = 'table'"):
                cells = [cell for row in db.rows(f"SELECT * FROM {table}") for cell in row]
                held = [cell.encode() if isinstance(cell, str) else cell for cell in cells if not isinstance(cell, int)]
                found += [f"{path.name}: {table}" for cell in held if cell is not None and needle in cell]
            db.close()
        return found


class MilvusWorld(World):
    """SQLite's records, their vectors in Milvus Lite: the same client reaches a cluster."""

    def open(self, user: str = "ada", *, read_only: bool = False) -> Store:
        """Open a user's memory, again too."""
        vectors = str(self.directory / "vectors.db")
        self.opened.append(open_store(self.location, user=user, vectors=vectors, read_only=read_only))
        return self.opened[-1]


class PostgresWorld(World):
    """A database of its own on a real server. The log is the operator's: only the tables' files are searched."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        from . import _postgres_server

        self.server = _postgres_server
        self.database = self.server.new_database()

    @property
    def location(self) -> str:
        """What `open_store` and `users` take."""
        return str(self.server.server_uri(self.database))

    def files_with(self, needle: bytes) -> list[str]:
        """Names of the tables' files that contain these bytes."""
        assert needle
        return [str(path) for path in self.server.table_files(self.database) if needle in path.read_bytes()]

    def close(self) -> None:
        """Close what was opened and drop the database."""
        super().close()
        self.server.drop_database(self.database)


WORLDS: dict[str, Callable[[Path], World]] = {
    "sqlite-faiss": World,
    "sqlite-milvus": MilvusWorld,
    "postgres-pgvector": PostgresWorld,
}

if find_spec("sqlcipher3"):  # not for every system
    WORLDS["sqlite-encrypted"] = EncryptedWorld


def new_turn(
    text: str, *, source_id: str | None = None, session: str = "s1", role: str = "user", minutes: int = 0,
    spans: tuple[tuple[int, int], ...] | None = None,
) -> NewTurn:  # fmt: skip
    """A turn with one chunk unless spans are given; its text names it unless source_id does."""
    return NewTurn(
        session=session,
        role=role,
        text=text,
        time=START + timedelta(minutes=minutes),
        source_id=f"id of {text}" if source_id is None else source_id,
        spans=((0, len(text)),) if spans is None else spans,
    )


def unit(num_vectors: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    """Random unit vectors `[num_vectors, dim]`."""
    vectors = np.random.default_rng(seed).normal(size=(num_vectors, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def numbers(*values: int) -> np.ndarray:
    """Chunk numbers as stores take them."""
    return np.array(values, dtype=np.int64)


def filled(world: World, texts: str = "abcdef", *, user: str = "ada") -> tuple[Store, np.ndarray]:
    """A store with one turn and one vector a letter: chunk i + 1 has vectors[i]."""
    store = world.open(user)
    store.add_turns([new_turn(text) for text in texts])
    store.use_embedder("model-a", DIM)
    vectors = unit(len(texts), seed=len(texts))
    store.put_vectors(np.array([chunk.chunk for chunk in store.chunks()]), vectors)
    return store, vectors


def summary_of(
    store: Store, sources: list[int], *, level: int = 1, text: str = "a summary", turns: tuple[int, int] = (1, 2),
    replaces: tuple[int, ...] | list[int] = (),
) -> Summary:  # fmt: skip
    """Put a summary."""
    first, last = turns
    return store.put_summary(
        level=level, text=text, first_turn=first, last_turn=last, sources=sources, summarizer="test", replaces=replaces
    )
