"""The directory of one user's SQLite memory: made, locked, opened and removed; and who has one."""

from __future__ import annotations

import logging
from pathlib import Path

from memarch.dialogue.errors import DialogueError, StoreUnavailable, WrongKey

from ._checks import decode_text, encode_text
from ._sqlite_database import Database, corrupt
from ._sqlite_key import Key
from ._sqlite_schema import migrate
from ._sqlite_vectors import INDEX_FILE
from ._sqlite_verify import DATABASE_FILE
from ._user_names import directory_name, plain_name
from ._writer_lock import WriterLock
from .faiss_index import sync_directory

_log = logging.getLogger(__name__)


def users(location: str | Path, *, key: Key | None = None) -> list[str]:
    """Names of the users with a memory below this directory, sorted.

    One that cannot be read (damaged, or encrypted with another key) is listed by its directory, if that tells the name.
    """
    found = []
    for path in sorted(Path(location).glob(f"users/*/{DATABASE_FILE}")):
        try:
            name = _owner(path, key)
        except DialogueError as error:
            name = plain_name(path.parent)
            if name is None or not isinstance(error, WrongKey):
                _log.warning("%s: %s", path.parent.name if name is None else f"user {name!r}", error)
        if name is not None:
            found.append(name)
    return sorted(found)


def _owner(path: Path, key: Key | None) -> str | None:
    """Whose memory this database holds; None for an empty one."""
    db = Database(path, read_only=True, key=key)
    try:
        if db.value("PRAGMA schema_version") == 0:
            return None  # a writer is making it just now
        with db.translated():
            migrate(db.connection, path=str(path), read_only=True)
        if not holds_anything(db):
            return None
        try:
            return decode_text(db.value("SELECT user FROM state"))
        except (AttributeError, UnicodeDecodeError) as error:  # no row, or no text
            raise corrupt(path, "it does not say whose it is") from error
    finally:
        db.close()


def lock_home(home: Path) -> WriterLock:
    """Make the directory and hold the writer's lock on it."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreUnavailable(f"cannot make {home}: {error}; choose a directory that can be written") from error
    return WriterLock(home)


def open_database(path: Path, user: str, *, read_only: bool, key: Key | None) -> Database:
    """This user's records, brought to the current schema. StoreCorrupt for another user's."""
    if not path.exists():
        if read_only:
            raise StoreUnavailable(f"user {user!r} has no memory in {path.parent}: open it once for writing")
        if (path.parent / INDEX_FILE).exists() or Path(f"{path}-wal").exists():
            raise corrupt(path, "it is missing, but files that belong to it are there")
    db = Database(path, read_only=read_only, key=key)
    try:
        with db.translated():
            migrated = migrate(db.connection, path=str(path), read_only=read_only)
        if not read_only:
            with db.transaction() as connection:
                connection.execute("INSERT OR IGNORE INTO state (id, user) VALUES (1, ?)", (encode_text(user),))
        if migrated:
            for directory in (path.parent, path.parent.parent, path.parent.parent.parent):
                sync_directory(directory)
        owner = db.value("SELECT user FROM state")
        if owner is None or decode_text(owner) != user:
            raise corrupt(path, f"{directory_name(user)} should hold user {user!r}, but it holds {owner!r}")
    except BaseException:
        db.close()
        raise
    return db


def size_of(path: Path) -> int:
    """Bytes of a file, 0 for one that is gone."""
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a reader sees files that the writer replaces
        return 0


def holds_anything(db: Database) -> bool:
    """Whether a turn was ever added, or a setting or a receipt is kept."""
    return bool(
        db.value(
            "SELECT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'turns') OR EXISTS (SELECT 1 FROM settings) "
            "OR EXISTS (SELECT 1 FROM receipts) OR (SELECT pending_erasure FROM state) IS NOT NULL"
        )
    )


def remove_files(home: Path) -> None:
    """Delete records and index."""
    for name in (DATABASE_FILE, f"{DATABASE_FILE}-wal", f"{DATABASE_FILE}-shm", INDEX_FILE):
        (home / name).unlink(missing_ok=True)


def remove_directory(home: Path) -> None:
    """Delete the directory, if it is empty."""
    try:
        home.rmdir()
    except OSError:  # something of somebody else is in it
        return
