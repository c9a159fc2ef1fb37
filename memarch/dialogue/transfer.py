"""One user's memory as a file of JSON lines, and back: turns, pins, marks, summaries with lineage, receipts, vectors.

The first line names the format and its version, the last one counts what came before, so that half a file is noticed.
Lines of {"role", "text", "session", "time", "source_id"} without such a head are read as a plain dialogue. Works on any
`Store`; `migrate` copies a memory from one store to another without a file.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memarch.dialogue._moving import (
    Entry,
    TurnNumbers,
    chunk_numbers,
    put_settings,
    put_states,
    put_summaries,
    read_entries,
    read_settings,
)
from memarch.dialogue._transfer_lines import VERSION, Content, parse
from memarch.dialogue.migration import MigrationReport, migrate
from memarch.dialogue.records import Receipt, Summary, utc_now
from memarch.dialogue.stores.base import Store

__all__ = ["ImportReport", "MigrationReport", "export_jsonl", "export_lines", "import_jsonl", "migrate"]

Progress = Callable[[int, int], None]
"""Called with what is done and how much there is."""

# Names a file whose turns are in while its marks may not be yet: reading it again finishes the work.
_PENDING = "import_pending"
_FOREIGN_RECEIPTS = "imported_receipts"


@dataclass(frozen=True)
class ImportReport:
    """What an import did: turns added, already there, left out because they were erased here; vectors and summaries.

    Summaries that do not fit the new numbering are left out, and made again by Compact Memory.
    """

    num_added: int
    num_duplicates: int
    num_erased: int
    num_vectors: int
    num_summaries: int


def export_jsonl(store: Store, path: str | Path, *, vectors: bool = False, progress: Progress | None = None) -> int:
    """Write all of a memory to `path`, for its owner's eyes only; number of turns.

    An old file stays until the new one is whole.

    vectors: with them (base64 of float32) an import need not embed again; they give away what was said nearly as the
    text does. Raises: OSError; StoreCorrupt if a turn does not match its hash.
    """
    target = Path(path)
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    num_turns, total = 0, store.stats().num_turns
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", newline="\n", encoding="utf-8") as file:
            for line in _lines(store, vectors):
                file.write(_dump(line) + "\n")
                if line["type"] == "turn":
                    num_turns += 1
                    if progress is not None and (num_turns % 256 == 0 or num_turns == total):
                        progress(num_turns, max(num_turns, total))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    return num_turns


def export_lines(store: Store, *, vectors: bool = False) -> Iterator[str]:
    """What `export_jsonl` writes, line by line, for a pipe: see there."""
    return map(_dump, _lines(store, vectors))


def import_jsonl(
    store: Store, source: str | Path | Iterable[bytes], *, revive: bool = False, label: str = "stdin"
) -> ImportReport:
    """Read what `export_jsonl` wrote, or lines of a plain dialogue, into `store`: every new turn, or none on an error.

    source: a file's path, or its lines as bytes; `label` is then what messages and nameless turns are called after.

    A turn whose source_id and text are there already is passed over. So is one that was erased from this memory, unless
    `revive`: an old export must not bring back by accident what somebody had deleted. Vectors are taken if the store
    has none yet or uses the same model. If a crash interrupts it, the same call completes the work.

    Raises: OSError; ValueError with the line's number: not this format, a newer version, cut off, a damaged text, or a
    source_id that stands for another text here.
    """
    if isinstance(source, (str, Path)):
        label = str(source)
        with Path(source).open("rb") as file:
            content = parse(file, name=label, stem=Path(source).stem)
    else:
        content = parse(source, name=label, stem=label)
    where = f"{label}, line"
    present = {turn.source_id: (turn.turn, turn.sha256) for turn in store.turns()}
    erased = set() if revive else _erased(store)
    digest = content.digest
    resumed = store.get_setting(_PENDING) == digest
    new: list[Entry] = []
    pairs: dict[int, int] = {}
    num_duplicates = num_erased = 0
    chosen: list[Entry] = []
    for line, entry in content.turns:
        name = entry.new.source_id
        if name in present:
            if present[name][1] != entry.new.sha256:
                raise ValueError(
                    f"{where} {line}: source_id {name!r} stands for another text in this memory; rename it in the file"
                )
            num_duplicates += 1
            pairs[entry.turn] = present[name][0]
            if resumed:
                chosen.append(entry)
        elif name in erased:
            num_erased += 1
        else:
            new.append(entry)
    if new:
        store.put_setting(_PENDING, digest)
        for entry, turn in zip(new, store.add_turns([entry.new for entry in new]), strict=True):
            pairs[entry.turn] = turn.turn
    num_vectors, num_summaries = _put_rest(store, content, [*chosen, *new], TurnNumbers(pairs))
    if new or resumed:
        store.put_setting(_PENDING, None)
    return ImportReport(len(new), num_duplicates, num_erased, num_vectors, num_summaries)


def _put_rest(store: Store, content: Content, entries: list[Entry], numbers: TurnNumbers) -> tuple[int, int]:
    """All but the turns themselves; how many vectors and summaries."""
    if not entries:
        return 0, 0
    if content.embedder is not None and store.embedder() is None:
        store.use_embedder(*content.embedder)
    vectors = content.embedder is not None and store.embedder() == content.embedder
    chunks = chunk_numbers(store)
    num_vectors = 0
    for start in range(0, len(entries), 256):
        num_vectors += put_states(store, entries[start : start + 256], numbers, chunks, vectors=vectors)
    put_settings(store, content.settings, numbers)
    blocks, here = content.settings.get("compact_blocks"), store.get_setting("compact_blocks")
    num_summaries = 0
    if blocks is not None and blocks == here:
        num_summaries = put_summaries(store, content.summaries, numbers, int(blocks.split(",")[0]))
    if content.receipts:
        known = json.loads(store.get_setting(_FOREIGN_RECEIPTS) or "[]")
        added = [receipt for receipt in content.receipts if receipt not in known]
        store.put_setting(_FOREIGN_RECEIPTS, json.dumps(known + added))
    return num_vectors, num_summaries


def _erased(store: Store) -> set[str]:
    foreign = json.loads(store.get_setting(_FOREIGN_RECEIPTS) or "[]")
    names = {name for receipt in foreign for name in receipt.get("source_ids", ())}
    return names.union(*(receipt.source_ids for receipt in store.receipts()))


def _lines(store: Store, vectors: bool) -> Iterator[dict[str, Any]]:
    embedder = store.embedder()
    yield {
        "type": "memarch-memory",
        "version": VERSION,
        "user": store.user,
        "exported_at": utc_now().isoformat(),
        "embedder": {"name": embedder[0], "dim": embedder[1]} if embedder and vectors else None,
        "settings": read_settings(store),
    }
    counts = {"turns": 0, "summaries": 0, "receipts": 0}
    for entries in read_entries(store, vectors=vectors):
        for entry in entries:
            counts["turns"] += 1
            yield _turn_line(entry)
    for summary in store.summaries():
        counts["summaries"] += 1
        yield _summary_line(summary)
    for receipt in store.receipts():
        counts["receipts"] += 1
        yield _receipt_line(receipt)
    for foreign in json.loads(store.get_setting(_FOREIGN_RECEIPTS) or "[]"):
        counts["receipts"] += 1
        yield {"type": "receipt", **foreign}
    yield {"type": "end", **counts}


def _turn_line(entry: Entry) -> dict[str, Any]:
    new = entry.new
    chunks = []
    for span, state in zip(new.spans, entry.chunks, strict=True):
        chunk: dict[str, Any] = {"span": list(span)}
        if state.pinned:
            chunk["pinned"] = True
        for name in ("archived_at", "retrieved_at"):
            if getattr(state, name) is not None:
                chunk[name] = getattr(state, name)
        if state.vector is not None:
            chunk["vector"] = base64.b64encode(state.vector.astype("<f4").tobytes()).decode("ascii")
        chunks.append(chunk)
    return {
        "type": "turn", "turn": entry.turn, "session": new.session, "role": new.role, "text": new.text,
        "time": new.time.isoformat(), "source_id": new.source_id, "sha256": new.sha256, "chunks": chunks,
    }  # fmt: skip


def _summary_line(summary: Summary) -> dict[str, Any]:
    return {
        "type": "summary", "summary": summary.summary, "level": summary.level, "text": summary.text,
        "first_turn": summary.first_turn, "last_turn": summary.last_turn, "sources": list(summary.sources),
        "summarizer": summary.summarizer,
    }  # fmt: skip


def _receipt_line(receipt: Receipt) -> dict[str, Any]:
    return {
        "type": "receipt", "time": receipt.time.isoformat(), "selector": dict(receipt.selector),
        "turns": list(receipt.turns), "source_ids": list(receipt.source_ids),
    }  # fmt: skip


def _dump(line: dict[str, Any]) -> str:
    text = json.dumps(line, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate is no UTF-8, but JSON has a form for it
        return json.dumps(line)
    return text
