"""Scores of an answer as LoCoMo's own script gives them: token F1 after SQuAD's normalisation, stemmed.

Multi-hop answers are lists: split at commas, each wanted item takes the F1 of the answer's item that fits it best. Of
an open-domain answer what follows ";" is the reason and does not count. Adversarial questions have no answer: right is
to say that there is none.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from functools import cache
from typing import Any

import Stemmer

from memarch.dialogue.generators.extractive import NOTHING

MULTI_HOP, OPEN_DOMAIN, ADVERSARIAL = 1, 3, 5
_REFUSALS = ("no information available", "not mentioned", NOTHING.lower())
_ARTICLES = re.compile(r"\b(a|an|the|and)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def tokens(text: str) -> list[str]:
    """Lower case, without punctuation and articles ("and" counts as one), stemmed by Porter.

    >>> tokens("The dogs, and a cat!")
    ['dog', 'cat']
    """
    plain = _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION))
    return [str(_stemmer().stemWord(word)) for word in plain.split()]


def f1(answer: str, wanted: str, category: int) -> float:
    """0 to 1. Raises: ValueError for adversarial questions: see `refused`."""
    if category == ADVERSARIAL:
        raise ValueError("an adversarial question has no answer to compare with; ask whether it was refused")
    if category == MULTI_HOP:
        given = [_f1(tokens(part), tokens(item)) for item in wanted.split(",") for part in answer.split(",")]
        width = len(answer.split(","))
        best = [max(given[start : start + width]) for start in range(0, len(given), width)]
        return sum(best) / len(best)
    return _f1(tokens(answer), tokens(_wanted(wanted, category)))


def told(answer: str, wanted: str, category: int) -> float:
    """Share of the wanted answer's tokens that the answer has, however long it is."""
    want = Counter(tokens(_wanted(wanted, category)))
    return sum((want & Counter(tokens(answer))).values()) / max(1, want.total())


def refused(answer: str) -> bool:
    """Whether the answer says that there is none."""
    return any(refusal in answer.lower() for refusal in _REFUSALS)


def _wanted(wanted: str, category: int) -> str:
    return wanted.split(";")[0] if category == OPEN_DOMAIN else wanted


def _f1(given: list[str], want: list[str]) -> float:
    common = sum((Counter(given) & Counter(want)).values())
    return 2 * common / (len(given) + len(want)) if common else 0.0


@cache
def _stemmer() -> Any:
    return Stemmer.Stemmer("porter")
