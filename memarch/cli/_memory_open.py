"""Where a memory is, and opening it for a command: options common to all of `memarch memory`, errors as exit codes.

0 fine; 1 nothing found, nothing done, or `verify` found problems; 2 bad usage; 3 the store or a file could not be used;
130 interrupted.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from .errors import FAILED, INTERRUPTED, USAGE, expected, fail

if TYPE_CHECKING:
    from memarch.dialogue.memory import DialogueMemory

NOTHING, STORE = FAILED, 3
EMBEDDER_SETTING = "cli_embedder"


def utf8(text: str | None) -> str | None:
    """A value of the command line, read as UTF-8 whatever the locale is; a usage error if it is not that."""
    if text is None or not any("\udc80" <= char <= "\udcff" for char in text):
        return text
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError as error:
        raise typer.BadParameter("expected UTF-8; got other bytes") from error


PathOption = Annotated[
    str | None,
    typer.Option(
        "--path",
        "-p",
        metavar="LOCATION",
        envvar="MEMARCH_MEMORY",
        help="A directory, or postgresql://...; default: the user's data directory (`memarch memory path`).",
    ),
]
UserOption = Annotated[str, typer.Option("--user", "-u", metavar="NAME", callback=utf8, help="Whose memory.")]
VectorsOption = Annotated[
    str | None, typer.Option("--vectors", metavar="URI", help="A Milvus server or file that serves the vectors.")
]
EmbedderOption = Annotated[
    str | None,
    typer.Option(
        "--embedder",
        metavar="MODEL",
        help='A sentence-transformers model, or "none" to search by words alone; remembered; default: MiniLM.',
    ),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        envvar="MEMARCH_KEY_FILE",
        help="Holds the passphrase of an encrypted memory; a new one is encrypted with it. "
        "Or put the passphrase itself into the environment variable MEMARCH_KEY.",
    ),
]
NewKeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--new-key-file",
        metavar="FILE",
        envvar="MEMARCH_NEW_KEY_FILE",
        help="Holds the new passphrase; or put it into the environment variable MEMARCH_NEW_KEY.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def default_location() -> Path:
    """Where user data belongs on this system: the directory `memarch/memory` there."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", ""))
        if not base.is_absolute():  # the XDG specification says to ignore a relative one
            base = home / ".local" / "share"
    return base / "memarch" / "memory"


def locate(path: str | None, *, option: str = "--path") -> str:
    """The location of a memory, `~` and the default resolved. ValueError for what is none."""
    if path is None:
        return str(default_location())
    if "://" in path:
        if not path.startswith(("postgresql://", "postgres://")):
            raise ValueError(f"{option} takes a directory or postgresql://...; got {shown(path)!r}")
        return path
    if not path.strip():
        raise ValueError(f"{option} is empty: give a directory or postgresql://...")
    return str(Path(path).expanduser())


def shown(location: str) -> str:
    """`location` without a password."""
    return re.sub(r"(://[^/@:]*):[^@/]*@", r"\1:***@", location)


def read_key(file: Path | None, *, variable: str = "MEMARCH_KEY") -> str | None:
    """The passphrase in a file, without the end of its line, or else in an environment variable; None for neither.

    Never on the command line, which other users see. ValueError for a file that is no line of text.
    """
    if file is None:
        return os.environ.get(variable) or None
    try:
        key = file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected a passphrase in UTF-8 in {file}; got other bytes") from error
    if not key or "\n" in key:
        raise ValueError(f"expected one line with a passphrase in {file}; got {len(key.splitlines())}")
    return key


@contextmanager
def failing() -> Iterator[None]:
    """Expected errors of a command as one line and an exit code; anything else is a bug and keeps its traceback."""
    from memarch.dialogue.errors import DialogueError

    try:
        with expected(ValueError, code=USAGE), expected(DialogueError, OSError, ImportError, code=STORE), _warnings():
            yield
    except KeyboardInterrupt:
        fail("interrupted; what was stored stays", INTERRUPTED)


@contextmanager
def opened(
    path: str | None,
    user: str,
    vectors: str | None,
    *,
    mode: Literal["read", "search", "write", "create"] = "read",
    key_file: Path | None = None,
) -> Iterator[DialogueMemory]:
    """A user's memory for one command, without an embedder, see `use_embedder`.

    mode: "read" goes beside a process that writes; "search" writes if it may, so that what has no vector gets one, and
    reads otherwise; "write" is for what exists; "create" also makes a new one. Without a memory the others leave with
    exit code 1 and say who has one. key_file: see `read_key`.
    """
    from memarch.dialogue.errors import StoreLocked, StoreUnavailable
    from memarch.dialogue.memory import DialogueMemory
    from memarch.dialogue.stores import has_memory, users

    def enter(*, read_only: bool) -> DialogueMemory:
        return DialogueMemory(location, user=user, embedder="none", vectors=vectors, read_only=read_only, key=key)

    with failing():
        location, key = locate(path), read_key(key_file)
        if mode != "create" and not has_memory(location, user):
            _nothing_there(location, user, key)
        try:
            memory = enter(read_only=mode == "read")
        except (StoreLocked, StoreUnavailable) as error:
            if mode == "read" and "://" in location and user not in users(location):
                _nothing_there(location, user, key)  # a server is asked by opening
            if mode != "search":
                raise
            try:
                memory = enter(read_only=True)
            except StoreUnavailable:
                raise error from None
        with memory:
            if mode != "create" and memory.store.last_turn() == 0:
                _nothing_there(location, user, key)
            yield memory


def use_embedder(memory: DialogueMemory, embedder: str | None, *, remember_none: bool = True) -> None:
    """Give the memory the embedder named (and remember it), else the one it was used with last, else the default.

    Without this a plain `search` would embed everything again with the default. remember_none: whether "none" counts.
    """
    from memarch.dialogue.embedders import DEFAULT_EMBEDDER, open_embedder

    kept = memory.store.get_setting(EMBEDDER_SETTING)
    memory.embedder = open_embedder(kept or DEFAULT_EMBEDDER if embedder is None else embedder)
    if embedder is None or embedder == kept or memory.read_only or (memory.embedder is None and not remember_none):
        return
    memory.store.put_setting(EMBEDDER_SETTING, embedder)


def _nothing_there(location: str, user: str, key: str | None) -> NoReturn:
    from memarch.dialogue.stores import users

    others = [repr(name) for name in users(location, key=key) if name != user]
    listed = ", ".join(others[:8]) + (", ..." if len(others) > 8 else "")
    hint = f"there are {listed} (--user)" if others else "store something with `memarch memory add`"
    fail(f"user {user!r} has no memory in {shown(location)}: {hint}", NOTHING)


class _ToStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(f"{record.levelname.lower()}: {' '.join(record.getMessage().split())}", file=sys.stderr)


@contextmanager
def _warnings() -> Iterator[None]:
    """What the library logs while it goes on, as a line on stderr."""
    logger, handler = logging.getLogger("memarch"), _ToStderr(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
