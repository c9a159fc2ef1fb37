"""Expected errors as one line on stderr and an exit code; anything else keeps its traceback.

2 bad usage, 1 the task could not be done, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

USAGE, FAILED, INTERRUPTED = 2, 1, 130


@contextmanager
def expected(*kinds: type[Exception], code: int = FAILED) -> Iterator[None]:
    """Turn exceptions of `kinds` (default: ValueError, OSError, ImportError) into `fail` with `code`."""
    wanted = kinds or (ValueError, OSError, ImportError)
    try:
        yield
    except BrokenPipeError:
        raise
    except wanted as error:
        fail(_text(error), code)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Print `error: message` in one line on stderr and leave with `code`."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(code)


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
