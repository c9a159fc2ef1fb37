"""Commands of a chat that change what was said or what is remembered of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import _memory_show as show
from ._chat_answer import answer
from ._chat_screen import Result
from ._chat_state import Chat, Leave
from ._memory_texts import parse_time

if TYPE_CHECKING:
    from memarch.dialogue.records import Turn
    from memarch.dialogue.session import Event

SELECTORS = "TURN | last | session [NAME] | before TIME"


def remember(chat: Chat, argument: str) -> Result:
    """TEXT: keep a note that forgetting never takes."""
    if not argument:
        raise ValueError("/remember needs a text, as in /remember my train leaves at 9")
    turn = chat.session.remember(argument)
    return Result({"turn": turn.turn}, f"noted as turn {turn.turn}, pinned")


def pin(chat: Chat, argument: str) -> Result:
    """TURN | last [off]: forgetting never takes it; off lets it go."""
    name, _, off = argument.partition(" ")
    if off not in ("", "off"):
        raise ValueError(f"/pin takes a turn and perhaps off, as in /pin 12 off; got {argument[:60]!r}")
    chosen = _one_turn(chat, name)
    chat.memory.pin(**chosen, pinned=not off)
    turn = chosen.get("turn", name)
    return Result({"turn": turn, "pinned": not off}, f"turn {turn} is {'no longer ' if off else ''}pinned")


def forget(chat: Chat, argument: str) -> Result:
    """TURN | last | session [NAME] | before TIME: put away, so that no search finds it."""
    chosen = _selected(chat, argument, command="/forget")
    report = chat.memory.forget(**chosen, dry_run=True)
    if not report.chunks:
        kept = f" ({show.count_of(report.num_pinned, 'pinned chunk')})" if report.num_pinned else ""
        return Result(show.plain(report), f"nothing there to forget{kept}")
    if not chat.agreed(f"forget {show.count_of(len(report.chunks), 'chunk')} ({argument})"):
        return Result({"done": False}, "nothing was changed")
    report = chat.memory.forget(**chosen)
    count = show.count_of(len(report.chunks), "chunk")
    return Result(show.plain(report), f"forgot {count}; `memarch memory restore` brings back what was forgotten")


def erase(chat: Chat, argument: str) -> Result:
    """as /forget | all: delete for good, from files, summaries and input history."""
    if argument == "all":
        return _erase_all(chat)
    chosen = _selected(chat, argument, command="/erase")
    count = chat.memory.count(**chosen)
    if not count:
        raise ValueError(f"no turn matches {argument[:80]!r}: /memory and /sessions show what there is")
    if not chat.agreed(f"erase {show.count_of(count, 'turn')} for good ({argument})"):
        return Result({"done": False}, "nothing was changed")
    texts = [turn.text for turn in _turns_of(chat, chosen)]
    receipt = chat.session.erase(**chosen)
    num_lines = chat.history.scrub(texts)
    told = f"erased {show.count_of(len(receipt.turns), 'turn')} and {show.count_of(len(receipt.chunks), 'chunk')}"
    lines = f", {show.count_of(num_lines, 'line')} of the input history" if num_lines else ""
    return Result({**show.plain(receipt), "num_history": num_lines}, told + lines)


def _erase_all(chat: Chat) -> Result:
    count = chat.memory.count()
    if not chat.agreed(f"erase all {show.count_of(count, 'turn')} of user {chat.memory.user!r} for good and leave"):
        return Result({"done": False}, "nothing was changed")
    receipt = chat.memory.erase(user=chat.memory.user)
    chat.history.clear()
    chat.screen.result("/erase", Result(show.plain(receipt), f"erased {show.count_of(len(receipt.turns), 'turn')}"))
    raise Leave


def edit(chat: Chat, argument: str) -> None:
    """[TEXT]: say something else instead of your last message."""
    if not argument:
        if chat.compose is None:
            raise ValueError("/edit needs the new text, as in /edit I meant Lyon")
        last = last_message(chat)
        if last is None:
            raise ValueError("there is no message in this session to edit")
        argument = chat.compose(last.text).strip()
        if not argument:
            chat.screen.note("nothing was changed")
            return

    def ask() -> Iterator[Event]:
        last = last_message(chat)
        events = chat.session.edit(argument)
        if last is not None:
            chat.history.scrub([last.text])
        return events

    answer(chat, ask)


def undo(chat: Chat, argument: str) -> Result:
    """take back your last message and its answer."""
    del argument
    turns = chat.session.undo()
    if not turns:
        raise ValueError("there is nothing in this session to take back")
    said = show.one_line(turns[0].text)
    return Result({"turns": [turn.turn for turn in turns]}, f"took back: {said[:80]}{'…' if len(said) > 80 else ''}")


def redo(chat: Chat, argument: str) -> Result:
    """bring back what /undo took, while the chat is open."""
    del argument
    turns = chat.session.redo()
    if not turns:
        raise ValueError("there is nothing to bring back: /redo follows /undo, before anything else is said or erased")
    return Result({"turns": [turn.turn for turn in turns]}, f"brought back {show.count_of(len(turns), 'turn')}")


def retry(chat: Chat, argument: str) -> None:
    """answer your last message again."""
    del argument
    answer(chat, chat.session.retry)


def last_message(chat: Chat) -> Turn | None:
    """What the user said last in this session, if it is stored."""
    turns = [] if chat.session.incognito else chat.memory.turns(session=chat.session.session, last=8)
    return next((turn for turn in reversed(turns) if turn.role == "user"), None)


def _one_turn(chat: Chat, name: str) -> dict[str, Any]:
    if name == "last":
        turn = last_message(chat)
        if turn is None:
            raise ValueError("there is no message of yours stored in this session")
        return {"turn": turn.turn}
    if not name:
        raise ValueError("expected the number of a turn, or last: /memory shows the numbers")
    return {"turn": int(name)} if name.isdecimal() else {"source_id": name}


def _selected(chat: Chat, argument: str, *, command: str) -> dict[str, Any]:
    kind, _, value = argument.partition(" ")
    if not kind:
        raise ValueError(f"{command} needs to know what: {SELECTORS}{' | all' if command == '/erase' else ''}")
    if kind == "session":
        return {"session": value.strip() or chat.session.session}
    if kind == "before":
        return {"before": parse_time(f"{command} before", value.strip())}
    if value:
        raise ValueError(f"{command} takes {SELECTORS}; got {argument[:60]!r}")
    return _one_turn(chat, kind)


def _turns_of(chat: Chat, chosen: dict[str, Any]) -> list[Turn]:
    return list(chat.memory.store.turns(numbers=chat.memory.store.find_turns(**chosen)))
