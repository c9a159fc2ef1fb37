"""Lines in, answers out: what is typed or piped, one after the other."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from ._chat_answer import answer
from ._chat_commands import is_command, run_command
from ._chat_state import Chat, Leave

QUOTES = '"""'


def handle(chat: Chat, text: str) -> None:
    """Do what a command says, or answer a message. Raises: whatever that raises; Leave."""
    if is_command(text):
        run_command(chat, text)
        return
    message = text[1:] if text.startswith("//") else text
    answer(chat, lambda: chat.session.say(message))


def talk(chat: Chat, texts: Iterable[str]) -> int:
    """Handle all texts, the first that fails ends it; the exit code."""
    from memarch.dialogue.errors import DialogueError, GeneratorError

    try:
        for text in texts:
            if text.strip():
                handle(chat, text)
    except Leave:
        return 0
    except GeneratorError as error:
        chat.screen.error(error)
        return 1
    except ValueError as error:
        chat.screen.error(error)
        return 2
    except BrokenPipeError:
        raise
    except (DialogueError, OSError, ImportError) as error:
        chat.screen.error(error)
        return 3
    return 0


def messages(lines: Iterable[bytes]) -> Iterator[str]:
    """Each line a message or a command; three quotes begin and end a longer one. ValueError for what is no UTF-8."""
    block: list[str] | None = None
    for number, raw in enumerate(lines, 1):
        try:
            line = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"stdin should be UTF-8; line {number} is not: convert it first") from error
        if block is None:
            if not line.lstrip().startswith(QUOTES):
                yield line
                continue
            block, line = [], line.lstrip()[len(QUOTES) :]
        rest, end, _ = line.rstrip().rpartition(QUOTES)
        if end and line.rstrip().endswith(QUOTES):
            yield "\n".join([*block, rest]).strip("\n")
            block = None
        else:
            block.append(line)
    if block is not None:
        yield "\n".join(block).strip("\n")


def stdin_lines() -> Iterator[bytes]:
    """Lines of stdin as they come."""
    stream: BinaryIO = sys.stdin.buffer
    return iter(stream.readline, b"")


def unquoted(text: str) -> str:
    """A message as it was typed, without the three quotes around it.

    >>> unquoted('\"\"\"two' + chr(10) + 'lines\"\"\"')
    'two\\nlines'
    """
    stripped = text.strip()
    if not stripped.startswith(QUOTES):
        return text
    return stripped.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")


def is_open(text: str) -> bool:
    """Whether three quotes began a message that does not end yet."""
    stripped = text.strip()
    return stripped.startswith(QUOTES) and not (len(stripped) >= 2 * len(QUOTES) and stripped.endswith(QUOTES))
