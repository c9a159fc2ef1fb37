"""Questions about a dialogue, with what is known of their answers: files of ours, plain lines, LoCoMo's own.

A file has one question a line: plain text, or JSON {"question", "answer", "evidence", "kind"}, all but the first
optional. evidence: source_ids of the turns that one must know to answer. What `memarch.data.dialogues` writes can be
read, and so can LoCoMo's JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .formats import guess_format, locomo_samples
from .words import Words

__all__ = ["LOCOMO_KINDS", "Question", "agrees", "is_refusal", "parse_questions", "read_questions"]

LOCOMO_KINDS = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
UNANSWERABLE = ("adversarial", "never-said")
"""Kinds to which the right answer is that there is none."""
_FIELDS = {"question": str, "answer": str, "evidence": list, "kind": str}
# "D8:6; D9:17" names two turns, "D30:05" is D30:5, "D:11:26" is D11:26.
_LOCOMO_EVIDENCE = re.compile(r"D:?(\d+):0*(\d+)")
_REFUSAL = re.compile(r"\b(not mentioned|never (said|mentioned)|no information|nothing about that)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Question:
    """answer: "" if none is known. evidence: source_ids. kind: any word; one of `UNANSWERABLE` has no answer."""

    question: str
    answer: str = ""
    evidence: tuple[str, ...] = ()
    kind: str = ""


def read_questions(path: str | Path, *, conversation: str | None = None) -> list[Question]:
    """Questions of a file. conversation: of a LoCoMo file only this one.

    Raises: OSError; ValueError with the place and what is wrong there.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} should be UTF-8; byte {error.start} is not: convert it first") from error
    try:
        return parse_questions(text, conversation=conversation)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_questions(text: str, *, conversation: str | None = None) -> list[Question]:
    """`read_questions` of a file's text."""
    if guess_format(text) == "locomo":
        samples = locomo_samples(text, conversation)
        return [question for _, prefix, sample in samples for question in _locomo(sample, prefix)]
    return [_question(line, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def agrees(answer: str, question: Question) -> bool | None:
    """Whether an answer has every content word of the expected one; None if none is known.

    To a question without an answer the right one is a refusal, see `is_refusal`. More words do no harm: an answer that
    says everything agrees with everything.
    """
    if question.kind in UNANSWERABLE:
        return is_refusal(answer)
    wanted = set(Words()(question.answer)) or set(question.answer.lower().split())
    if not wanted:
        return None
    return wanted <= set(Words()(answer)) | set(answer.lower().split())


def is_refusal(answer: str) -> bool:
    """Whether an answer says that there is none."""
    return _REFUSAL.search(answer) is not None


def _question(line: str, number: int) -> Question:
    if not line.lstrip().startswith("{"):
        return Question(line.strip())
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: expected one JSON object; {error.msg}") from error
    if unknown := sorted(set(fields) - set(_FIELDS)):
        raise ValueError(f"line {number}: expected the fields {', '.join(_FIELDS)}; got {unknown[0]!r} too")
    for name, kind in _FIELDS.items():
        if name in fields and not isinstance(fields[name], kind):
            raise ValueError(f"line {number}: {name} should be {kind.__name__}; got {str(fields[name])[:60]!r}")
    if not str(fields.get("question", "")).strip():
        raise ValueError(f"line {number}: question is missing or empty")
    if bad := [name for name in fields.get("evidence", []) if not isinstance(name, str)]:
        raise ValueError(f"line {number}: evidence should be names of turns; got {bad[0]!r}")
    evidence = tuple(dict.fromkeys(fields.get("evidence", ())))
    return Question(fields["question"], fields.get("answer", ""), evidence, fields.get("kind", ""))


def _locomo(sample: dict[str, Any], prefix: str) -> Iterator[Question]:
    for position, asked in enumerate(sample.get("qa", ())):
        try:
            kind = LOCOMO_KINDS[int(asked["category"])]
            # Adversarial ones name a wrong answer, if any.
            answer = "" if kind == "adversarial" else str(asked.get("answer", ""))
            named = _LOCOMO_EVIDENCE.findall(" ".join(asked.get("evidence", ())))
            names = tuple(dict.fromkeys(f"{prefix}D{session}:{turn}" for session, turn in named))
            yield Question(str(asked["question"]), answer, names, kind)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"qa {position + 1} is not in LoCoMo's format ({error!r})") from error
