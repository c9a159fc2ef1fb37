"""Commands of a chat that go elsewhere: other sessions, files, other settings, out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _memory_show as show
from ._chat_screen import Result
from ._chat_state import Chat, Leave

if TYPE_CHECKING:
    from memarch.dialogue.transfer import ImportReport


def save(chat: Chat, argument: str) -> Result:
    """FILE: write this conversation, as NAME.jsonl to load it again."""
    path = _path(argument, "/save")
    if chat.session.incognito:
        raise ValueError("nothing is stored in incognito, so there is nothing to save: /incognito ends it")
    turns = chat.memory.turns(session=chat.session.session)
    if not turns:
        raise ValueError("nothing was said in this session yet")
    if path.suffix == ".jsonl":
        names = ("role", "text", "session", "time", "source_id")
        lines = (json.dumps({name: show.plain(getattr(turn, name)) for name in names}) + "\n" for turn in turns)
        _write(path, "".join(lines))
    else:
        parts = (f"{show.local(turn.time)}  {turn.role}:\n{turn.text.strip()}\n" for turn in turns)
        _write(path, "\n".join(parts))
    return Result({"path": str(path), "num_turns": len(turns)}, f"wrote {show.count_of(len(turns), 'turn')} to {path}")


def load(chat: Chat, argument: str) -> Result | None:
    """SESSION | NUMBER | FILE.jsonl: go on with an earlier or a saved session."""
    if not argument:
        raise ValueError("/load needs a session's name, its number in /sessions, or a file that /save wrote")
    found = chat.memory.sessions()
    names = [session.session for session in found]
    if argument in names:
        name = argument
    elif argument.isdecimal() and 1 <= int(argument) <= len(names):
        name = names[int(argument) - 1]
    elif argument.endswith(".jsonl"):
        path = _path(argument, "/load")
        report = _import(chat, path)
        name = _session_in(path)
        chat.screen.note(f"added {show.count_of(report.num_added, 'turn')} from {path}")
    else:
        raise ValueError(f"there is no session {argument[:60]!r}: /sessions lists them")
    chat.go_to(name)
    chat.show_opening(resumed=True)
    return None


def new(chat: Chat, argument: str) -> None:
    """[NAME]: begin another session; all before it is remembered."""
    if argument and chat.memory.turns(session=argument, last=1):
        raise ValueError(f"there is a session {argument[:60]!r} already: /load goes on with it")
    chat.go_to(argument or None)
    chat.show_opening(resumed=False)


def incognito(chat: Chat, argument: str) -> Result:
    """[on | off]: read the memory, but store nothing."""
    if argument not in ("", "on", "off"):
        raise ValueError(f"/incognito takes on or off; got {argument[:40]!r}")
    if chat.options.no_log:
        raise ValueError("this chat was started with --no-log and stores nothing: start one without it")
    on = not chat.session.incognito if not argument else argument == "on"
    chat.session.incognito = on
    return Result({"incognito": on}, "nothing is stored from here on" if on else "what is said is stored again")


def import_(chat: Chat, argument: str) -> Result:
    """FILE: add an export, LoCoMo's JSON, or lines like "Ada: hi"."""
    report = _import(chat, _path(argument, "/import"))
    told = f"added {show.count_of(report.num_added, 'turn')}, {report.num_duplicates:,} were there already"
    erased = f", {report.num_erased:,} were erased here before" if report.num_erased else ""
    return Result(show.plain(report), told + erased)


def export(chat: Chat, argument: str) -> Result:
    """FILE: write the whole memory as lines of JSON."""
    path = _path(argument, "/export")
    with show.bar("exporting") as progress:
        count = chat.memory.export(path, progress=progress)
    return Result({"path": str(path), "num_turns": count}, f"wrote {show.count_of(count, 'turn')} to {path}")


def leave(chat: Chat, argument: str) -> None:
    """leave; Ctrl-D does, too."""
    del chat, argument
    raise Leave


def _import(chat: Chat, path: Path) -> ImportReport:
    from memarch.dialogue.formats import as_jsonl, guess_format, parse_lines, parse_locomo

    from ._memory_texts import read_text

    text, _ = read_text(path)
    kind = guess_format(text)
    if kind == "jsonl":
        lines: Any = text.encode().splitlines(keepends=True)
    elif kind == "locomo":
        lines = as_jsonl(parse_locomo(text))
    else:
        lines = as_jsonl(parse_lines(text, session=path.stem))
    chat.is_caught_up = False
    return chat.memory.import_(lines, label=str(path) if kind == "jsonl" else path.stem)


def _session_in(path: Path) -> str:
    """The session of the last line of a file that /save wrote. ValueError if it names none."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    session = json.loads(lines[-1]).get("session") if lines else None
    if not isinstance(session, str):
        raise ValueError(f"{path} was not written by /save: its turns are in the memory now, see /sessions")
    return session


def _path(argument: str, command: str) -> Path:
    if not argument:
        raise ValueError(f"{command} needs the name of a file")
    return Path(argument.strip("\"'")).expanduser()


def _write(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
