"""What people type or pipe into `memarch memory`: texts, times, and a yes before something is destroyed."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import typer

from ._memory_open import NOTHING
from .errors import USAGE, fail


def read_stdin() -> str:
    """Stdin to its end, without the last line end. ValueError if it is not UTF-8."""
    return decode(sys.stdin.buffer.read(), "stdin").removesuffix("\n").removesuffix("\r")


def read_text(path: Path | None) -> tuple[str, str]:
    """A file's text and its name; None or "-" is stdin. ValueError if it is not UTF-8; OSError."""
    if path is None or str(path) == "-":
        return decode(sys.stdin.buffer.read(), "stdin"), "stdin"
    return decode(path.read_bytes(), str(path)), str(path)


def decode(data: bytes, name: str) -> str:
    """UTF-8 to text. ValueError saying where it is none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} should be UTF-8; byte {error.start} is 0x{data[error.start]:02x}: convert it first"
        ) from error


def parse_time(option: str, text: str | None) -> datetime | None:
    """ISO 8601, in local time where it names no zone. ValueError for anything else."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{option} takes a time like 2026-01-31 or 2026-01-31T12:00+00:00; got {text!r}") from error
    return time.astimezone() if time.tzinfo is None else time


def confirm(what: str, *, yes: bool) -> None:
    """Go on only after a yes. what: "erase 3 turns of ...". Without a terminal to ask on, --yes must be given."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(
            f"to {what} needs a yes, and stdin is no terminal to ask on: add --yes (or --dry-run to look first)", USAGE
        )
    print(f"{what[0].upper()}{what[1:]}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        print("nothing was changed", file=sys.stderr)
        raise typer.Exit(NOTHING)
