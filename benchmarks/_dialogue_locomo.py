"""LoCoMo's conversations as a dialogue memory holds them, and its questions with the turns that answer them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memarch.dialogue.records import Chunk

SOURCE = "github.com/snap-research/locomo (data/locomo10.json, CC BY-NC 4.0: not for commercial use, never copied here)"
# "D8:6; D9:17" names two turns, "D30:05" is D30:5, "D:11:26" is D11:26.
_EVIDENCE = re.compile(r"D:?(\d+):0*(\d+)")


@dataclass(frozen=True)
class Question:
    """category: 1 multi-hop, 2 temporal, 3 open-domain, 4 single-hop, 5 adversarial. evidence: places in `chunks`.

    answer: "" where there is none: to most adversarial questions, and where nobody asks for it.
    """

    text: str
    category: int
    evidence: tuple[int, ...]
    answer: str = ""


@dataclass(frozen=True)
class Conversation:
    """One long dialogue, a chunk a turn, numbered from 1 (a chunk stands at its number - 1)."""

    name: str
    chunks: tuple[Chunk, ...]
    questions: tuple[Question, ...]
    num_without_evidence: int
    num_bad_evidence: int


def load(path: Path) -> list[Conversation]:
    """Conversations in the file's order. Raises: ValueError if the file is not LoCoMo's."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return [_conversation(entry) for entry in data]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not in LoCoMo's format ({error!r}); get the data from {SOURCE}") from error


def counts(conversations: list[Conversation]) -> str:
    """What is scored and what is left out, in one line."""
    asked = sum(len(c.questions) for c in conversations)
    without = sum(c.num_without_evidence for c in conversations)
    bad = sum(c.num_bad_evidence for c in conversations)
    turns = sum(len(c.chunks) for c in conversations)
    return (
        f"{len(conversations)} conversations, {turns} turns, {asked} questions scored; {without} questions without "
        f"usable evidence left out; {bad} evidence strings name no turn"
    )


def _conversation(entry: dict[str, Any]) -> Conversation:
    talk = entry["conversation"]
    numbers = sorted(int(key.split("_")[1]) for key in talk if re.fullmatch(r"session_\d+", key))
    chunks: list[Chunk] = []
    for number in numbers:
        time = datetime.strptime(talk[f"session_{number}_date_time"].strip(), "%I:%M %p on %d %B, %Y").replace(
            tzinfo=UTC
        )
        for turn in talk[f"session_{number}"]:
            caption = turn.get("blip_caption")
            text = turn["text"] + (f" [image: {caption}]" if caption else "")
            place = len(chunks) + 1
            chunks.append(
                Chunk(place, place, 0, f"session {number}", turn["speaker"], text, time, source_id=turn["dia_id"])
            )
    places = {chunk.source_id: i for i, chunk in enumerate(chunks)}
    questions, without, bad = [], 0, 0
    for asked in entry["qa"]:
        evidence: set[int] = set()
        for text in asked.get("evidence", []):
            named = [f"D{session}:{turn}" for session, turn in _EVIDENCE.findall(text)]
            found = {places[name] for name in named if name in places}
            bad += not found
            evidence |= found
        if evidence:
            answer = str(asked.get("answer", ""))
            questions.append(Question(asked["question"], int(asked["category"]), tuple(sorted(evidence)), answer))
        else:
            without += 1
    return Conversation(entry["sample_id"], tuple(chunks), tuple(questions), without, bad)
