"""From options to a chat: open the memory, name the model, choose between terminal, pipe and replay."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from ._chat_history import InputHistory, history_file
from ._chat_json import JsonScreen
from ._chat_load import Loader
from ._chat_loop import messages, stdin_lines, talk
from ._chat_options import Options
from ._chat_screen import Screen
from ._chat_state import Chat
from ._memory_texts import read_stdin

if TYPE_CHECKING:
    from types import FrameType

    from memarch.dialogue.generators.base import Generator
    from memarch.dialogue.memory import DialogueMemory

# A model takes seconds for a summary; the last turns are in the prompt anyway.
MODEL_SUMMARY_TURNS = 10


def run(options: Options) -> int:
    """Chat until the user leaves; the exit code."""
    from memarch.dialogue.generators.registry import open_generator

    generator = open_generator(options.model, timeout_seconds=options.timeout_seconds)
    with _leaving_orderly(), opened_memory(options, generator) as memory:
        try:
            if options.replay is not None:
                return _replay(options, memory, generator)
            return _chat(options, memory, generator)
        except BrokenPipeError:
            # The reader (head, less) has enough; without this the interpreter complains once more while it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


def _replay(options: Options, memory: DialogueMemory, generator: Generator) -> int:
    from rich.console import Console

    from ._chat_replay import replay

    assert options.replay is not None
    return replay(
        memory,
        generator,
        options.replay,
        options.ask,
        console=Console(),
        system=options.system,
        budget_tokens=options.budget_tokens,
        json=options.as_json,
        plot=options.plot,
    )


def _chat(options: Options, memory: DialogueMemory, generator: Generator) -> int:
    from memarch.dialogue.session import ChatSession, latest_session

    name = latest_session(memory) if options.go_on else options.session
    session = ChatSession(
        memory, generator, system=options.system, budget_tokens=options.budget_tokens, session=name
    )  # fmt: skip
    session.incognito = options.no_log
    is_terminal = not options.as_json and options.message is None and sys.stdin.isatty() and sys.stdout.isatty()
    chat = Chat(memory, session, _screen(options, is_terminal), Loader(generator, memory), options)
    if is_terminal:
        return _in_terminal(chat, resumed=name is not None)
    chat.show_opening(resumed=name is not None)
    if session.pending() is not None:
        chat.screen.note("the last message of this session was not answered: /retry answers it")
    if options.message is None:
        return talk(chat, messages(stdin_lines()))
    message = read_stdin() if options.message == "-" else options.message
    if not message.strip():
        raise ValueError(f"expected a message to answer; got {message[:40]!r}")
    return talk(chat, [message])


def _in_terminal(chat: Chat, *, resumed: bool) -> int:
    try:
        from ._chat_terminal import Terminal
    except ImportError as error:
        raise ImportError(f"typing in a terminal needs a package ({error}): pip install 'memarch[chat]'") from error
    options = chat.options
    # What is encrypted there must not stand in the clear here.
    if not options.no_log and options.key is None:
        chat.history = InputHistory(history_file(chat.memory.store.location, chat.memory.user))
    chat.show_opening(resumed=resumed)
    if options.go_on and not resumed:
        chat.screen.note("there is no earlier session: this is the first")
    chat.screen.note('/help lists commands, """ begins a long message, Ctrl-C stops an answer, Ctrl-D leaves')
    terminal = Terminal(chat)
    chat.loader.start(then=lambda error: None if error is None else chat.screen.error(error))
    terminal.offer_pending()
    return terminal.run()


def _screen(options: Options, is_terminal: bool) -> Screen:
    if options.as_json:
        return JsonScreen(stream=options.stream)
    if not is_terminal:
        return Screen(stream=options.stream)
    from rich.console import Console

    return Screen(Console(), stream=options.stream)


@contextmanager
def opened_memory(options: Options, generator: Generator) -> Iterator[DialogueMemory]:
    """The user's memory; with --no-log read-only, and where there is none an empty one that vanishes.

    A replay gets one that vanishes too, unless --path names where it is to be kept.
    """
    from memarch.dialogue.generators.base import summarizer_of
    from memarch.dialogue.memory import DialogueMemory
    from memarch.dialogue.stores import has_memory

    from ._memory_open import locate, use_embedder

    location = locate(options.path)
    vanishes = options.no_log or (options.replay is not None and not options.path_is_typed)
    with tempfile.TemporaryDirectory(prefix="memarch-") as nowhere:
        read_only = options.no_log and options.replay is None and has_memory(location, options.user)
        with DialogueMemory(
            location if read_only or not vanishes else nowhere,
            user=options.user,
            embedder="none",
            vectors=options.vectors if read_only or not vanishes else None,
            summarizer=summarizer_of(generator) if options.model_summaries else None,
            summary_every_turns=MODEL_SUMMARY_TURNS if options.model_summaries else 1,
            read_only=read_only,
            key=options.key,
        ) as memory:
            use_embedder(memory, options.embedder)
            yield memory


@contextmanager
def _leaving_orderly() -> Iterator[None]:
    """A polite kill, or a terminal that goes away, ends the process as an exit does: what came so far is stored."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    old = {name: signal.signal(getattr(signal, name), leave) for name in names if hasattr(signal, name)}
    try:
        yield
    finally:
        for name, handler in old.items():
            signal.signal(getattr(signal, name), handler)
