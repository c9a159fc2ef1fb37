"""The commands of a chat: `/name argument`. What each does is the first line of its function's docstring."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

from . import _chat_change as change
from . import _chat_look as look
from . import _chat_move as move
from . import _chat_settings as settings
from ._chat_screen import Result
from ._chat_state import Chat

Command = Callable[[Chat, str], Result | None]


def help_(chat: Chat, argument: str) -> Result:
    """[COMMAND]: this list, or what a command does."""
    del chat
    wanted = "/" + argument.removeprefix("/") if argument else ""
    if wanted and wanted not in COMMANDS:
        raise _unknown(wanted)
    names = [wanted] if wanted else list(COMMANDS)
    rows = [[name, arguments_of(name), what_of(name)] for name in names]
    found = [{"command": row[0], "arguments": row[1], "help": row[2]} for row in rows]
    return Result({"commands": found}, "", ("command", "", "does"), rows)


COMMANDS: dict[str, Command] = {
    "/help": help_,
    "/memory": look.memory,
    "/search": look.search,
    "/why": look.why,
    "/prompt": look.prompt,
    "/summary": look.summary,
    "/budget": look.budget,
    "/stats": look.stats,
    "/remember": change.remember,
    "/pin": change.pin,
    "/forget": change.forget,
    "/erase": change.erase,
    "/retry": change.retry,
    "/edit": change.edit,
    "/undo": change.undo,
    "/redo": change.redo,
    "/sessions": look.sessions,
    "/new": move.new,
    "/load": move.load,
    "/save": move.save,
    "/incognito": move.incognito,
    "/import": move.import_,
    "/export": move.export,
    "/model": settings.model,
    "/system": settings.system,
    "/set": settings.set_,
    "/quit": move.leave,
}
ALIASES = {"/exit": "/quit", "/bye": "/quit", "/?": "/help"}


def is_command(text: str) -> bool:
    """Whether a line is one; two slashes begin a message that starts with one."""
    return text.startswith("/") and not text.startswith("//")


def run_command(chat: Chat, text: str) -> None:
    """Do what the line says and show what it found. ValueError for an unknown command; whatever it raises."""
    name, _, argument = text.strip().partition(" ")
    name = ALIASES.get(name, name)
    if name not in COMMANDS:
        raise _unknown(name)
    result = COMMANDS[name](chat, argument.strip())
    if result is not None:
        chat.screen.result(name, result)


def arguments_of(name: str) -> str:
    """What may follow a command, "" for nothing."""
    before, colon, _ = _line(name).partition(": ")
    return before if colon else ""


def what_of(name: str) -> str:
    """What a command does, in one line."""
    before, colon, after = _line(name).partition(": ")
    return after if colon else before


def candidates(chat: Chat, name: str) -> Iterable[str]:
    """What may be typed after a command, for completion; files are completed elsewhere."""
    match ALIASES.get(name, name):
        case "/load":
            return [session.session for session in chat.memory.sessions()]
        case "/model":
            from memarch.dialogue.generators.registry import available

            return [model.spec for model in available()]
        case "/set":
            return list(settings.SETTINGS)
        case "/incognito":
            return ["on", "off"]
        case "/help":
            return [command.removeprefix("/") for command in COMMANDS]
        case "/system":
            return ["none"]
        case "/pin" | "/forget" | "/erase":
            own = {"/pin": [], "/forget": ["session", "before"], "/erase": ["session", "before", "all"]}[name]
            return ["last", *own, *(str(turn.turn) for turn in reversed(chat.memory.turns(last=10)))]
    return []


WITH_FILES = frozenset({"/save", "/load", "/import", "/export"})


def _line(name: str) -> str:
    return (COMMANDS[name].__doc__ or "").strip().split("\n")[0]


def _unknown(name: str) -> ValueError:
    close = difflib.get_close_matches(name, [*COMMANDS, *ALIASES], n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return ValueError(
        f"there is no command {name[:40]!r}: {meant}/help lists all; // begins a message that starts with a slash"
    )
