"""`memarch memory search | sessions | stats | path`: what is in a memory, nothing of it changed."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _memory_show as show
from ._memory_open import (
    NOTHING,
    EmbedderOption,
    JsonOption,
    KeyFileOption,
    PathOption,
    UserOption,
    VectorsOption,
    failing,
    locate,
    opened,
    shown,
    use_embedder,
    utf8,
)
from ._memory_texts import read_stdin

if TYPE_CHECKING:
    from memarch.dialogue.records import Hit


def search(
    query: Annotated[str, typer.Argument(callback=utf8, help='What to look for; "-" reads it from stdin.')],
    k: Annotated[int, typer.Option("-k", "--limit", help="How many turns at most.")] = 10,
    path: PathOption = None,
    user: UserOption = "default",
    vectors: VectorsOption = None,
    key_file: KeyFileOption = None,
    embedder: EmbedderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the turns that answer a query, best first, with their scores, age, session and source.

    In a pipe, a line a hit, between tabs: score, parts of the score, turns since, time, session, role, source, text.
    """
    from memarch.dialogue.errors import EmbedderError

    with opened(path, user, vectors, key_file=key_file, mode="search") as memory:
        use_embedder(memory, embedder, remember_none=False)
        if query == "-":
            query = read_stdin()
        if not memory.read_only:
            # `search` would do it too, but without a bar. What fails here, it reports, and goes on with words.
            with show.bar("embedding") as progress, suppress(EmbedderError):
                memory.index(progress)
        hits = memory.search(query, k)
    if as_json:
        show.emit_json({"query": query, "hits": hits})
    elif hits:
        rows = [
            [f"{hit.score:.3f}", _parts(hit), str(hit.age_turns), show.local(hit.time)]
            + [hit.session, hit.role, hit.source_id, hit.text]
            for hit in hits
        ]
        show.emit_table((), rows, terminal=lambda: _hits_table(hits))
    else:
        print(f"nothing found for {show.one_line(query)[:80]!r}", file=sys.stderr)
    if not hits:
        raise typer.Exit(NOTHING)


def _parts(hit: Hit, separator: str = " ") -> str:
    return separator.join(f"{name}={value:.3f}" for name, value in hit.parts.items())


def _hits_table(hits: list[Hit]) -> Any:
    rows = []
    for hit in hits:
        told = "\n".join(
            (
                show.local(hit.time),
                f"{show.count_of(hit.age_turns, 'turn')} ago",
                f"session {show.one_line(hit.session)}",
                show.one_line(hit.source_id),
            )
        )
        parts = _parts(hit, "\n")
        rows.append([f"{hit.score:.3f}\n{parts}", told, f"{show.one_line(hit.role)}: {hit.text}"])
    return show.make_table(("score", "said", "text"), rows)


def sessions(
    path: PathOption = None,
    user: UserOption = "default",
    vectors: VectorsOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the sessions, oldest first.

    In a pipe, a line a session, between tabs: session, number of turns, first and last turn, begin, end.
    """
    with opened(path, user, vectors, key_file=key_file) as memory:
        found = memory.sessions()
    if as_json:
        show.emit_json({"sessions": found})
        return
    rows = [
        [s.session, str(s.num_turns), str(s.first_turn), str(s.last_turn)]
        + [show.local(time) for time in (s.started, s.ended)]
        for s in found
    ]
    show.emit_table(("session", "turns", "first", "last", "begin", "end"), rows)


def stats(
    path: PathOption = None,
    user: UserOption = "default",
    vectors: VectorsOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print how much there is: turns, chunks, vectors, summaries, bytes on disk; and whether it is encrypted."""
    with opened(path, user, vectors, key_file=key_file) as memory:
        found = memory.stats()
        location = shown(found.location)
    if as_json:
        show.emit_json(show.plain(found) | {"location": location})
        return
    size = "unknown" if found.disk_bytes is None else show.num_bytes(found.disk_bytes)
    embedder = "none yet" if found.embedder is None else f"{found.embedder}, {found.dim} dimensions"
    show.emit_pairs(
        {
            "user": found.user,
            "location": location,
            "turns": f"{found.num_turns:,}",
            "sessions": f"{found.num_sessions:,}",
            "chunks": f"{found.num_chunks:,}",
            "forgotten": f"{found.num_archived:,}",
            "pinned": f"{found.num_pinned:,}",
            "summaries": f"{found.num_summaries:,}",
            "vectors": f"{found.num_vectors:,}, {found.num_pending:,} to come",
            "embedder": embedder,
            "on disk": f"{size}, encrypted" if found.encrypted else size,
        }
    )


def where(path: PathOption = None, user: UserOption = "default", as_json: JsonOption = False) -> None:
    """Print where the memory is; --json also says whether this user has one there."""
    from memarch.dialogue.stores import has_memory

    with failing():
        location = locate(path)
        if as_json:
            exists = has_memory(location, user) if "://" not in location else None
            show.emit_json({"path": shown(location), "user": user, "exists": exists})
        else:
            show.emit(shown(location))
