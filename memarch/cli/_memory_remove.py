"""`memarch memory forget | restore | erase`: put away, bring back, delete for good. A count and a yes before it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _memory_show as show
from ._chat_history import InputHistory, history_file
from ._memory_open import NOTHING, JsonOption, KeyFileOption, PathOption, UserOption, VectorsOption, opened, shown, utf8
from ._memory_texts import confirm, parse_time
from .errors import USAGE, fail

if TYPE_CHECKING:
    from memarch.dialogue.memory import DialogueMemory
    from memarch.dialogue.records import ForgetReport

TurnOption = Annotated[int | None, typer.Option("--turn", "-t", metavar="NUMBER", help="The turn of this number.")]
SourceOption = Annotated[
    str | None, typer.Option("--source-id", metavar="NAME", callback=utf8, help="The turn of this source.")
]
SessionOption = Annotated[
    str | None, typer.Option("--session", "-s", metavar="NAME", callback=utf8, help="Turns of this session.")
]
BeforeOption = Annotated[
    str | None, typer.Option("--before", metavar="TIME", help="Turns said before, as 2026-01-31T12:00; local time.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
NUM_SHOWN = 20


def forget(
    turn: TurnOption = None,
    source_id: SourceOption = None,
    session: SessionOption = None,
    before: BeforeOption = None,
    fraction: Annotated[
        float | None, typer.Option(help="Without a selector: how much of the memory, its least salient part.")
    ] = None,
    min_age: Annotated[int | None, typer.Option(help="Without a selector: turns younger than this stay.")] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    path: PathOption = None,
    user: UserOption = "default",
    vectors: VectorsOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put turns away so that no search finds them; `restore` brings them back. For good: `erase`.

    Without a selector these are the least salient ones, as forgetting by itself would choose them now. Pinned turns
    stay.
    """
    from memarch.dialogue.salience import DEFAULT_POLICY, ForgettingPolicy

    with opened(path, user, vectors, key_file=key_file, mode="write") as memory:
        chosen: dict[str, Any] = _selectors(turn=turn, source_id=source_id, session=session, before=before)
        if chosen and (fraction is not None or min_age is not None):
            raise ValueError("--fraction and --min-age choose by salience: give them or a selector, not both")
        if not chosen:
            chosen["policy"] = ForgettingPolicy(
                fraction=DEFAULT_POLICY.fraction if fraction is None else fraction,
                min_age_turns=DEFAULT_POLICY.min_age_turns if min_age is None else min_age,
            )
        report = memory.forget(**chosen, dry_run=True)
        if report.chunks and not dry_run:
            confirm(f"forget {_chunks_of(memory, report)}", yes=yes)
            report = memory.forget(**chosen)
        if as_json:
            show.emit_json(report)
        else:
            _print_forgotten(memory, report)
    if not report.chunks:
        raise typer.Exit(NOTHING)


def restore(
    turn: TurnOption = None,
    source_id: SourceOption = None,
    session: SessionOption = None,
    before: BeforeOption = None,
    path: PathOption = None,
    user: UserOption = "default",
    vectors: VectorsOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring back what was forgotten: what a selector names, or everything."""
    with opened(path, user, vectors, key_file=key_file, mode="write") as memory:
        report = memory.restore(**_selectors(turn=turn, source_id=source_id, session=session, before=before))
    if as_json:
        show.emit_json(report)
    elif report.chunks:
        show.emit(f"brought back {show.count_of(len(report.chunks), 'chunk')}")
    else:
        print("nothing of that is forgotten", file=sys.stderr)
    if not report.chunks:
        raise typer.Exit(NOTHING)


def erase(
    turn: TurnOption = None,
    source_id: SourceOption = None,
    session: SessionOption = None,
    before: BeforeOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything of this user, receipts too.")] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    path: PathOption = None,
    user: UserOption = "default",
    vectors: VectorsOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete turns for good: text, vectors and summaries of them, from the files too. Prints a receipt.

    Selectors are combined: `--session 3 --before 2026-01-31` erases what both name.
    """
    with opened(path, user, vectors, key_file=key_file, mode="write") as memory:
        chosen = _selectors(turn=turn, source_id=source_id, session=session, before=before)
        if bool(chosen) == everything:
            fail("erase needs --turn, --source-id, --session or --before, or else --all for everything", USAGE)
        # Repeated in full: what is typed last on a long line is easily overlooked.
        told = (
            "everything" if everything else " and ".join(f"{_option(name)} {value}" for name, value in chosen.items())
        )
        count = memory.count(**chosen)
        if not count and not everything:
            print(f"no turn matches {show.one_line(told)}", file=sys.stderr)
            raise typer.Exit(NOTHING)
        what = f"{show.count_of(count, 'turn')} of user {user!r} in {shown(memory.store.location)} ({told})"
        if dry_run:
            _print_would_erase(what, count, chosen, as_json)
            return
        confirm(f"erase {what} for good", yes=yes)
        texts = (
            [] if everything else [turn.text for turn in memory.store.turns(numbers=memory.store.find_turns(**chosen))]
        )
        location = memory.store.location
        receipt = memory.erase(user=user) if everything else memory.erase(**chosen)
    # What was typed into a chat is in its input history, too.
    typed = InputHistory(history_file(location, user))
    if everything:
        typed.clear()
    else:
        typed.scrub(texts)
    if as_json:
        show.emit_json(receipt)
        return
    show.emit(f"erased {show.count_of(len(receipt.turns), 'turn')} and {show.count_of(len(receipt.chunks), 'chunk')}")
    show.emit_pairs(
        {
            "time": receipt.time.isoformat(timespec="seconds"),
            "turns": _ranges(receipt.turns),
            "summaries": f"{len(receipt.summaries_dropped)} dropped, {len(receipt.summaries_remade)} made again",
            "rewritten": ", ".join(receipt.files_rewritten) or "nothing",
        }
    )


def _selectors(*, turn: int | None, source_id: str | None, session: str | None, before: str | None) -> dict[str, Any]:
    given = {"turn": turn, "source_id": source_id, "session": session, "before": parse_time("--before", before)}
    return {name: value for name, value in given.items() if value is not None}


def _option(name: str) -> str:
    return name.replace("_", "-")


def _chunks_of(memory: DialogueMemory, report: ForgetReport) -> str:
    location = shown(memory.store.location)
    return f"{show.count_of(len(report.chunks), 'chunk')} of user {memory.user!r} in {location}"


def _print_forgotten(memory: DialogueMemory, report: ForgetReport) -> None:
    if not report.chunks:
        kept = f"{report.num_considered} considered, {report.num_pinned} pinned, {report.num_young} too young"
        print(f"nothing to forget: {kept}", file=sys.stderr)
        return
    chunks = {chunk.chunk: chunk for chunk in memory.store.chunks(numbers=report.chunks[:NUM_SHOWN])}
    rows = []
    for number, salience in zip(report.chunks, report.salience, strict=True):
        if chunk := chunks.get(number):
            rows.append([str(chunk.turn), f"{salience:.3f}", chunk.role, show.one_line(chunk.text)[:100]])
    show.emit_table(("turn", "salience", "role", "text"), rows)
    rest = len(report.chunks) - len(rows)
    done = "would forget" if report.dry_run else "forgot"
    more = f", {rest} of them not shown" if rest > 0 else ""
    show.say(f"{done} {show.count_of(len(report.chunks), 'chunk')}{more}")


def _print_would_erase(what: str, count: int, chosen: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        selector = {name: show.plain(value) for name, value in chosen.items()} or {"user": "all"}
        show.emit_json({"dry_run": True, "num_turns": count, "selector": selector})
    else:
        show.emit(f"would erase {what}")


def _ranges(numbers: tuple[int, ...]) -> str:
    """1, 2, 3, 7 as "1-3, 7"; the first few ranges."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    told = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    return ", ".join(told[:NUM_SHOWN]) + (", ..." if len(told) > NUM_SHOWN else "") or "none"
