"""Turns, chunks, sessions and summaries in PostgreSQL: from records to rows and back, a page at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from memarch.dialogue.errors import StoreCorrupt
from memarch.dialogue.records import Chunk, Marks, NewTurn, Session, Summary, Turn

from ._checks import check_turns, decode_text, encode_text, to_microseconds
from ._postgres_connection import PostgresConnection

# Pages end at either limit, so that neither many short nor a few long texts fill the memory.
_MAX_ROWS, _MAX_BYTES = 1000, 4 * 2**20

_TURNS = b"""
SELECT turn, session, role, time, source_id, sha256, text FROM (
  SELECT *, sum(octet_length(text)) OVER (ORDER BY turn) - octet_length(text) AS before FROM (
    SELECT * FROM turns WHERE owner = %(owner)s AND turn > %(after)s
      AND (%(numbers)s::bigint[] IS NULL OR turn = ANY (%(numbers)s::bigint[]))
      AND (%(session)s::text IS NULL OR session = %(session)s::text)
    ORDER BY turn LIMIT %(rows)s) AS page) AS measured
WHERE before < %(bytes)s ORDER BY turn
"""

_CHUNKS = b"""
SELECT chunk, turn, ordinal, session, role, substring(text FROM start + 1 FOR stop - start), time, source_id, pinned,
       archived_at, retrieved_at
FROM (
  SELECT *, sum(stop - start) OVER (ORDER BY chunk) - (stop - start) AS before FROM (
    SELECT * FROM chunks WHERE owner = %(owner)s AND chunk > %(after)s
      AND (%(numbers)s::bigint[] IS NULL OR chunk = ANY (%(numbers)s::bigint[]))
      AND (%(archived)s::boolean IS NULL OR (archived_at IS NOT NULL) = %(archived)s::boolean)
      AND (NOT %(pending)s OR NOT embedded)
    ORDER BY chunk LIMIT %(rows)s) AS page) AS measured
JOIN turns USING (owner, turn)
WHERE before < %(bytes)s ORDER BY chunk
"""


def add_turns(db: PostgresConnection, turns: Sequence[NewTurn]) -> list[Turn]:
    """Insert turns and their chunks in one transaction."""
    check_turns(turns)
    if not turns:
        return []
    num_chunks = sum(len(new.spans) for new in turns)
    with db.writing() as (connection, owner):
        taken = connection.execute(
            "SELECT source_id FROM turns WHERE owner = %s AND source_id = ANY (%s) LIMIT 1",
            (owner, [new.source_id for new in turns]),
        ).fetchone()
        if taken:
            raise ValueError(
                f"source_id must be unique per user; {taken[0]!r} is there already: erase it or choose another"
            )
        last = connection.execute(
            "UPDATE users SET last_turn = last_turn + %s, last_chunk = last_chunk + %s WHERE owner = %s "
            "RETURNING last_turn, last_chunk",
            (len(turns), num_chunks, owner),
        ).fetchone()
        assert last is not None
        number, chunk = last[0] - len(turns), last[1] - num_chunks
        added, turn_rows, chunk_rows = [], [], []
        for new in turns:
            number += 1
            time = new.time.astimezone(UTC)
            added.append(Turn(number, new.session, new.role, new.text, time, new.source_id, new.sha256))
            turn_rows.append(
                (
                    owner,
                    number,
                    new.session,
                    new.role,
                    time,
                    new.source_id,
                    bytes.fromhex(new.sha256),
                    encode_text(new.text),
                )
            )
            for ordinal, (start, stop) in enumerate(byte_spans(new)):
                chunk += 1
                chunk_rows.append((owner, chunk, number, ordinal, start, stop))
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO turns (owner, turn, session, role, time, source_id, sha256, text) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %b)",
                turn_rows,
            )
            cursor.executemany(
                "INSERT INTO chunks (owner, chunk, turn, ordinal, start, stop) VALUES (%s, %s, %s, %s, %s, %s)",
                chunk_rows,
            )
    return added


def byte_spans(new: NewTurn) -> list[tuple[int, int]]:
    """The spans as byte ranges of the encoded text."""
    edges = sorted({edge for span in new.spans for edge in span})
    places, place, before = {}, 0, 0
    for edge in edges:
        place += len(encode_text(new.text[before:edge]))
        places[edge], before = place, edge
    return [(places[start], places[stop]) for start, stop in new.spans]


def read_turns(
    db: PostgresConnection, *, numbers: Iterable[int] | None, session: str | None, after: int, last: int | None
) -> Iterator[Turn]:
    """See `Store.turns`."""
    wanted = None if numbers is None else sorted({int(number) for number in numbers})
    if last is not None:
        if last < 0:
            raise ValueError(f"last must be at least 0; got {last}")
        latest = db.rows(
            "SELECT turn FROM turns WHERE owner = %(owner)s AND turn > %(after)s "
            "AND (%(numbers)s::bigint[] IS NULL OR turn = ANY (%(numbers)s::bigint[])) "
            "AND (%(session)s::text IS NULL OR session = %(session)s::text) ORDER BY turn DESC LIMIT %(last)s",
            {"after": after, "numbers": wanted, "session": session, "last": last},
        )
        wanted = sorted(row[0] for row in latest)
    return _turn_pages(db, {"numbers": wanted, "session": session, "after": after})


def _turn_pages(db: PostgresConnection, values: dict[str, Any]) -> Iterator[Turn]:
    while page := db.rows(_TURNS, {**values, "rows": _MAX_ROWS, "bytes": _MAX_BYTES}):
        values["after"] = page[-1][0]
        for turn, session, role, time, source_id, sha256, text in page:
            yield Turn(turn, session, role, text_of(text), time.astimezone(UTC), source_id, sha256.hex())


def read_chunks(
    db: PostgresConnection, *, numbers: Iterable[int] | None = None, after: int = 0, archived: bool | None = None,
    pending: bool = False, limit: int | None = None,
) -> Iterator[Chunk]:  # fmt: skip
    """See `Store.chunks`. pending: only those without a current vector."""
    if numbers is not None:
        numbers = sorted({int(number) for number in numbers})
    values = {"numbers": numbers, "after": after, "archived": archived, "pending": pending, "bytes": _MAX_BYTES}
    return _chunk_pages(db, values, limit)


def _chunk_pages(db: PostgresConnection, values: dict[str, Any], limit: int | None) -> Iterator[Chunk]:
    left = limit
    while left is None or left > 0:
        rows = _MAX_ROWS if left is None else min(left, _MAX_ROWS)
        page = db.rows(_CHUNKS, {**values, "rows": rows})
        if not page:
            return
        values["after"] = page[-1][0]
        left = None if left is None else left - len(page)
        for chunk, turn, ordinal, session, role, text, time, source_id, pinned, archived_at, retrieved_at in page:
            yield Chunk(
                chunk, turn, ordinal, session, role, text_of(text), time.astimezone(UTC), source_id, pinned,
                archived_at, retrieved_at,
            )  # fmt: skip


def read_marks(db: PostgresConnection, archived: bool | None) -> Marks:
    """See `Store.marks`."""
    return Marks.of(
        db.rows(
            "SELECT chunk, turn, pinned, archived_at IS NOT NULL, coalesce(retrieved_at, 0) FROM chunks "
            "WHERE owner = %(owner)s AND (%(archived)s::boolean IS NULL OR (archived_at IS NOT NULL) = "
            "%(archived)s::boolean) ORDER BY chunk",
            {"archived": archived},
        )
    )


def find_turns(
    db: PostgresConnection, *, source_id: str | None, turn: int | None, session: str | None, before: datetime | None
) -> list[int]:
    """See `Store.find_turns`."""
    if before is not None:
        to_microseconds(before)  # refuses naive times
    rows = db.rows(
        "SELECT turn FROM turns WHERE owner = %(owner)s "
        "AND (%(source_id)s::text IS NULL OR source_id = %(source_id)s::text) "
        "AND (%(turn)s::bigint IS NULL OR turn = %(turn)s::bigint) "
        "AND (%(session)s::text IS NULL OR session = %(session)s::text) "
        "AND (%(before)s::timestamptz IS NULL OR time < %(before)s::timestamptz) ORDER BY turn",
        {"source_id": source_id, "turn": turn, "session": session, "before": before},
    )
    return [row[0] for row in rows]


def read_sessions(db: PostgresConnection) -> list[Session]:
    """See `Store.sessions`."""
    rows = db.rows(
        "SELECT session, min(turn), max(turn), min(time), max(time), count(*) FROM turns WHERE owner = %(owner)s "
        "GROUP BY session ORDER BY min(turn)"
    )
    return [
        Session(name, first, last, started.astimezone(UTC), ended.astimezone(UTC), count)
        for name, first, last, started, ended, count in rows
    ]


def put_summary(
    db: PostgresConnection, *, level: int, text: str, turns: tuple[int, int], sources: Sequence[int], summarizer: str,
    replaces: Sequence[int],
) -> Summary:  # fmt: skip
    """See `Store.put_summary`. The lineage is kept as turns, so that it outlives a replaced level in between."""
    wanted = list(dict.fromkeys(int(source) for source in sources))
    if level < 1 or not wanted:
        raise ValueError(
            f"a summary needs a level of at least 1 and a source; got level {level}, {len(wanted)} sources"
        )
    with db.writing() as (connection, owner):
        values = {"owner": owner, "wanted": wanted, "level": level}
        if level == 1:
            found = connection.execute(
                "SELECT turn, ARRAY[turn] FROM turns WHERE owner = %(owner)s AND turn = ANY (%(wanted)s)", values
            ).fetchall()
        else:
            found = connection.execute(
                "SELECT summary, lineage FROM summaries WHERE owner = %(owner)s AND level < %(level)s "
                "AND summary = ANY (%(wanted)s)",
                values,
            ).fetchall()
        known = {row[0] for row in found}
        if missing := [source for source in wanted if source not in known]:
            kind = "turns" if level == 1 else f"summaries of a level below {level}"
            raise ValueError(f"sources must be {kind} that exist; these are gone or never were: {missing}")
        lineage = sorted({turn for _, each in found for turn in each})
        number = connection.execute(
            "UPDATE users SET last_summary = last_summary + 1 WHERE owner = %s RETURNING last_summary", (owner,)
        ).fetchone()
        assert number is not None
        connection.execute(
            "INSERT INTO summaries (owner, summary, level, text, first_turn, last_turn, sources, lineage, summarizer) "
            "VALUES (%s, %s, %s, %b, %s, %s, %s, %s, %s)",
            (owner, number[0], level, encode_text(text), *turns, wanted, lineage, summarizer),
        )
        connection.execute(
            "DELETE FROM summaries WHERE owner = %s AND summary = ANY (%s) AND summary <> %s",
            (owner, np.unique(np.asarray(replaces, np.int64)).tolist(), number[0]),
        )
    return Summary(number[0], level, text, *turns, tuple(wanted), summarizer)


def read_summaries(db: PostgresConnection, level: int | None) -> list[Summary]:
    """See `Store.summaries`."""
    rows = db.rows(
        "SELECT summary, level, text, first_turn, last_turn, sources, summarizer FROM summaries "
        "WHERE owner = %(owner)s AND (%(level)s::int IS NULL OR level = %(level)s::int) ORDER BY first_turn, summary",
        {"level": level},
    )
    return [
        Summary(number, depth, text_of(text), first, last, tuple(sources), summarizer)
        for number, depth, text, first, last, sources, summarizer in rows
    ]


def text_of(data: bytes) -> str:
    """The text of a `bytea`. StoreCorrupt if it is not UTF-8."""
    try:
        return decode_text(data)
    except UnicodeDecodeError as error:
        raise StoreCorrupt(f"a text is not UTF-8 ({error}): restore the database from a backup") from error
