"""Directory names for users: any Unicode name, on any file system, none mistaken for another."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ._checks import check_user, encode_text

_PLAIN = re.compile(r"[a-z0-9_][a-z0-9_-]{0,63}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)")  # Windows opens devices by these names


def directory_name(user: str) -> str:
    """Plain lower-case names stay as they are; any other becomes a readable part, a dot and a hash of the name.

    The dot occurs in no plain name and the case of letters decides nothing, so "A" and "a", "../x" and a name of 300
    characters all get their own. The real name is kept in the database. ValueError for an empty name.
    """
    check_user(user)
    if _is_plain(user):
        return user
    readable = re.sub(r"[^a-z0-9_]+", "-", user.lower())[:32].strip("-")
    return f"{readable}.{hashlib.sha256(encode_text(user)).hexdigest()[:32]}"


def user_directory(location: str | Path, user: str) -> Path:
    """Where this user's files are below `location`."""
    return Path(location) / "users" / directory_name(user)


def plain_name(directory: Path) -> str | None:
    """The user whose directory this is, where its name tells; None where it has a hash."""
    return directory.name if _is_plain(directory.name) else None


def _is_plain(name: str) -> bool:
    return bool(_PLAIN.fullmatch(name)) and not _RESERVED.fullmatch(name)
