"""Hard erasure: rows, then every byte of them in every file.

First one transaction deletes the rows, keeps a receipt and leaves a mark; from then on nothing is served any more. Then
the database is rewritten, its log emptied, the index rewritten, and the mark removed. A crash in between leaves the
mark, and the next open goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from memarch.dialogue.records import Receipt, utc_now

from ._checks import to_microseconds
from ._sqlite_database import Database, numbers_json
from ._sqlite_records import read_receipts
from ._sqlite_vectors import Vectors

_IN = "IN (SELECT value FROM json_each(?))"
_EVERYTHING = 0  # as `pending_erasure`: no receipt has this number


def erase_turns(db: Database, vectors: Vectors, turns: Sequence[int], selector: Mapping[str, str]) -> Receipt:
    """See `Store.erase`. Turns that do not exist are ignored; where none exists nothing is kept as a tombstone."""
    db.require_writable()
    with db.lock:
        wanted, now = numbers_json(turns), utc_now()
        found = db.rows(f"SELECT turn, source_id FROM turns WHERE turn {_IN} ORDER BY turn", (wanted,))
        if not found:
            finish_erasure(db, vectors)
            return Receipt(now, dict(selector), (), (), (), (), ())
        numbers = json.dumps([row[0] for row in found])
        chunks = [row[0] for row in db.rows(f"SELECT chunk FROM chunks WHERE turn {_IN} ORDER BY chunk", (numbers,))]
        dropped = _column(db, f"SELECT DISTINCT summary FROM lineage WHERE turn {_IN} ORDER BY summary", numbers)
        with db.transaction() as connection:
            connection.execute(f"DELETE FROM summaries WHERE summary {_IN}", (json.dumps(dropped),))
            connection.execute(f"DELETE FROM turns WHERE turn {_IN}", (numbers,))
            connection.execute("DELETE FROM caches")
            receipt = connection.execute(
                "INSERT INTO receipts (time, selector, turns, source_ids, chunks, summaries) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    to_microseconds(now),
                    json.dumps(list(selector.items())),
                    numbers,
                    json.dumps([row[1] for row in found]),
                    json.dumps(chunks),
                    json.dumps(dropped),
                ),
            ).lastrowid
            connection.execute("UPDATE state SET generation = generation + 1, pending_erasure = ?", (receipt,))
        finish_erasure(db, vectors, chunks)
        return read_receipts(db, receipt)[0]


def erase_everything(db: Database, vectors: Vectors) -> Receipt:
    """See `Store.erase_user`. Numbers begin anew: nothing is left that could tell of the old ones."""
    with db.lock:
        turns = db.rows("SELECT turn, source_id FROM turns ORDER BY turn")
        chunks = _column(db, "SELECT chunk FROM chunks ORDER BY chunk")
        summaries = _column(db, "SELECT summary FROM summaries ORDER BY summary")
        with db.transaction() as connection:
            for table in ("summaries", "turns", "receipts", "settings", "caches"):
                connection.execute(f"DELETE FROM {table}")
            connection.execute("DELETE FROM sqlite_sequence")
            connection.execute("UPDATE state SET generation = generation + 1, pending_erasure = ?", (_EVERYTHING,))
        files = finish_erasure(db, vectors, chunks)
    return Receipt(
        time=utc_now(),
        selector={"user": "all"},
        turns=tuple(row[0] for row in turns),
        source_ids=tuple(row[1] for row in turns),
        chunks=tuple(chunks),
        summaries_dropped=tuple(summaries),
        summaries_remade=(),
        files_rewritten=files,
    )


def finish_erasure(db: Database, vectors: Vectors, chunks: Sequence[int] | None = None) -> tuple[str, ...]:
    """Remove the bytes of what an erasure deleted, if one is pending; names of the files rewritten.

    chunks: what it deleted; None reads it from the receipt, when an earlier process could not finish.
    """
    with db.lock:
        pending = db.value("SELECT pending_erasure FROM state")
        if pending is None:
            return ()
        if chunks is None:
            chunks = [chunk for receipt in read_receipts(db, pending) for chunk in receipt.chunks]
        db.compact()
        everything = pending == _EVERYTHING
        files = (db.path.name, *vectors.erase(np.array(chunks, dtype=np.int64), everything=everything))
        with db.transaction() as connection:
            connection.execute("UPDATE receipts SET files = ? WHERE files = '[]'", (json.dumps(files),))
            if everything:
                connection.execute("UPDATE state SET model = NULL, generation = generation + 1")
                connection.execute("DELETE FROM models")
            connection.execute("UPDATE state SET pending_erasure = NULL")
        return files


def _column(db: Database, sql: str, *parameters: str) -> list[int]:
    return [row[0] for row in db.rows(sql, parameters)]
