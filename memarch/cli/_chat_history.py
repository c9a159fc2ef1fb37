"""What a user typed before, in a file of the user's data directory: nothing of incognito, nothing that was erased."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ._memory_open import default_location

MAX_ENTRIES = 1000


def history_file(location: str, user: str) -> Path:
    """Of this user's memory at this location; the name tells neither."""
    place = location if "://" in location else str(Path(location).resolve())
    name = hashlib.sha256(f"{place}\n{user}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return default_location().parent / "chat-history" / f"{name}.jsonl"


class InputHistory:
    """Texts, oldest first, each a JSON string on a line of `file`; None keeps them in this process only.

    A file that cannot be read or written is no reason not to chat: it is left alone.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.entries: list[str] = []
        if file is None:
            return
        self.entries, num_lines = _read(file)
        if num_lines != len(self.entries):
            # The file never holds more than the entries: what is not here could not be scrubbed.
            with suppress(OSError):
                self._rewrite()

    def add(self, text: str) -> None:
        """Append, unless it repeats the last one."""
        if self.entries[-1:] == [text]:
            return
        self.entries.append(text)
        if self.file is None:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Only its owner reads it.
            handle = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps(text) + "\n")
        except OSError:
            return

    def scrub(self, erased: Iterable[str]) -> int:
        """Drop what repeats an erased text, whole or in part, commands with it too; how many. OSError."""
        gone = [folded for text in erased if (folded := _folded(text))]
        kept = [entry for entry in self.entries if not any(_tells(_folded(entry), text) for text in gone)]
        num_dropped = len(self.entries) - len(kept)
        if num_dropped:
            self.entries[:] = kept
            self._rewrite()
        return num_dropped

    def clear(self) -> None:
        """Drop everything. OSError."""
        self.entries.clear()
        if self.file is not None:
            self.file.unlink(missing_ok=True)

    def _rewrite(self) -> None:
        if self.file is None or not self.file.exists():
            return
        handle, temporary = tempfile.mkstemp(prefix=f".{self.file.stem}.", dir=self.file.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in self.entries)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.file)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _read(file: Path) -> tuple[list[str], int]:
    """The latest entries, and how many lines the file has."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return [], 0
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the end of a write that was cut off
        if isinstance(entry, str):
            entries.append(entry)
    return entries[-MAX_ENTRIES:], len(lines)


def _folded(text: str) -> str:
    return " ".join(text.replace('"""', " ").split()).casefold()


def _tells(entry: str, erased: str) -> bool:
    """Whether an entry holds the erased text, or is a part of it; of a command its argument counts as well."""
    parts = [entry]
    if entry.startswith("/"):
        parts.append(entry.partition(" ")[2])
    return any(part and (erased in part or part in erased) for part in parts)
