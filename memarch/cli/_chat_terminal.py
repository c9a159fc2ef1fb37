"""The chat in a terminal: a line to type on, with history, completion, several lines, and a bar below it."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.patch_stdout import patch_stdout

from . import _memory_show as show
from ._chat_answer import answer
from ._chat_commands import ALIASES, COMMANDS, WITH_FILES, candidates, what_of
from ._chat_history import InputHistory
from ._chat_loop import handle, is_open, unquoted
from ._chat_state import Chat, Leave

if TYPE_CHECKING:
    from prompt_toolkit.formatted_text import AnyFormattedText


class Terminal:
    """Reads what the user types in `chat`, and does it."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        chat.confirm, chat.compose = self._confirm, self._compose
        no_color = chat.screen.console is not None and chat.screen.console.no_color
        self._session: PromptSession[str] = PromptSession(
            history=_TypedHistory(chat.history),
            completer=_CommandCompleter(chat),
            complete_while_typing=Condition(self._is_typing_command),
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation="  ",
            bottom_toolbar=self._toolbar,
            color_depth=ColorDepth.DEPTH_1_BIT if no_color else None,
            enable_open_in_editor=True,
            tempfile_suffix=".md",
        )
        self._plain: PromptSession[str] = PromptSession(history=InMemoryHistory())

    def run(self) -> int:
        """Until the user leaves; the exit code."""
        from memarch.dialogue.errors import DialogueError

        while True:
            try:
                with patch_stdout(raw=True):
                    text = self._session.prompt("» " if self.chat.session.incognito else "> ")
            except KeyboardInterrupt:
                self.chat.screen.note("Ctrl-D or /quit leaves")
                continue
            except EOFError:
                return 0
            if not text.strip():
                continue
            if not self.chat.session.incognito and not self.chat.options.no_log:
                self.chat.history.add(text)
            try:
                handle(self.chat, unquoted(text))
            except Leave:
                return 0
            except KeyboardInterrupt:
                self.chat.screen.note("interrupted")
            except BrokenPipeError:
                raise
            except (ValueError, DialogueError, OSError, ImportError) as error:
                self.chat.screen.error(error)
                if self._is_unanswered(text):
                    self.chat.screen.note("your message is kept: /retry asks again, /model takes another model")

    def offer_pending(self) -> None:
        """Offer to answer what was left without an answer: the process died, or the model failed."""
        turn = self.chat.session.pending()
        if turn is None:
            return
        try:
            if self._confirm("your last message was not answered: answer it now", default=True):
                answer(self.chat, self.chat.session.retry)
        except Exception as error:
            self.chat.screen.error(error)

    def _is_unanswered(self, text: str) -> bool:
        return not text.startswith("/") and self.chat.session.pending() is not None

    def _confirm(self, what: str, *, default: bool = False) -> bool:
        question = f"{what[0].upper()}{what[1:]}? [{'Y/n' if default else 'y/N'}] "
        try:
            said = self._plain.prompt(show.one_line(question) + " ").strip().lower()
        except (EOFError, KeyboardInterrupt):
            return False
        return default if not said else said in ("y", "yes")

    def _compose(self, text: str) -> str:
        try:
            return unquoted(self._session.prompt("edit> ", default=text))
        except (EOFError, KeyboardInterrupt):
            return ""

    def _is_typing_command(self) -> bool:
        return self._session.default_buffer.text.startswith("/")

    def _toolbar(self) -> AnyFormattedText:
        chat = self.chat
        state = "" if chat.loader.state == "ready" else f" ({chat.loader.state})"
        where = "incognito" if chat.session.incognito else show.one_line(chat.session.session)
        return f" {show.one_line(chat.session.generator.name)}{state} · {where} · /help "


def _keys() -> KeyBindings:
    """Enter sends, unless three quotes are open; Alt-Enter begins another line."""
    keys = KeyBindings()

    # What is typed while an answer comes arrives with line feeds.
    @keys.add("enter")
    @keys.add("c-j")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


class _TypedHistory(History):
    """`InputHistory` for the arrow keys; the chat adds to it, since not everything that is typed belongs there."""

    def __init__(self, history: InputHistory) -> None:
        super().__init__()
        self._history = history

    async def load(self) -> AsyncGenerator[str, None]:
        for text in reversed(self._history.entries):
            yield text

    def get_strings(self) -> list[str]:
        return list(self._history.entries)

    def append_string(self, string: str) -> None:
        del string

    def load_history_strings(self) -> Iterable[str]:
        return reversed(self._history.entries)

    def store_string(self, string: str) -> None:
        del string


class _CommandCompleter(Completer):
    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._files = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, argument = text.partition(" ")
        if not space:
            for command in (*COMMANDS, *ALIASES):
                if command.startswith(name):
                    meta = what_of(ALIASES.get(command, command))
                    yield Completion(command, start_position=-len(name), display_meta=meta.partition(":")[0])
            return
        try:
            found = list(candidates(self._chat, name))
        except Exception:  # nobody typed Enter yet: this is no place for errors
            found = []
        for value in found:
            if value.startswith(argument):
                yield Completion(show.one_line(value), start_position=-len(argument))
        if name in WITH_FILES:
            yield from self._files.get_completions(Document(argument, len(argument)), complete_event)


def is_terminal() -> bool:
    """Whether somebody sits in front of it."""
    return sys.stdin.isatty() and sys.stdout.isatty()
