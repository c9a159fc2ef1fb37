"""What a chat shows: text on a terminal or in a pipe. `_chat_json` shows the same as objects."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from . import _memory_show as show
from ._chat_bar import status_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from memarch.dialogue.prompt import Prompt
    from memarch.dialogue.records import Turn
    from memarch.dialogue.session import Answer


@dataclass(frozen=True)
class Result:
    """What a command found: `fields` for programs; `text`, or rows under `columns`, for people.

    terminal: what rich shows on a terminal instead.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    terminal: RenderableType | None = None


class Screen:
    """Shows text. The answer goes to stdout; in a pipe what is no answer goes to stderr.

    is_interactive: whether there is somebody to see spinners, colours and the status line.
    Raises: BrokenPipeError once nobody reads any more.
    """

    is_interactive = False

    def __init__(self, console: Console | None = None, *, stream: bool = True) -> None:
        self.console = console
        self.is_interactive = console is not None
        self._stream = stream
        self._at_line_start = True
        self._num_pieces = 0

    # The course of an answer.

    def opened(self, *, session: str, user: str, model: str, resumed: Sequence[Turn], incognito: bool) -> None:
        """The chat begins, or goes on with another session."""
        if self.console is None:
            return
        what = "incognito: nothing is stored" if incognito else f"session {show.one_line(session)}"
        self.note(f"{show.one_line(model)} · user {show.one_line(user)} · {what}")
        for turn in resumed:
            self._past(turn)

    def stored(self, turn: Turn) -> None:
        """The user's message is durable."""

    def composed(self, prompt: Prompt, retrieval_ms: float) -> None:
        """The prompt is ready."""

    def piece(self, text: str) -> None:
        """A part of the answer."""
        self._num_pieces += 1
        if self._stream:
            self._write(show.lines(text))

    def answered(self, answer: Answer, *, turn: int, prompt: Prompt, retrieval_ms: float) -> None:
        """The answer is whole, or was stopped."""
        if not self._stream:
            self._write(show.lines(answer.text))
        self._end_line()
        self._num_pieces = 0
        if answer.status == "stopped":
            self.note("stopped: what came so far is kept" if answer.text.strip() else "stopped before an answer came")
        elif not answer.text.strip():
            self.note("the model answered nothing: /retry asks again")
        if self.console is not None:
            self.console.print(status_line(answer, turn, prompt, retrieval_ms, self.console.width))

    # Anything else.

    def result(self, command: str, result: Result) -> None:
        """What a command found."""
        del command
        if result.text:
            self._write(show.lines(result.text))
            self._end_line()
        if self.console is not None and result.terminal is not None:
            self.console.print(result.terminal)
        elif self.console is not None and result.rows:
            self.console.print(show.make_table(result.columns, result.rows))
        else:
            for row in result.rows:
                self._write("\t".join(show.one_line(cell) for cell in row) + "\n")

    def error(self, error: BaseException) -> None:
        """Something could not be done."""
        self._end_line()
        text = f"error: {show.one_line(describe(error))}"
        if self.console is None:
            print(text, file=sys.stderr)
        else:
            self.console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A line about what happens."""
        if self.console is None:
            print(show.one_line(text), file=sys.stderr)
        else:
            self.console.print(show.one_line(text), style="dim", markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """A spinner meanwhile, on a terminal."""
        if self.console is None:
            yield
            return
        with self.console.status(show.one_line(text), spinner="dots"):
            yield

    def break_line(self) -> None:
        """End a line that an error or Ctrl-C left unfinished."""
        self._end_line()

    def _past(self, turn: Turn) -> None:
        assert self.console is not None
        said = show.lines(turn.text)
        if len(said) > MAX_PAST_CHARS:
            said = said[:MAX_PAST_CHARS].rstrip() + " …"
        who = "> " if turn.role == "user" else "" if turn.role == "assistant" else f"{show.one_line(turn.role)}: "
        self.console.print(who + said, style="dim", markup=False, highlight=False, soft_wrap=True)

    def _write(self, text: str) -> None:
        if not text:
            return
        write(sys.stdout, text)
        self._at_line_start = text.endswith("\n")

    def _end_line(self) -> None:
        if not self._at_line_start:
            self._write("\n")


MAX_PAST_CHARS = 400


def write(stream: TextIO, text: str) -> None:
    """Write at once; what the stream's encoding lacks is escaped. BrokenPipeError if nobody reads."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def describe(error: BaseException) -> str:
    """The text of an expected error."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
