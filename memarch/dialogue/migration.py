"""Copy one user's memory from a store to another: resumable, verified at the end; the source stays as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from memarch.dialogue._moving import (
    TurnNumbers,
    chunk_numbers,
    put_settings,
    put_states,
    put_summaries,
    read_entries,
    read_settings,
)
from memarch.dialogue.errors import MigrationError
from memarch.dialogue.stores.base import Store

MOVING = "moving_from"
"""Setting of a target while a move is not finished: where from."""


@dataclass(frozen=True)
class MigrationReport:
    """What was copied and found equal. renumbered: turns have other numbers, since erased ones left no gaps behind."""

    num_turns: int
    num_chunks: int
    num_vectors: int
    num_summaries: int
    renumbered: bool


def migrate(source: Store, target: Store, *, progress: Callable[[int, int], None] | None = None) -> MigrationReport:
    """Copy turns, chunks, vectors, pins, marks, summaries and receipts; then compare both, turn by turn.

    target: empty, or left half done by an earlier call with this source, which is then completed; a finished copy is
    only compared again. Nothing may be added to the source meanwhile. Receipts are kept as the setting
    "imported_receipts". Close and erase the source yourself, once you trust the copy.

    Raises: MigrationError if the target holds something else or the comparison fails; the source is as it was, and the
    target is marked as half done.
    """
    origin = json.dumps([source.location, source.user])
    marker = target.get_setting(MOVING)
    if marker is None and target.last_turn():
        try:
            return _compare(source, target)  # whoever was killed before the answer came asks again
        except MigrationError as error:
            raise MigrationError(
                f"expected an empty memory to move to; {target.location} has other turns of user {target.user!r}: "
                "choose another location or user, or export and import instead"
            ) from error
    if marker not in (None, origin):
        raise MigrationError(f"{target.location} holds a half-done move from {marker}: finish that one, or erase it")
    target.put_setting(MOVING, origin)
    _copy(source, target, progress)
    report = _compare(source, target)
    target.put_setting(MOVING, None)
    return report


def _copy(source: Store, target: Store, progress: Callable[[int, int], None] | None) -> None:
    model = source.embedder()
    if model is not None and target.embedder() != model:
        target.use_embedder(*model)
    there = {turn.source_id: turn.turn for turn in target.turns()}
    pairs: dict[int, int] = {}
    done, total = 0, source.stats().num_turns
    for entries in read_entries(source, vectors=False):
        missing = [entry for entry in entries if entry.new.source_id not in there]
        added = target.add_turns([entry.new for entry in missing]) if missing else []
        there.update((turn.source_id, turn.turn) for turn in added)
        pairs.update((entry.turn, there[entry.new.source_id]) for entry in entries)
        done += len(entries)
        if progress is not None:
            progress(done, 2 * total)
    numbers, chunks = TurnNumbers(pairs), chunk_numbers(target)
    # A second pass: marks may point at any turn, so all of them must have their numbers.
    for entries in read_entries(source):
        put_states(target, entries, numbers, chunks, vectors=model is not None)
        done += len(entries)
        if progress is not None:
            progress(done, max(done, 2 * total))
    settings = read_settings(source)
    put_settings(target, settings, numbers)
    blocks = settings.get("compact_blocks")
    put_summaries(target, source.summaries(), numbers, int(blocks.split(",")[0]) if blocks else None)
    receipts = [
        {
            "time": receipt.time.isoformat(),
            "selector": dict(receipt.selector),
            "turns": list(receipt.turns),
            "source_ids": list(receipt.source_ids),
        }
        for receipt in source.receipts()
    ]
    receipts = json.loads(source.get_setting("imported_receipts") or "[]") + receipts
    if receipts:
        target.put_setting("imported_receipts", json.dumps(receipts))


def _compare(source: Store, target: Store) -> MigrationReport:
    """Counts, hashes, marks and vectors of both. Raises: MigrationError naming the first difference."""
    num_turns = num_chunks = num_vectors = 0
    renumbered = False
    theirs = read_entries(target)
    for entries in read_entries(source):
        copies = next(theirs, [])
        if [entry.new for entry in entries] != [copy.new for copy in copies]:
            raise MigrationError(
                f"turns {entries[0].turn} to {entries[-1].turn} differ in {target.location}: call again"
            )
        for entry, copy in zip(entries, copies, strict=True):
            renumbered = renumbered or entry.turn != copy.turn
            for mine, its in zip(entry.chunks, copy.chunks, strict=True):
                same = mine.pinned == its.pinned and (mine.archived_at is None) == (its.archived_at is None)
                if not same or (mine.vector is None) != (its.vector is None):
                    raise MigrationError(
                        f"marks or vectors of turn {entry.turn} differ in {target.location}: call again"
                    )
                if mine.vector is not None and its.vector is not None:
                    if not np.allclose(mine.vector, its.vector, atol=1e-6):
                        raise MigrationError(
                            f"the vector of turn {entry.turn} differs in {target.location}: call again"
                        )
                    num_vectors += 1
            num_chunks += len(entry.chunks)
        num_turns += len(entries)
    if extra := next(theirs, []):
        raise MigrationError(f"{target.location} has turns that the source has not, from {extra[0].new.source_id!r} on")
    return MigrationReport(num_turns, num_chunks, num_vectors, len(target.summaries()), renumbered)
