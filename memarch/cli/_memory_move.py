"""`memarch memory add | import | export | migrate`: turns on their way in and out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import _memory_show as show
from ._memory_open import (
    NOTHING,
    EmbedderOption,
    JsonOption,
    KeyFileOption,
    NewKeyFileOption,
    PathOption,
    UserOption,
    VectorsOption,
    locate,
    opened,
    read_key,
    shown,
    use_embedder,
    utf8,
)
from ._memory_texts import parse_time, read_stdin, read_text


class Format(StrEnum):
    """What `import` reads."""

    auto = "auto"
    jsonl = "jsonl"
    locomo = "locomo"
    lines = "lines"


def add(
    text: Annotated[str, typer.Argument(callback=utf8, help='What was said; "-" reads it from stdin.')],
    role: Annotated[str, typer.Option("--role", "-r", metavar="NAME", callback=utf8, help="Who said it.")] = "user",
    session: Annotated[
        str | None, typer.Option("--session", "-s", metavar="NAME", callback=utf8, help="Default: the latest session.")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option("--time", metavar="TIME", help="When, as 2026-01-31T12:00 in local time; default: now."),
    ] = None,
    source_id: Annotated[
        str | None,
        typer.Option("--source-id", metavar="NAME", callback=utf8, help="Your own name of the turn; must be new."),
    ] = None,
    path: PathOption = None,
    user: UserOption = "default",
    vectors: VectorsOption = None,
    key_file: KeyFileOption = None,
    embedder: EmbedderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store a turn. It is durable when the command ends; its vector is made by the next search."""
    with opened(path, user, vectors, key_file=key_file, mode="create") as memory:
        said = parse_time("--time", time)
        turn = memory.add(role, read_stdin() if text == "-" else text, session=session, time=said, source_id=source_id)
        if embedder is not None:
            use_embedder(memory, embedder)
    if as_json:
        show.emit_json({name: value for name, value in show.plain(turn).items() if name != "text"})
    else:
        show.emit(
            f"stored turn {turn.turn} of session {show.one_line(turn.session)} as {show.one_line(turn.source_id)}"
        )


def import_(
    file: Annotated[Path, typer.Argument(help='The file; "-" is stdin.')],
    file_format: Annotated[
        Format, typer.Option("--format", "-f", help="auto tells it by the beginning of the file.")
    ] = Format.auto,
    session: Annotated[
        str | None,
        typer.Option("--session", "-s", metavar="NAME", callback=utf8, help="Of lines; default: the file's name."),
    ] = None,
    conversation: Annotated[
        str | None,
        typer.Option(
            "--conversation", metavar="NAME", callback=utf8, help="Of a LoCoMo file only this one, as conv-26."
        ),
    ] = None,
    revive: Annotated[bool, typer.Option("--revive", help="Also turns that were erased from this memory.")] = False,
    path: PathOption = None,
    user: UserOption = "default",
    vectors: VectorsOption = None,
    key_file: KeyFileOption = None,
    embedder: EmbedderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add the turns of a file: an export (JSON lines), LoCoMo's JSON, or lines like "Ada: hello".

    All turns, or none if one is bad. Turns that are there already, by their source, are passed over.
    """
    from memarch.dialogue.errors import EmbedderError
    from memarch.dialogue.formats import as_jsonl, guess_format, parse_lines, parse_locomo

    with opened(path, user, vectors, key_file=key_file, mode="create") as memory:
        text, name = read_text(file)
        kind = Format(guess_format(text)) if file_format is Format.auto else file_format
        for option, given, fitting in (
            ("--session", session, Format.lines),
            ("--conversation", conversation, Format.locomo),
        ):
            if given is not None and kind is not fitting:
                raise ValueError(f"{option} is for the format {fitting.value}; {name} is {kind.value}: drop {option}")
        if kind is Format.jsonl:
            report = memory.import_(text.encode().splitlines(keepends=True), revive=revive, label=name)
        else:
            label = Path(name).stem
            entries = (
                parse_locomo(text, conversation=conversation)
                if kind is Format.locomo
                else parse_lines(text, session=session or label)
            )
            report = memory.import_(as_jsonl(entries), revive=revive, label=label)
        found = report.num_added + report.num_duplicates + report.num_erased
        if found:
            use_embedder(memory, embedder)
            try:
                with show.bar("embedding") as progress:
                    memory.index(progress)
            except EmbedderError as error:
                show.say(f"warning: the turns are stored, but not embedded yet: {error}")
    if as_json:
        show.emit_json(report)
    elif found:
        passed = {"already there": report.num_duplicates, "erased here before (--revive)": report.num_erased}
        told = "".join(f", {count:,} {why}" for why, count in passed.items() if count)
        show.emit(f"added {show.count_of(report.num_added, 'turn')}{told}")
    else:
        show.say(f"there is no turn in {name}")
    if not found:
        raise typer.Exit(NOTHING)


def export(
    file: Annotated[
        Path, typer.Argument(help='Where to; "-" is stdout. An old file stays until the new one is whole.')
    ],
    with_vectors: Annotated[
        bool, typer.Option("--with-vectors", help="So that an import need not embed; they tell what was said, too.")
    ] = False,
    path: PathOption = None,
    user: UserOption = "default",
    vectors: VectorsOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write everything to a file of JSON lines: turns, pins, summaries, receipts. In the clear, whatever the key."""
    from memarch.dialogue.transfer import export_lines

    with opened(path, user, vectors, key_file=key_file) as memory:
        if str(file) == "-":
            show.emit_lines(export_lines(memory.store, vectors=with_vectors))
            return
        with show.bar("exporting") as progress:
            count = memory.export(file, vectors=with_vectors, progress=progress)
    if as_json:
        show.emit_json({"path": str(file), "num_turns": count})
    else:
        show.emit(f"wrote {show.count_of(count, 'turn')} to {file}")


def migrate(
    to: Annotated[str, typer.Option("--to", metavar="LOCATION", help="A directory, or postgresql://...")],
    to_vectors: Annotated[
        str | None, typer.Option("--to-vectors", metavar="URI", help="A Milvus that shall serve the vectors there.")
    ] = None,
    new_key_file: NewKeyFileOption = None,
    path: PathOption = None,
    user: UserOption = "default",
    vectors: VectorsOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a memory to another place and compare the two; the old one stays. Repeat it to go on after a break.

    With a new passphrase the copy is encrypted with that; the copy of an encrypted memory otherwise keeps its own.
    """
    with opened(path, user, vectors, key_file=key_file, mode="write") as memory:
        target = locate(to, option="--to")
        key = read_key(new_key_file, variable="MEMARCH_NEW_KEY")
        with show.bar("moving") as progress:
            report = memory.migrate(target, vectors=to_vectors, key=key, progress=progress)
        old = shown(memory.store.location)
    if as_json:
        show.emit_json(show.plain(report) | {"to": shown(target)})
        return
    copied = (
        show.count_of(report.num_turns, "turn"),
        show.count_of(report.num_chunks, "chunk"),
        show.count_of(report.num_vectors, "vector"),
    )
    show.emit(f"copied {', '.join(copied)} to {shown(target)} and found them equal")
    if report.renumbered:
        show.say("turns have new numbers there, since erased ones left gaps")
    show.say(f"the old memory is still in {old}: once you trust the copy, `memarch memory erase --all` there")
