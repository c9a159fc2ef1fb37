"""Encryption at rest: SQLCipher takes SQLite's place where a key is given, and wrong keys get clear errors.

Every page of the database and of its log is encrypted (AES-256) and authenticated (HMAC-SHA512). From a passphrase the
key is derived with 256,000 rounds of PBKDF2-HMAC-SHA512 and a salt of the file's own.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from types import ModuleType

from memarch.dialogue.errors import StoreUnavailable, WrongKey

Key = str | bytes
"""A passphrase, or 32 random bytes (`os.urandom(32)`), which need no derivation and open faster."""

PAGE_BYTES = 8192
_KEY_BYTES = 32
_PLAIN_HEADER = b"SQLite format 3\0"
_NUM_DISTINCT = 250  # of 256 values in the first page of an encrypted file; one that lacks more is a chance of 1e-20


def check_key(key: Key) -> None:
    """ValueError for what cannot be a key. The message never holds the key."""
    if isinstance(key, bytes):
        if len(key) != _KEY_BYTES:
            raise ValueError(
                f"a key of bytes must be {_KEY_BYTES} bytes, as os.urandom({_KEY_BYTES}) gives; got {len(key)}: "
                "a passphrase is a str"
            )
    elif not isinstance(key, str):
        raise ValueError(f"key must be a passphrase (str) or {_KEY_BYTES} bytes; got {type(key).__name__}")
    elif not key or "\0" in key or any("\ud800" <= char <= "\udfff" for char in key):
        raise ValueError("a passphrase must be ordinary text of at least one character, without NUL: choose another")


def sqlcipher() -> ModuleType:
    """SQLCipher with the interface of the standard library's sqlite3. StoreUnavailable where it is not installed."""
    try:
        from sqlcipher3 import dbapi2
    except ImportError as error:
        raise StoreUnavailable(
            "an encrypted memory needs SQLCipher: pip install 'memarch[encrypted]' (Linux x86-64), elsewhere sqlcipher3"
        ) from error
    module: ModuleType = dbapi2
    return module


def sqlite_errors() -> tuple[type[Exception], ...]:
    """Errors of SQLite, and of SQLCipher where it is in use: its classes are its own."""
    loaded = sys.modules.get("sqlcipher3.dbapi2")
    return (sqlite3.Error,) if loaded is None else (sqlite3.Error, loaded.Error)


def unlock(connection: sqlite3.Connection, key: Key, path: Path) -> None:
    """Give a fresh connection its key. WrongKey if it does not fit."""
    # SQLCipher would write to stderr that the key is wrong; we raise.
    for statement in ("cipher_log_level = NONE", f"key = {_quoted(key)}", f"cipher_page_size = {PAGE_BYTES}"):
        connection.execute(f"PRAGMA {statement}")
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite_errors() as error:
        if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_NOTADB:
            raise
        raise WrongKey(f"{path} was encrypted with another key, or its beginning is damaged: check the key") from error


def change_key(connection: sqlite3.Connection, key: Key) -> None:
    """Encrypt every page anew, in one transaction."""
    connection.execute(f"PRAGMA rekey = {_quoted(key)}")


def check_fits(path: Path, *, has_key: bool) -> None:
    """WrongKey for a plain database that is given a key, or an encrypted one without. New files fit."""
    try:
        with path.open("rb") as file:
            page = file.read(PAGE_BYTES)
    except OSError:
        return  # opening says why
    is_plain = page.startswith(_PLAIN_HEADER)
    if has_key and is_plain:
        raise WrongKey(
            f"{path} is not encrypted, but a key was given: open it without. To encrypt it, copy it with "
            "migrate(to=..., key=...) or `memarch memory migrate --to DIRECTORY --new-key-file FILE`, then erase it"
        )
    if not has_key and not is_plain and len(set(page)) >= _NUM_DISTINCT:
        raise WrongKey(
            f"{path} is encrypted, or its beginning is damaged: open it with key=..., on the command line with "
            "--key-file or MEMARCH_KEY"
        )


def _quoted(key: Key) -> str:
    if isinstance(key, bytes):
        return f"\"x'{key.hex()}'\""
    return "'" + key.replace("'", "''") + "'"
