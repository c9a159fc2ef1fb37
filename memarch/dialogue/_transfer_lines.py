"""Reads an exported memory or a plain dialogue: every line is checked before anything is stored."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memarch.dialogue._moving import ChunkState, Entry
from memarch.dialogue.chunking import spans
from memarch.dialogue.records import NewTurn, Summary, utc_now
from memarch.dialogue.stores._checks import check_turns

VERSION = 1
HEADER = "memarch-memory"
_TURN_FIELDS = {"type", "turn", "session", "role", "text", "time", "source_id", "sha256", "chunks"}
_PLAIN_FIELDS = {"session", "role", "text", "time", "source_id"}


@dataclass
class Content:
    """What a file holds; turns with their line numbers. digest: names the file's bytes."""

    digest: str
    embedder: tuple[str, int] | None = None
    settings: dict[str, str] = field(default_factory=dict)
    turns: list[tuple[int, Entry]] = field(default_factory=list)
    summaries: list[Summary] = field(default_factory=list)
    receipts: list[dict[str, Any]] = field(default_factory=list)


class _Bad(Exception):
    """What is wrong with a line."""


def parse(lines: Iterable[bytes], *, name: str, stem: str) -> Content:
    """A whole file, open as bytes. Raises: OSError; ValueError "<name>, line <n>: what is wrong".

    stem: what turns of a plain dialogue are named after.
    """
    digest = hashlib.sha256()
    content = Content("")
    state = _Reader(content, stem)
    number = 0
    for number, raw in enumerate(lines, 1):
        digest.update(raw)
        try:
            state.take(raw, number)
        except (_Bad, ValueError, TypeError, KeyError) as error:
            what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"{name}, line {number}: {what}") from error
    if state.has_header and not state.ended:
        raise ValueError(
            f"{name}, line {number}: the file is cut off, its last line should count its turns; export again"
        )
    content.digest = digest.hexdigest()
    return content


class _Reader:
    """Takes one line after the other."""

    def __init__(self, content: Content, stem: str) -> None:
        self.content, self._stem = content, stem
        self.has_header = self.ended = False
        self._names: dict[str, str] = {}
        self._last_turn = 0
        self._session = "1"

    def take(self, raw: bytes, number: int) -> None:
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _Bad("expected UTF-8 text; got other bytes") from error
        if not text.strip():
            return
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise _Bad(f"expected one JSON object a line; {error.msg}") from error
        if not isinstance(line, dict):
            raise _Bad(f"expected a JSON object; got {text.strip()[:60]!r}")
        if self.ended:
            raise _Bad("expected nothing after the line that ends the file")
        kind = line.get("type")
        if kind == HEADER and not self.has_header and not self.content.turns:
            self._header(line)
        elif not self.has_header:
            self._plain(line, number)
        elif kind == "turn":
            self._turn(line, number)
        elif kind == "summary":
            self._summary(line)
        elif kind == "receipt":
            self.content.receipts.append({name: value for name, value in line.items() if name != "type"})
            _expect(line["source_ids"], list, "source_ids")
        elif kind == "end":
            self._end(line)
        else:
            raise _Bad(f"expected a line of type turn, summary, receipt or end; got {kind!r}")

    def _header(self, line: dict[str, Any]) -> None:
        if line["version"] != VERSION:
            raise _Bad(f"expected version {VERSION} of the format; got {line['version']!r}: upgrade memarch")
        self.has_header = True
        if (embedder := line.get("embedder")) is not None:
            self.content.embedder = (_expect(embedder["name"], str, "name"), _expect(embedder["dim"], int, "dim"))
        settings = _expect(line.get("settings", {}), dict, "settings")
        self.content.settings = {name: _expect(value, str, name) for name, value in settings.items()}
        if blocks := self.content.settings.get("compact_blocks"):
            if len(blocks.split(",")) != 2 or not all(part.isdecimal() and int(part) for part in blocks.split(",")):
                raise _Bad(f"expected compact_blocks like '20,5'; got {blocks!r}")
        int(self.content.settings.get("forgotten_at", "0"))

    def _turn(self, line: dict[str, Any], number: int) -> None:
        _only(line, _TURN_FIELDS)
        turn = _expect(line["turn"], int, "turn")
        if turn <= self._last_turn:
            raise _Bad(f"turns should ascend; got turn {turn} after {self._last_turn}")
        self._last_turn = turn
        chunks = _expect(line["chunks"], list, "chunks")
        ranges = tuple(_span(_expect(chunk, dict, "a chunk")) for chunk in chunks)
        new = NewTurn(line["session"], line["role"], line["text"], _time(line["time"]), line["source_id"], ranges)
        self._check(new)
        if line["sha256"] != new.sha256:
            raise _Bad("the text does not match its sha256: the file is damaged or was edited")
        self.content.turns.append((number, Entry(turn, new, tuple(self._state(chunk) for chunk in chunks))))

    def _state(self, chunk: dict[str, Any]) -> ChunkState:
        marks = {name: chunk.get(name) for name in ("archived_at", "retrieved_at")}
        for name, value in marks.items():
            if value is not None:
                _expect(value, int, name)
        vector = chunk.get("vector")
        return ChunkState(bool(chunk.get("pinned")), **marks, vector=None if vector is None else self._vector(vector))

    def _vector(self, text: str) -> NDArray[np.float32]:
        if self.content.embedder is None:
            raise _Bad("a vector needs the embedder's name and dim in the first line")
        try:
            vector = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)
        except (binascii.Error, ValueError) as error:
            raise _Bad(f"expected a vector as base64 of float32: {error}") from error
        name, dim = self.content.embedder
        if vector.shape != (dim,) or not abs(float(np.linalg.norm(vector)) - 1) < 1e-3:
            raise _Bad(f"expected a unit vector of {dim} numbers from {name}; got {len(vector)}, or another length")
        return vector

    def _plain(self, line: dict[str, Any], number: int) -> None:
        _only(line, _PLAIN_FIELDS)
        self._session = line.get("session") or self._session
        text = _expect(line["text"], str, "text")
        time = utc_now() if line.get("time") is None else _time(line["time"])
        name = line.get("source_id") or f"{self._stem}:{number}"
        new = NewTurn(self._session, line["role"], text, time, name, spans(text))
        self._check(new)
        count = len(self.content.turns) + 1
        self.content.turns.append((number, Entry(count, new, tuple(ChunkState() for _ in new.spans))))

    def _check(self, new: NewTurn) -> None:
        _expect(new.text, str, "text")
        check_turns([new])
        if new.source_id in self._names:
            raise _Bad(f"source_id {new.source_id!r} is there twice")
        self._names[new.source_id] = new.sha256

    def _summary(self, line: dict[str, Any]) -> None:
        numbers = [_expect(line[name], int, name) for name in ("summary", "level", "first_turn", "last_turn")]
        sources = tuple(_expect(source, int, "sources") for source in _expect(line["sources"], list, "sources"))
        text, made_by = _expect(line["text"], str, "text"), _expect(line["summarizer"], str, "summarizer")
        if not sources or numbers[1] not in (1, 2):
            raise _Bad("a summary needs level 1 or 2 and its sources")
        self.content.summaries.append(Summary(numbers[0], numbers[1], text, numbers[2], numbers[3], sources, made_by))

    def _end(self, line: dict[str, Any]) -> None:
        for name in ("turns", "summaries", "receipts"):
            if line[name] != len(getattr(self.content, name)):
                raise _Bad(f"expected {line[name]} {name} above; there are {len(getattr(self.content, name))}")
        self.ended = True


def _expect(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _Bad(f"{name} should be {kind.__name__}; got {str(value)[:60]!r}")
    return value


def _span(chunk: dict[str, Any]) -> tuple[int, int]:
    span = _expect(chunk["span"], list, "span")
    if len(span) != 2:
        raise _Bad(f"span should be [start, stop]; got {span}")
    return _expect(span[0], int, "span"), _expect(span[1], int, "span")


def _only(line: dict[str, Any], names: set[str]) -> None:
    if unknown := set(line) - names:
        raise _Bad(f"expected the fields {', '.join(sorted(names))}; got {sorted(unknown)[0]!r} too")


def _time(text: Any) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise _Bad(f"time should be like 2026-01-31T12:00:00+00:00; got {str(text)[:60]!r}") from error
    if time.tzinfo is None:
        raise _Bad(f"time needs its zone, like 2026-01-31T12:00:00+00:00; got {text!r}")
    return time
