"""What happens while a chat answers, and how a stored answer tells that it is not whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .prompt import Prompt
from .records import Turn

Status = Literal["done", "stopped", "failed"]
STOPPED_MARK, FAILED_MARK = " [\u2026 stopped]", " [\u2026 broken off]"
MARKS: dict[Status, str] = {"done": "", "stopped": STOPPED_MARK, "failed": FAILED_MARK}


@dataclass(frozen=True)
class Stored:
    """The user's turn is durable."""

    turn: Turn


@dataclass(frozen=True)
class Composed:
    """The prompt is ready; retrieval_ms: search and summary took so long."""

    prompt: Prompt
    retrieval_ms: float


@dataclass(frozen=True)
class Piece:
    """A part of the answer, as it comes."""

    text: str


@dataclass(frozen=True)
class Answer:
    """The end of an answer.

    turn: as it was stored; None in incognito, or where there was nothing to store. seconds: from the prompt on;
    first_seconds: to the first piece, None without one.
    """

    text: str
    status: Status
    turn: Turn | None
    num_tokens: int
    seconds: float
    first_seconds: float | None


Event = Stored | Composed | Piece | Answer


def is_partial(turn: Turn) -> bool:
    """Whether this answer was stopped or broken off."""
    return turn.role == "assistant" and turn.text.endswith((STOPPED_MARK, FAILED_MARK))
