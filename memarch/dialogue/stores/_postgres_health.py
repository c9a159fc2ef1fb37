"""Finding what is wrong with a PostgreSQL memory, mending what can be mended without losing anything, and counting."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import LiteralString

import numpy as np

from memarch.dialogue.errors import StoreCorrupt
from memarch.dialogue.records import Problem, Stats

from ._checks import UNIT_TOLERANCE, encode_text, span_problem
from ._postgres_connection import PostgresConnection
from ._postgres_erasure import finish_erasure
from ._postgres_records import read_turns
from ._postgres_schema import PARTITIONED
from ._postgres_vectors import MARK_EMBEDDED, PostgresVectors

_RECORDS: tuple[tuple[str, LiteralString, bool], ...] = (
    (
        "orphan",
        "SELECT 'chunk ' || chunk || ' belongs to a turn that is gone' FROM chunks c WHERE owner = %(owner)s "
        "AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.owner = c.owner AND t.turn = c.turn)",
        False,
    ),
    (
        "orphan",
        "SELECT 'the vector of chunk ' || chunk || ' belongs to no chunk' FROM vectors v WHERE owner = %(owner)s "
        "AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.owner = v.owner AND c.chunk = v.chunk)",
        False,
    ),
    (
        "pending-erasure",
        "SELECT 'an erasure has not yet removed all bytes' FROM users WHERE name = %(erased)s "
        "OR (owner = %(owner)s AND pending_erasure IS NOT NULL)",
        True,
    ),
    (
        "lineage",
        "SELECT 'summary ' || summary || ' goes back to no turn, so no erasure finds it' FROM summaries "
        "WHERE owner = %(owner)s AND cardinality(lineage) = 0",
        False,
    ),
    (
        "embedded",
        "SELECT 'chunk ' || chunk || ' is wrongly marked as having a vector or not' FROM chunks "
        "WHERE owner = %(owner)s AND embedded <> EXISTS (SELECT 1 FROM vectors JOIN users USING (owner, model) "
        "WHERE owner = chunks.owner AND chunk = chunks.chunk)",
        True,
    ),
    (
        "embedded",
        "SELECT 'the vector of chunk ' || chunk || ' does not know whether the chunk is archived' FROM chunks "
        "JOIN vectors USING (owner, chunk) WHERE owner = %(owner)s AND alive <> (archived_at IS NULL)",
        True,
    ),
)


def find_problems(db: PostgresConnection, vectors: PostgresVectors, *, deep: bool) -> list[Problem]:
    """See `Store.verify`. The database's own integrity is the server's (pg_amcheck, data checksums)."""
    with db.lock:
        problems = [
            Problem(kind, row[0], repairable)
            for kind, query, repairable in _RECORDS
            for row in db.rows(query, {"erased": db.erased_name})
        ]
        if deep:
            problems += _text_problems(db)
            problems += [
                Problem("vector", f"the vector of chunk {chunk} {detail}: embed it again", repairable=True)
                for chunk, detail in _bad_vectors(db)
            ]
        held, wanted = vectors.index_ids(), vectors.alive_ids()
        if not np.array_equal(held, wanted):
            lacking, surplus = len(np.setdiff1d(wanted, held)), len(np.setdiff1d(held, wanted))
            problems.append(
                Problem("index", f"the index lacks {lacking} chunks and has {surplus} too many", repairable=True)
            )
        return problems


def mend(db: PostgresConnection, vectors: PostgresVectors) -> list[Problem]:
    """See `Store.repair`. Bad vectors are dropped, so that they are embedded again."""
    with db.lock:
        problems = [problem for problem in find_problems(db, vectors, deep=True) if problem.repairable]
        kinds = {problem.kind for problem in problems}
        if kinds & {"vector", "embedded"}:
            bad = [chunk for chunk, _ in _bad_vectors(db)]
            with db.writing(vectors=True) as (connection, owner):
                connection.execute("DELETE FROM vectors WHERE owner = %s AND chunk = ANY (%s)", (owner, bad))
                connection.execute(
                    "UPDATE vectors SET alive = NOT alive FROM chunks WHERE vectors.owner = %(owner)s "
                    "AND chunks.owner = %(owner)s AND chunks.chunk = vectors.chunk AND alive <> (archived_at IS NULL)",
                    {"owner": owner},
                )
                connection.execute(MARK_EMBEDDED, {"owner": owner})
        if "pending-erasure" in kinds:
            finish_erasure(db, vectors)
        if kinds & {"vector", "embedded", "index"}:
            vectors.rebuild()
        return problems


def _text_problems(db: PostgresConnection) -> Iterator[Problem]:
    try:
        for turn in read_turns(db, numbers=None, session=None, after=0, last=None):
            data = encode_text(turn.text)
            if hashlib.sha256(data).hexdigest() != turn.sha256:
                yield Problem("hash", f"the text of turn {turn.turn} is not what was added", repairable=False)
            spans = db.rows(
                "SELECT start, stop FROM chunks WHERE owner = %(owner)s AND turn = %(turn)s ORDER BY ordinal",
                {"turn": turn.turn},
            )
            if problem := span_problem([(row[0], row[1]) for row in spans], len(data)):
                yield Problem("spans", f"the chunks of turn {turn.turn} do not cover it: {problem}", repairable=False)
    except StoreCorrupt as error:
        yield Problem("text", str(error), repairable=False)


def _bad_vectors(db: PostgresConnection) -> Iterator[tuple[int, str]]:
    for chunk, found, dim, norm in db.rows(
        "SELECT chunk, vector_dims(vector), dim, vector_norm(vector) FROM vectors JOIN models USING (model) "
        "WHERE owner = %(owner)s AND (vector_dims(vector) <> dim OR abs(vector_norm(vector) - 1) > %(tolerance)s) "
        "ORDER BY chunk",
        {"tolerance": UNIT_TOLERANCE},
    ):
        yield chunk, f"has {found} dimensions, expected {dim}" if found != dim else f"has length {norm:.3g}, expected 1"


def count(db: PostgresConnection, embedder: tuple[str, int] | None) -> Stats:
    """See `Store.stats`. disk_bytes: of all users' tables together, indexes and free space included."""
    (row,) = db.rows(
        "SELECT (SELECT count(*) FROM turns WHERE owner = %(owner)s), "
        "(SELECT count(DISTINCT session) FROM turns WHERE owner = %(owner)s), count(*), count(archived_at), "
        "count(*) FILTER (WHERE pinned), count(*) FILTER (WHERE embedded), "
        "(SELECT count(*) FROM summaries WHERE owner = %(owner)s) FROM chunks WHERE owner = %(owner)s"
    )
    (sizes,) = db.rows(
        "SELECT sum(pg_total_relation_size(relid))::bigint FROM unnest(%(tables)s::text[]) AS t(name), "
        "pg_partition_tree(t.name::regclass)",
        {"tables": list(PARTITIONED)},
    )
    turns, sessions, chunks, archived, pinned, embedded, summaries = row
    return Stats(
        num_turns=turns,
        num_sessions=sessions,
        num_chunks=chunks,
        num_archived=archived,
        num_pinned=pinned,
        num_vectors=embedded,
        num_pending=0 if embedder is None else chunks - embedded,
        num_summaries=summaries,
        embedder=None if embedder is None else embedder[0],
        dim=None if embedder is None else embedder[1],
        disk_bytes=int(sizes[0]),
        location=db.location,
        user=db.user,
    )
