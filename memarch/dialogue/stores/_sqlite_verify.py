"""Finding what is wrong with a SQLite memory, and mending what can be mended without losing anything."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from memarch.dialogue.errors import StoreCorrupt
from memarch.dialogue.records import Problem

from ._checks import UNIT_TOLERANCE, encode_text, span_problem
from ._sqlite_database import Database
from ._sqlite_erase import finish_erasure
from ._sqlite_records import read_turns
from ._sqlite_vectors import INDEX_FILE, Vectors
from ._writer_lock import LOCK_FILE, PID_FILE
from .faiss_index import FaissIndex, temporary

DATABASE_FILE = "memory.db"
KNOWN_FILES = frozenset(
    (DATABASE_FILE, *(f"{DATABASE_FILE}-{end}" for end in ("wal", "shm", "journal")), INDEX_FILE, LOCK_FILE, PID_FILE)
)


def find_problems(db: Database, vectors: Vectors, *, deep: bool) -> list[Problem]:
    """See `Store.verify`."""
    with db.lock:
        problems = list(_database_problems(db)) if deep else []
        if any(not problem.repairable for problem in problems):
            return problems  # what follows would only stumble over the same damage
        problems += _record_problems(db)
        if deep:
            problems += _text_problems(db)
        problems += _vector_problems(db, vectors, deep=deep)
        problems += _file_problems(db)
        return problems


def mend(db: Database, vectors: Vectors) -> list[Problem]:
    """See `Store.repair`."""
    db.require_writable()
    with db.lock:
        problems = [problem for problem in find_problems(db, vectors, deep=True) if problem.repairable]
        kinds = {problem.kind for problem in problems}
        if "integrity" in kinds:
            with db.translated():
                db.connection.execute("REINDEX")
        if kinds & {"vector", "embedded"}:
            bad = [(chunk,) for chunk, _ in _bad_vectors(db)]
            with db.transaction() as connection:
                connection.executemany("DELETE FROM vectors WHERE chunk = ?", bad)
                connection.execute(f"UPDATE chunks SET embedded = {_EMBEDDED}")
                connection.execute("UPDATE state SET generation = generation + 1")
        if "pending-erasure" in kinds:
            finish_erasure(db, vectors)
        if kinds & {"vector", "embedded", "index", "index-file"}:
            vectors.rebuild()
        with db.transaction() as connection:
            connection.execute("DELETE FROM caches")  # made anew when they are missed, and right again
        temporary(vectors.path).unlink(missing_ok=True)
        return problems


_EMBEDDED = (
    "EXISTS (SELECT 1 FROM vectors WHERE vectors.chunk = chunks.chunk AND vectors.model IS (SELECT model FROM state))"
)


def _database_problems(db: Database) -> Iterator[Problem]:
    try:
        messages = db.rows("PRAGMA integrity_check")
    except StoreCorrupt:  # the check itself stumbled over it
        detail = "the database cannot be read to its end: move it away and restore from an export"
        yield Problem("integrity", detail, repairable=False)
        return
    for (message,) in messages:
        if message != "ok":
            indices_only = "missing from index" in message or "entries in index" in message
            yield Problem("integrity", message, repairable=indices_only)
    if db.encrypted:  # every page carries a checksum that only the key can make
        for (message,) in db.rows("PRAGMA cipher_integrity_check"):
            yield Problem("integrity", message, repairable=False)


def _record_problems(db: Database) -> Iterator[Problem]:
    for table, row, parent, _ in db.rows("PRAGMA foreign_key_check"):
        yield Problem(
            "foreign-key", f"row {row} of {table} refers to something in {parent} that is gone", repairable=False
        )
    if db.value("SELECT pending_erasure FROM state") is not None:
        yield Problem("pending-erasure", "an erasure has not yet removed all bytes", repairable=True)
    for (summary,) in db.rows("SELECT summary FROM summaries WHERE summary NOT IN (SELECT summary FROM lineage)"):
        yield Problem("lineage", f"summary {summary} goes back to no turn, so no erasure finds it", repairable=False)
    wrong = db.value(f"SELECT count(*) FROM chunks WHERE embedded != {_EMBEDDED}")
    if wrong:
        yield Problem("embedded", f"{wrong} chunks are wrongly marked as having a vector or not", repairable=True)


def _text_problems(db: Database) -> Iterator[Problem]:
    for turn in read_turns(db, numbers=None, session=None, after=0, last=None):
        if hashlib.sha256(encode_text(turn.text)).hexdigest() != turn.sha256:
            yield Problem("hash", f"the text of turn {turn.turn} is not what was added", repairable=False)
        spans = db.rows("SELECT start, stop FROM chunks WHERE turn = ? ORDER BY ordinal", (turn.turn,))
        if problem := span_problem([(row[0], row[1]) for row in spans], len(turn.text)):
            yield Problem("spans", f"the chunks of turn {turn.turn} do not cover it: {problem}", repairable=False)


def _vector_problems(db: Database, vectors: Vectors, *, deep: bool) -> Iterator[Problem]:
    bad = list(_bad_vectors(db)) if deep else []
    for chunk, detail in bad:
        yield Problem("vector", f"the vector of chunk {chunk} {detail}: embed it again", repairable=True)
    if bad:
        return  # no index can be made of these
    held, wanted = vectors.index_ids(), vectors.alive_ids()
    if not np.array_equal(held, wanted):
        lacking, surplus = len(np.setdiff1d(wanted, held)), len(np.setdiff1d(held, wanted))
        yield Problem("index", f"the index lacks {lacking} chunks and has {surplus} too many", repairable=True)
    if problem := FaissIndex.file_problem(vectors.path):
        yield Problem("index-file", f"{INDEX_FILE}: {problem}", repairable=True)


def _bad_vectors(db: Database) -> Iterator[tuple[int, str]]:
    after = 0
    while rows := db.rows(
        "SELECT chunk, dim, vector FROM vectors JOIN models USING (model) WHERE chunk > ? ORDER BY chunk LIMIT 2000",
        (after,),
    ):
        after = rows[-1][0]
        for chunk, dim, blob in rows:
            if len(blob) != 4 * dim:
                yield chunk, f"has {len(blob)} bytes, expected {4 * dim}"
            elif not abs(float(np.linalg.norm(np.frombuffer(blob, dtype="<f4"))) - 1) <= UNIT_TOLERANCE:
                yield chunk, "is not of unit length"


def _file_problems(db: Database) -> Iterator[Problem]:
    unfinished = temporary(db.path.with_name(INDEX_FILE)).name
    for path in sorted(Path(db.path.parent).iterdir()):
        if path.name == unfinished:
            if not db.read_only:  # a reader may see the writer's work
                yield Problem("leftover", f"{path.name} was left by a crash", repairable=True)
        elif path.name not in KNOWN_FILES:
            yield Problem("orphan-file", f"{path.name} belongs to no memory: move it away", repairable=False)
