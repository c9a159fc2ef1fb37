"""One writer a memory: a lock that the kernel drops when its process dies, however it dies."""

from __future__ import annotations

import os
from pathlib import Path

from memarch.dialogue.errors import StoreLocked, StoreUnavailable

LOCK_FILE, PID_FILE = "writer.lock", "writer.pid"


class WriterLock:
    """Held from construction to `release`. The PID is in a file of its own: some versions of filelock truncate theirs.

    Raises: StoreLocked with the PID of the process that holds it; StoreUnavailable where no file can be made.
    """

    def __init__(self, directory: Path) -> None:
        try:
            import filelock
        except ImportError as error:
            raise StoreUnavailable("a local memory needs filelock: pip install 'memarch[chat]'") from error
        self._pid_path = directory / PID_FILE
        self._lock = filelock.FileLock(directory / LOCK_FILE, timeout=0)
        try:
            self._lock.acquire()
            self._pid_path.write_text(str(os.getpid()), encoding="ascii")
        except filelock.Timeout as error:
            raise StoreLocked(
                f"the memory in {directory} is being written by process {self._holder()}: close it there, "
                "or open this one with read_only=True"
            ) from error
        except OSError as error:
            self._lock.release()
            raise StoreUnavailable(f"cannot lock {directory}: {error}; open it with read_only=True to read") from error

    def _holder(self) -> str:
        try:
            return self._pid_path.read_text(encoding="ascii") or "(unknown)"
        except (OSError, UnicodeDecodeError):
            return "(unknown)"

    def release(self, *, remove: bool = False) -> None:
        """Let others write; `remove` also deletes the lock's files, for a directory that goes away."""
        self._pid_path.unlink(missing_ok=True)
        if remove:
            (self._pid_path.parent / LOCK_FILE).unlink(missing_ok=True)
        self._lock.release()
