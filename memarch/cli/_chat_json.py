"""A chat for programs: an object a line, and nothing else on stdout.

Every object has "event": "session", "stored", "composed", "piece" (not with --no-stream), "answer", "command", "error".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from . import _memory_show as show
from ._chat_screen import Result, Screen, describe, write

if TYPE_CHECKING:
    from memarch.dialogue.prompt import Prompt
    from memarch.dialogue.records import Turn
    from memarch.dialogue.session import Answer


class JsonScreen(Screen):
    """Shows objects. What is said is not cleaned of control characters: JSON escapes them."""

    def opened(self, *, session: str, user: str, model: str, resumed: Sequence[Turn], incognito: bool) -> None:
        """{"event": "session", "session", "user", "model", "incognito", "resumed": number of turns shown}"""
        self._emit(
            "session", session=session, user=user, model=model, incognito=incognito, resumed=[t.turn for t in resumed]
        )

    def stored(self, turn: Turn) -> None:
        """{"event": "stored", "turn", "session", "source_id", "time"}"""
        self._emit("stored", turn=turn.turn, session=turn.session, source_id=turn.source_id, time=turn.time)

    def composed(self, prompt: Prompt, retrieval_ms: float) -> None:
        """{"event": "composed", "prompt_tokens", "budget_tokens", "retrieval_ms", "parts", "memories"}"""
        report = prompt.report
        self._emit(
            "composed",
            prompt_tokens=report.used_tokens,
            budget_tokens=report.budget_tokens,
            retrieval_ms=round(retrieval_ms, 3),
            parts={part.name: part.used_tokens for part in report.parts},
            memories=[hit.source_id for hit in prompt.hits],
        )

    def piece(self, text: str) -> None:
        """{"event": "piece", "text"}"""
        if self._stream:
            self._emit("piece", text=text)

    def answered(self, answer: Answer, *, turn: int, prompt: Prompt, retrieval_ms: float) -> None:
        """{"event": "answer", "text", "status", "turn", "num_tokens", "seconds", "first_seconds"}"""
        number = answer.turn.turn if answer.turn else None
        self._emit("answer", **{**show.plain(answer), "turn": number})

    def result(self, command: str, result: Result) -> None:
        """{"event": "command", "command", and what it found}"""
        self._emit("command", command=command, **result.fields)

    def error(self, error: BaseException) -> None:
        """{"event": "error", "error": its class, "message"}, and a line on stderr."""
        self._emit("error", error=type(error).__name__, message=describe(error))
        print(f"error: {show.one_line(describe(error))}", file=sys.stderr)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Nothing to see."""
        del text
        yield

    def break_line(self) -> None:
        """Lines are whole."""

    def _emit(self, event: str, /, **fields: Any) -> None:
        # ASCII, so that no encoding and no lone surrogate can break a line.
        write(sys.stdout, json.dumps({"event": event, **show.plain(fields)}) + "\n")
