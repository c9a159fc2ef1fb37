"""Turns, chunks, sessions, summaries and receipts: from records to rows and back, streamed a page at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from memarch.dialogue.records import Chunk, Marks, NewTurn, Receipt, Session, Summary, Turn

from ._checks import check_turns, decode_text, encode_text, from_microseconds, to_microseconds
from ._sqlite_database import Database, Row, corrupt, numbers_json

_MAX_ROWS, _MAX_BYTES = 1000, 4 * 2**20
_TURN = "turn, session, role, time, source_id, sha256, text"
_CHUNK = "chunk, turn, ordinal, start, stop, pinned, archived_at, retrieved_at"
_IN = "IN (SELECT value FROM json_each(?))"


def add_turns(db: Database, turns: Sequence[NewTurn]) -> list[Turn]:
    """Insert turns and their chunks in one transaction."""
    check_turns(turns)
    if not turns:
        return []
    added = []
    with db.transaction() as connection:
        taken = connection.execute(
            "SELECT source_id FROM turns WHERE source_id IN (SELECT value FROM json_each(?)) LIMIT 1",
            (json.dumps([turn.source_id for turn in turns]),),
        ).fetchone()
        if taken:
            raise ValueError(
                f"source_id must be unique per user; {taken[0]!r} is there already: erase it or choose another"
            )
        for new in turns:
            row = (new.session, new.role, to_microseconds(new.time), new.source_id, bytes.fromhex(new.sha256))
            number = connection.execute(
                "INSERT INTO turns (session, role, time, source_id, sha256, text) VALUES (?, ?, ?, ?, ?, ?)",
                (*row, encode_text(new.text)),
            ).lastrowid
            connection.executemany(
                "INSERT INTO chunks (turn, ordinal, start, stop) VALUES (?, ?, ?, ?)",
                [(number, ordinal, start, stop) for ordinal, (start, stop) in enumerate(new.spans)],
            )
            assert number is not None
            time = from_microseconds(row[2])
            added.append(Turn(number, new.session, new.role, new.text, time, new.source_id, new.sha256))
    return added


def read_turns(
    db: Database, *, numbers: Iterable[int] | None, session: str | None, after: int, last: int | None
) -> Iterator[Turn]:
    """See `Store.turns`."""
    if last is None:
        return _turn_pages(db, numbers, session, after)
    if last < 0:
        raise ValueError(f"last must be at least 0; got {last}")
    wanted = None if numbers is None else numbers_json(numbers)
    where, parameters = _where(("turn " + _IN, wanted), ("session = ?", session))
    sql = f"SELECT turn FROM turns WHERE turn > ?{where} ORDER BY turn DESC LIMIT ?"
    return _turn_pages(db, [row[0] for row in db.rows(sql, (after, *parameters, last))], None, after)


def read_chunks(
    db: Database, *, numbers: Iterable[int] | None = None, after: int = 0, archived: bool | None = None
) -> Iterator[Chunk]:
    """See `Store.chunks`."""
    alive = _only(archived)
    for batch in _batches(numbers):
        where, parameters = _where(("chunk " + _IN, batch))
        yield from _chunk_pages(db, f"chunks WHERE chunk > ?{where}{alive}", after, parameters)


def read_marks(db: Database, archived: bool | None) -> Marks:
    """See `Store.marks`."""
    return Marks.of(
        db.rows(
            "SELECT chunk, turn, pinned, archived_at IS NOT NULL, ifnull(retrieved_at, 0) FROM chunks "
            f"WHERE 1{_only(archived)} ORDER BY chunk"
        )
    )


def _only(archived: bool | None) -> str:
    return "" if archived is None else f" AND archived_at IS {'NOT ' if archived else ''}NULL"


def pending_chunks(db: Database, limit: int | None) -> list[Chunk]:
    """See `Store.without_vector`."""
    chunks: list[Chunk] = []
    source = "chunks INDEXED BY chunks_pending WHERE embedded = 0 AND chunk > ?"
    for chunk in _chunk_pages(db, source, 0, (), max_rows=min(limit or _MAX_ROWS, _MAX_ROWS)):
        if limit is not None and len(chunks) >= limit:
            break
        chunks.append(chunk)
    return chunks


def _chunk_pages(
    db: Database, source: str, after: int, parameters: tuple[Any, ...], *, max_rows: int = _MAX_ROWS
) -> Iterator[Chunk]:
    """A long turn has many chunks: its text is read once for all of them on a page."""
    chunks_sql = f"SELECT {_CHUNK} FROM {source} ORDER BY chunk LIMIT ?"
    turns_sql = f"SELECT {_TURN} FROM turns WHERE turn {_IN} ORDER BY turn"
    while True:
        page, seen = [], 0
        with db.lock:
            rows = db.rows(chunks_sql, (after, *parameters, max_rows))
            wanted = numbers_json(row[1] for row in rows)
            found = db.page(turns_sql, (wanted,), max_rows=_MAX_ROWS, max_bytes=_MAX_BYTES)
        turns = {row[0]: _turn(db, row) for row in found}
        for row in rows:
            turn = turns.get(row[1])
            if turn is not None:  # None: a writer beside this reader erased it just now
                page.append(_chunk(row, turn))
            elif seen and row[1] > max(turns, default=0):
                break  # the texts before it filled the page
            after, seen = row[0], seen + 1
        yield from page
        if seen == len(rows) and len(rows) < max_rows:
            return


def _turn_pages(db: Database, numbers: Iterable[int] | None, session: str | None, after: int) -> Iterator[Turn]:
    for batch in _batches(numbers):
        where, parameters = _where(("turn " + _IN, batch), ("session = ?", session))
        sql, position = f"SELECT {_TURN} FROM turns WHERE turn > ?{where} ORDER BY turn", after
        while page := db.page(sql, (position, *parameters), max_rows=_MAX_ROWS, max_bytes=_MAX_BYTES):
            position = page[-1][0]
            for row in page:
                yield _turn(db, row)


def _batches(numbers: Iterable[int] | None) -> Iterator[str | None]:
    """Ascending numbers as small parameters for `_IN`; one None for no restriction."""
    if numbers is None:
        yield None
        return
    ascending = sorted({int(number) for number in numbers})
    for start in range(0, len(ascending), _MAX_ROWS):
        yield numbers_json(ascending[start : start + _MAX_ROWS])


def _where(*conditions: tuple[str, Any]) -> tuple[str, tuple[Any, ...]]:
    given = [(sql, value) for sql, value in conditions if value is not None]
    return "".join(f" AND {sql}" for sql, _ in given), tuple(value for _, value in given)


def find_turns(
    db: Database, *, source_id: str | None, turn: int | None, session: str | None, before: datetime | None
) -> list[int]:
    """See `Store.find_turns`."""
    where, parameters = _where(
        ("source_id = ?", source_id),
        ("turn = ?", turn),
        ("session = ?", session),
        ("time < ?", None if before is None else to_microseconds(before)),
    )
    return [row[0] for row in db.rows(f"SELECT turn FROM turns WHERE 1{where} ORDER BY turn", parameters)]


def read_sessions(db: Database) -> list[Session]:
    """See `Store.sessions`."""
    rows = db.rows(
        "SELECT session, min(turn), max(turn), min(time), max(time), count(*) FROM turns "
        "GROUP BY session ORDER BY min(turn)"
    )
    return [
        Session(name, first, last, from_microseconds(started), from_microseconds(ended), count)
        for name, first, last, started, ended, count in rows
    ]


def put_summary(
    db: Database, *, level: int, text: str, turns: tuple[int, int], sources: Sequence[int], summarizer: str,
    replaces: Sequence[int],
) -> Summary:  # fmt: skip
    """See `Store.put_summary`. The lineage is kept as turns, so that it outlives a replaced level in between."""
    sources = list(dict.fromkeys(int(source) for source in sources))
    if level < 1 or not sources:
        raise ValueError(
            f"a summary needs a level of at least 1 and a source; got level {level}, {len(sources)} sources"
        )
    wanted = json.dumps(sources)
    with db.transaction() as connection:
        if level == 1:
            found, lineage = f"SELECT turn FROM turns WHERE turn {_IN}", f"SELECT turn FROM turns WHERE turn {_IN}"
        else:
            found = f"SELECT summary FROM summaries WHERE level < {int(level)} AND summary {_IN}"
            lineage = f"SELECT DISTINCT turn FROM lineage WHERE summary {_IN}"
        known = {row[0] for row in connection.execute(found, (wanted,))}
        if missing := [source for source in sources if source not in known]:
            kind = "turns" if level == 1 else f"summaries of a level below {level}"
            raise ValueError(f"sources must be {kind} that exist; these are gone or never were: {missing}")
        number = connection.execute(
            "INSERT INTO summaries (level, text, first_turn, last_turn, sources, summarizer) VALUES (?, ?, ?, ?, ?, ?)",
            (level, encode_text(text), *turns, wanted, summarizer),
        ).lastrowid
        connection.execute(f"INSERT INTO lineage SELECT ?, turn FROM ({lineage})", (number, wanted))
        connection.execute(
            f"DELETE FROM summaries WHERE summary != ? AND summary {_IN}", (number, numbers_json(replaces))
        )
    assert number is not None
    return Summary(number, level, text, *turns, tuple(sources), summarizer)


def read_summaries(db: Database, level: int | None) -> list[Summary]:
    """See `Store.summaries`."""
    where, parameters = _where(("level = ?", level))
    rows = db.rows(
        "SELECT summary, level, text, first_turn, last_turn, sources, summarizer FROM summaries "
        f"WHERE 1{where} ORDER BY first_turn, summary",
        parameters,
    )
    return [
        Summary(number, depth, _text(db, text), first, last, tuple(_list(db, sources)), summarizer)
        for number, depth, text, first, last, sources, summarizer in rows
    ]


def read_receipts(db: Database, number: int | None = None) -> list[Receipt]:
    """All tombstones, or the one of this number."""
    where, parameters = _where(("receipt = ?", number))
    rows = db.rows(
        "SELECT time, selector, turns, source_ids, chunks, summaries, files FROM receipts "
        f"WHERE 1{where} ORDER BY receipt",
        parameters,
    )
    return [
        Receipt(
            time=from_microseconds(time),
            selector=dict(_list(db, selector)),
            turns=tuple(_list(db, turns)),
            source_ids=tuple(_list(db, source_ids)),
            chunks=tuple(_list(db, chunks)),
            summaries_dropped=tuple(_list(db, summaries)),
            summaries_remade=(),
            files_rewritten=tuple(_list(db, files)),
        )
        for time, selector, turns, source_ids, chunks, summaries, files in rows
    ]


def _turn(db: Database, row: Row) -> Turn:
    turn, session, role, time, source_id, sha256, text = row
    return Turn(turn, session, role, _text(db, text), from_microseconds(time), source_id, sha256.hex())


def _chunk(row: Row, turn: Turn) -> Chunk:
    chunk, number, ordinal, start, stop, pinned, archived_at, retrieved_at = row
    text = turn.text[start:stop]
    return Chunk(
        chunk, number, ordinal, turn.session, turn.role, text, turn.time, turn.source_id, bool(pinned), archived_at,
        retrieved_at,
    )  # fmt: skip


def _text(db: Database, data: bytes) -> str:
    try:
        return decode_text(data)
    except UnicodeDecodeError as error:
        raise corrupt(db.path, f"a text is not UTF-8: {error}") from error


def _list(db: Database, data: str) -> list[Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise corrupt(db.path, f"wrong JSON: {error}") from error
    if not isinstance(value, list):
        raise corrupt(db.path, f"wrong JSON: expected a list; got {value!r}")
    return value
