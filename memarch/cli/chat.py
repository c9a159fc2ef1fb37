"""`memarch chat`: talk with a model that remembers; in a terminal, in a pipe, or as lines of JSON."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ._chat_options import DEFAULT_SYSTEM, Options
from ._memory_open import EmbedderOption, KeyFileOption, PathOption, UserOption, VectorsOption, utf8

EXIT_CODES = (
    "Exit codes: 0 fine; 1 the model could not answer; 2 bad usage; 3 the store or a file could not be used; "
    "130 interrupted."
)


class Summaries(StrEnum):
    """Who writes Compact Memory."""

    extractive = "extractive"
    model = "model"


def chat(
    context: typer.Context,
    message: Annotated[
        str | None,
        typer.Argument(callback=utf8, help='Answer this and leave; "-" takes all of stdin as one message.'),
    ] = None,
    go_on: Annotated[bool, typer.Option("--continue", "-c", help="Go on with the latest session.")] = False,
    session: Annotated[
        str | None, typer.Option("--session", metavar="NAME", callback=utf8, help="Go on with, or begin, this session.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", callback=utf8, help="Default: see `memarch models`."),
    ] = None,
    system: Annotated[
        str,
        typer.Option("--system", "-s", metavar="TEXT", callback=utf8, help="What it is told first; empty: nothing."),
    ] = DEFAULT_SYSTEM,
    budget: Annotated[int, typer.Option(metavar="TOKENS", help="Longest prompt.")] = 3500,
    summaries: Annotated[
        Summaries, typer.Option(help="Who summarises: picked sentences, or the model that answers.")
    ] = Summaries.extractive,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Longest wait for a token.")] = 120.0,
    no_log: Annotated[bool, typer.Option("--no-log", help="Store nothing, neither turns nor input history.")] = False,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print an answer when it is whole.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before /forget and /erase.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object a line: what happened, see README.")] = False,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay",
            metavar="FILE",
            help="Tell a recorded dialogue to a memory that vanishes afterwards, unless --path says where it stays: "
            'our JSONL, lines like "Ada: hello", or LoCoMo\'s JSON (FILE#conv-26 chooses one of its conversations).',
        ),
    ] = None,
    ask: Annotated[
        Path | None,
        typer.Option(
            "--ask",
            metavar="FILE",
            help='With --replay: questions, a line each, as text or {"question", "answer", "evidence"}; '
            "default: those of a LoCoMo file.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="With --replay: a PNG of recall and prompt tokens.")
    ] = None,
    path: PathOption = None,
    user: UserOption = "default",
    vectors: VectorsOption = None,
    key_file: KeyFileOption = None,
    embedder: EmbedderOption = None,
) -> None:
    """Talk with a model that remembers what was said, in this session and in all before it.

    Without a terminal each line of stdin is a message or a command; a line of three quotes begins and ends a longer
    one. The first thing that fails ends it. `/help` lists the commands.
    """
    from ._chat_run import run
    from ._memory_open import failing, read_key

    with failing():
        options = Options(
            message=message, go_on=go_on, session=session, model=model, system=system, budget_tokens=budget,
            model_summaries=summaries is Summaries.model, timeout_seconds=timeout, no_log=no_log, stream=not no_stream,
            yes=yes, as_json=as_json, replay=replay, ask=ask, plot=plot, path=path, user=user, vectors=vectors,
            embedder=embedder, key=read_key(key_file), path_is_typed=_is_typed(context, "path"),
        )  # fmt: skip
        code = run(options)
    if code:
        raise typer.Exit(code)
    sys.stdout.flush()


def _is_typed(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, and not in the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
