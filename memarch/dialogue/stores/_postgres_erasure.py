"""Hard erasure in PostgreSQL: rows, then every byte of them in the tables' files.

First one transaction deletes the rows, keeps a receipt and leaves a mark; from then on nothing is served any more. Then
the tables (the user's parts of them) are rewritten, a remote index too, and the mark is removed. A crash in between
leaves the mark, and the next open goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from memarch.dialogue.records import Receipt, utc_now

from ._postgres_connection import PostgresConnection
from ._postgres_schema import PARTITIONED, SMALL
from ._postgres_vectors import PostgresVectors


def erase_turns(
    db: PostgresConnection, vectors: PostgresVectors, turns: Sequence[int], selector: Mapping[str, str]
) -> Receipt:
    """See `Store.erase`. Turns that do not exist are ignored; where none exists nothing is kept as a tombstone."""
    wanted, now = sorted({int(turn) for turn in turns}), utc_now()
    with db.lock:
        found = db.rows(
            "SELECT turn, source_id FROM turns WHERE owner = %(owner)s AND turn = ANY (%(wanted)s) ORDER BY turn",
            {"wanted": wanted},
        )
        if not found:
            finish_erasure(db, vectors)
            return Receipt(now, dict(selector), (), (), (), (), ())
        numbers = [row[0] for row in found]
        with db.writing(vectors=True) as (connection, owner):
            values = {"owner": owner, "turns": numbers}
            chunks = sorted(
                row[0]
                for row in connection.execute(
                    "DELETE FROM chunks WHERE owner = %(owner)s AND turn = ANY (%(turns)s) RETURNING chunk", values
                )
            )
            connection.execute("DELETE FROM vectors WHERE owner = %s AND chunk = ANY (%s)", (owner, chunks))
            connection.execute("DELETE FROM turns WHERE owner = %(owner)s AND turn = ANY (%(turns)s)", values)
            dropped = sorted(
                row[0]
                for row in connection.execute(
                    "DELETE FROM summaries WHERE owner = %(owner)s AND lineage && %(turns)s::bigint[] "
                    "RETURNING summary",
                    values,
                )
            )
            receipt = Receipt(
                time=now,
                selector=dict(selector),
                turns=tuple(numbers),
                source_ids=tuple(row[1] for row in found),
                chunks=tuple(chunks),
                summaries_dropped=tuple(dropped),
                summaries_remade=(),
            )
            connection.execute(
                "WITH marked AS (UPDATE users SET last_receipt = last_receipt + 1, pending_erasure = last_receipt + 1 "
                "WHERE owner = %(owner)s RETURNING last_receipt) "
                "INSERT INTO receipts (owner, receipt, body) SELECT %(owner)s, last_receipt, %(body)s FROM marked",
                {"owner": owner, "body": _to_json(receipt)},
            )
        finish_erasure(db, vectors)
        return read_receipts(db)[-1]


def erase_everything(db: PostgresConnection, vectors: PostgresVectors) -> Receipt:
    """See `Store.erase_user`. Numbers begin anew: nothing is left that could tell of the old ones."""
    with db.lock:
        finish_erasure(db, vectors)
        turns = db.rows("SELECT turn, source_id FROM turns WHERE owner = %(owner)s ORDER BY turn")
        chunks = db.rows("SELECT chunk FROM chunks WHERE owner = %(owner)s ORDER BY chunk")
        summaries = db.rows("SELECT summary FROM summaries WHERE owner = %(owner)s ORDER BY summary")
        with db.writing(vectors=True) as (connection, owner):
            for table in (*PARTITIONED, *SMALL):
                connection.execute(f"DELETE FROM {table} WHERE owner = %s".encode(), (owner,))
            connection.execute("UPDATE users SET name = %s WHERE owner = %s", (db.erased_name, owner))
        db.forget_owner()
        files = finish_erasure(db, vectors)
    return Receipt(
        time=utc_now(),
        selector={"user": "all"},
        turns=tuple(row[0] for row in turns),
        source_ids=tuple(row[1] for row in turns),
        chunks=tuple(row[0] for row in chunks),
        summaries_dropped=tuple(row[0] for row in summaries),
        summaries_remade=(),
        files_rewritten=files,
    )


def erased_owner(db: PostgresConnection) -> int | None:
    """Number of the row that stands for this user's erased memory until its bytes are gone."""
    found: int | None = db.value("SELECT owner FROM users WHERE name = %(erased)s", {"erased": db.erased_name})
    return found


def finish_erasure(db: PostgresConnection, vectors: PostgresVectors) -> tuple[str, ...]:
    """Remove the bytes of what an erasure deleted, if one is pending; names of what was rewritten."""
    with db.lock:
        return _finish_user(db, vectors) + _finish_turns(db, vectors)


def _finish_user(db: PostgresConnection, vectors: PostgresVectors) -> tuple[str, ...]:
    if (erased := erased_owner(db)) is None:
        return ()
    files = vectors.erase_user(erased)
    files = (*db.rewrite((*PARTITIONED, *SMALL, "users"), erased), *files)
    db.rows("DELETE FROM users WHERE owner = %(erased)s RETURNING owner", {"erased": erased})
    return files


def _finish_turns(db: PostgresConnection, vectors: PostgresVectors) -> tuple[str, ...]:
    pending = db.rows("SELECT owner FROM users WHERE owner = %(owner)s AND pending_erasure IS NOT NULL")
    if not pending:
        return ()
    files = (*db.rewrite(PARTITIONED, pending[0][0]), *vectors.erase())
    waiting = [row for row in _receipts(db) if not row[1].files_rewritten]
    with db.writing() as (connection, owner):
        for number, receipt in waiting:
            connection.execute(
                "UPDATE receipts SET body = %s WHERE owner = %s AND receipt = %s",
                (_to_json(receipt, files), owner, number),
            )
        connection.execute("UPDATE users SET pending_erasure = NULL WHERE owner = %s", (owner,))
    return files


def read_receipts(db: PostgresConnection) -> list[Receipt]:
    """All tombstones."""
    return [receipt for _, receipt in _receipts(db)]


def _receipts(db: PostgresConnection) -> list[tuple[int, Receipt]]:
    rows = db.rows("SELECT receipt, body FROM receipts WHERE owner = %(owner)s ORDER BY receipt")
    return [(number, _from_json(body)) for number, body in rows]


def _to_json(receipt: Receipt, files: Sequence[str] | None = None) -> str:
    body: dict[str, Any] = {**asdict(receipt), "time": receipt.time.isoformat()}
    return json.dumps(body if files is None else {**body, "files_rewritten": files})


def _from_json(text: str) -> Receipt:
    body = json.loads(text)
    lists = {name: tuple(value) for name, value in body.items() if isinstance(value, list)}
    return Receipt(time=datetime.fromisoformat(body["time"]), selector=body["selector"], **lists)
