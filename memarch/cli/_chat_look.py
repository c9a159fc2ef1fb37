"""Commands of a chat that look: nothing is changed by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _memory_show as show
from ._chat_bar import PARTS, budget_bar, part_tokens
from ._chat_screen import Result
from ._chat_state import Chat

if TYPE_CHECKING:
    from memarch.dialogue.records import Hit, Turn

NUM_LISTED = 10


def memory(chat: Chat, argument: str) -> Result:
    """[NUMBER]: the latest turns of all sessions and their numbers."""
    turns = chat.memory.turns(last=whole_number(argument, default=NUM_LISTED))
    marks: dict[int, str] = {}
    for chunk in chat.memory.store.chunks(numbers=None, after=_first_chunk_of(turns)) if turns else ():
        mark = "pinned" if chunk.pinned else "forgotten" if chunk.archived_at is not None else ""
        marks[chunk.turn] = mark
    rows = [
        [str(t.turn), show.local(t.time), t.session, marks.get(t.turn, ""), f"{t.role}: {_short(t.text)}"]
        for t in turns
    ]
    found = [{**show.plain(t), "mark": marks.get(t.turn, "")} for t in turns]
    return Result(
        {"turns": found}, "" if rows else "nothing is stored yet", ("turn", "said", "session", "", "text"), rows
    )


def search(chat: Chat, argument: str) -> Result:
    """WORDS: what is remembered about them, best first."""
    if not argument:
        raise ValueError("/search needs words to look for, as in /search my sister")
    hits = chat.memory.search(argument, NUM_LISTED, note_use=False)
    return _hits(hits, f"nothing found for {argument[:80]!r}", query=argument)


def why(chat: Chat, argument: str) -> Result:
    """the memories in the last prompt, with scores and ages."""
    del argument
    if chat.session.budget() is None:
        return Result({"hits": []}, "no message was answered yet in this session")
    return _hits(chat.session.why(), "the last prompt held no memories beside the last turns")


def prompt(chat: Chat, argument: str) -> Result:
    """the exact messages that the model got last."""
    del argument
    messages = chat.session.prompt()
    text = "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)
    return Result({"messages": messages}, text or "no message was answered yet in this session")


def summary(chat: Chat, argument: str) -> Result:
    """what the model is told about all that was said."""
    del argument
    text = chat.memory.summary()
    return Result({"summary": text}, text or "there is nothing to summarise yet")


def budget(chat: Chat, argument: str) -> Result:
    """how the last prompt shared its tokens, a bar a part."""
    del argument
    from rich.table import Table
    from rich.text import Text

    report = chat.session.budget()
    if report is None:
        return Result({"budget": None}, "no message was answered yet in this session")
    parts = {part.name: part for part in report.parts}
    table = Table(box=None, pad_edge=False, show_header=False)
    rows = []
    for name, tokens in part_tokens(report).items():
        part = parts.get(name)
        lost = len(part.trimmed) if part else 0
        left_out = f"{lost} left out" if lost else ""
        sign, style = PARTS[name]
        length = min(40, -(-40 * tokens // max(1, report.budget_tokens)))
        table.add_row(name, Text(sign * length, style=style), f"{tokens:,}", left_out)
        rows.append([name, str(tokens), left_out])
    told = f"{report.used_tokens:,} of {report.budget_tokens:,} tokens"
    table.add_row("all", budget_bar(report, 40), told, "")
    rows.append(["all", str(report.used_tokens), f"of {report.budget_tokens}"])
    return Result({"budget": report}, "", ("part", "tokens", ""), rows, table)


def sessions(chat: Chat, argument: str) -> Result:
    """all sessions, oldest first."""
    del argument
    found = chat.memory.sessions()
    rows = [
        [str(i), s.session, str(s.num_turns), show.local(s.ended), "here" if s.session == chat.session.session else ""]
        for i, s in enumerate(found, 1)
    ]
    text = "" if rows else "there is no session yet"
    return Result({"sessions": found}, text, ("", "session", "turns", "last", ""), rows)


def stats(chat: Chat, argument: str) -> Result:
    """how much is stored, and where."""
    del argument
    from ._memory_open import shown

    found = chat.memory.stats()
    values: dict[str, Any] = {
        "user": found.user,
        "location": shown(found.location),
        "turns": f"{found.num_turns:,} in {show.count_of(found.num_sessions, 'session')}",
        "pinned": f"{found.num_pinned:,}",
        "forgotten": f"{found.num_archived:,}",
        "summaries": f"{found.num_summaries:,}",
        "vectors": f"{found.num_vectors:,}, {found.num_pending:,} to come",
        "embedder": found.embedder or "none yet",
        "on disk": "unknown" if found.disk_bytes is None else show.num_bytes(found.disk_bytes),
        "model": f"{chat.session.generator.name}, {chat.loader.state}",
    }
    fields = show.plain(found) | {"location": shown(found.location), "model": chat.session.generator.name}
    return Result(fields, "\n".join(f"{name:<9}  {show.one_line(str(value))}" for name, value in values.items()))


def whole_number(argument: str, *, default: int) -> int:
    """A number of at least 1. ValueError for anything else."""
    if not argument:
        return default
    if not argument.isdecimal() or int(argument) < 1:
        raise ValueError(f"expected a whole number of at least 1; got {argument[:40]!r}")
    return int(argument)


def _hits(hits: list[Hit], nothing: str, **fields: Any) -> Result:
    rows = []
    for hit in hits:
        parts = " ".join(f"{name}={value:.2f}" for name, value in hit.parts.items())
        age = f"turn {hit.turn}, {show.count_of(hit.age_turns, 'turn')} ago"
        rows.append([f"{hit.score:.2f}", parts, age, f"{hit.session}, {show.local(hit.time)}", _quoted(hit)])
    terminal = show.make_table(("score", "said", "text"), [_stacked(hit) for hit in hits]) if hits else None
    columns = ("score", "parts", "age", "session", "text")
    return Result({**fields, "hits": hits}, "" if hits else nothing, columns, rows, terminal)


def _stacked(hit: Hit) -> list[str]:
    parts = "\n".join(f"{name:<9} {value:5.2f}" for name, value in hit.parts.items())
    told = (show.local(hit.time), f"turn {hit.turn}, {show.count_of(hit.age_turns, 'turn')} ago", f"in {hit.session}")
    return [f"{'all':<9} {hit.score:5.2f}\n{parts}", "\n".join(map(show.one_line, told)), _quoted(hit)]


def _quoted(hit: Hit) -> str:
    return f"{show.one_line(hit.role)}: {_short(hit.text, 300)}"


def _short(text: str, limit: int = 120) -> str:
    line = show.one_line(text)
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def _first_chunk_of(turns: list[Turn]) -> int:
    """A chunk number before those of these turns: a turn has at least one, so numbers of chunks run ahead."""
    return max(0, turns[0].turn - 1)
