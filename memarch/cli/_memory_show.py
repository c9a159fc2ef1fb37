"""How `memarch memory` shows things: tables on a terminal, lines with tabs in a pipe, or JSON; bars on stderr."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# Marks that reorder or end what a terminal shows: a text could pose as another column.
_REORDERING = re.compile("[\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def emit(text: str, *, end: str = "\n") -> None:
    """Write to stdout. A reader that leaves (head, less) is no error; what its encoding lacks is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write((text + end).encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        # Without this the interpreter complains once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def emit_lines(lines: Iterable[str]) -> None:
    """Write lines as they come; a reader that leaves ends it."""
    try:
        for line in lines:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def emit_json(value: object) -> None:
    """`value`, records and times in it too, as JSON."""
    # What UTF-8 lacks, lone surrogates, `emit` escapes as JSON does; what other encodings lack, it would not.
    utf8 = (sys.stdout.encoding or "utf-8").lower().replace("_", "-") in ("utf-8", "utf8")
    emit(json.dumps(plain(value), ensure_ascii=not utf8, indent=2))


def plain(value: Any) -> Any:
    """Records as objects by their fields, times in ISO 8601, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def one_line(text: str) -> str:
    """`text` without line ends, tabs and control characters: stored text must not steer a terminal or add a column."""
    return " ".join(_harmless(text).split())


def emit_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, terminal: Callable[[], Any] | None = None
) -> None:
    """Rows of text. terminal: makes what rich shows on a terminal, where that is another table than these columns."""
    console = _console()
    if not console.is_terminal:
        for row in rows:
            emit("\t".join(one_line(cell) for cell in row))
        return
    emit_rich(console, terminal() if terminal is not None else make_table(columns, rows))


def make_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """A table for a terminal; str cells are cleaned and never read as markup, the last column takes the room."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        table.add_column(column, overflow="fold", ratio=1 if position == len(columns) - 1 else None)
    for row in rows:
        table.add_row(*(Text(lines(cell)) if isinstance(cell, str) else cell for cell in row))
    return table


def emit_rich(console: Console, shown: Any) -> None:
    """Anything rich shows, written by `emit`."""
    with console.capture() as capture:
        console.print(shown)
    emit(capture.get(), end="")


def emit_pairs(pairs: Mapping[str, object]) -> None:
    """Names and values, a line each."""
    width = max(map(len, pairs))
    for name, value in pairs.items():
        emit(f"{name:<{width}}  {one_line(str(value))}")


def say(text: str) -> None:
    """One line on stderr: what was done, where stdout is for data."""
    print(one_line(text), file=sys.stderr)


def num_bytes(count: int) -> str:
    """
    >>> num_bytes(1_234_567)
    '1.2 MB'
    """
    size, unit = float(count), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):  # noqa: B007
        if size < 1000:
            break
        size /= 1000
    return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def local(time: datetime) -> str:
    """Date and time where the user is, to the minute."""
    return f"{time.astimezone():%Y-%m-%d %H:%M}"


def count_of(count: int, thing: str) -> str:
    """
    >>> count_of(1, "turn"), count_of(2000, "turn")
    ('1 turn', '2,000 turns')
    """
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


@contextmanager
def bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A function for (done, total) that draws a bar on stderr from its first call on, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(label, total=None)

    def draw(done: int, total: int) -> None:
        progress.start()
        progress.update(task, completed=done, total=total)

    try:
        yield draw
    finally:
        progress.stop()


def _console() -> Console:
    from rich.console import Console

    return Console()


def lines(text: str) -> str:
    """`text` as it may be shown on a terminal: lines stay, control characters and marks that reorder do not."""
    return _harmless(text).replace("\t", "    ")


def _harmless(text: str) -> str:
    from memarch.dialogue.quoting import printable

    return _REORDERING.sub("\ufffd", printable(text))
