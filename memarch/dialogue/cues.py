"""Cues besides words and meaning: who says it, who is asked about, when it was said.

A turn in which somebody tells of themselves is likelier to hold what is asked later than a question or a thank-you.
The pronouns are English; in other languages these cues are silent.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime

_WORD = re.compile(r"[^\W_]+")
_FIRST_PERSON = frozenset("i me my mine myself we us our ours ourselves".split())
_SECOND_PERSON = frozenset("you your yours yourself yourselves".split())
# So many first persons make a turn a telling; more do not make it more of one.
_ENOUGH = 3


def embedding_text(role: str, text: str) -> str:
    """What is embedded of a chunk. The speaker is named, so that "What did Ada say about ..." finds Ada's words."""
    return f"{role}: {text}"


def cue_text(role: str, time: datetime) -> str:
    """The words by which a chunk is found though nobody said them: its speaker, and its date in words."""
    return f"{role} {time:%A} {time.day} {time:%B} {time.year}"


def first_person(text: str) -> float:
    """How much a text tells of its speaker: 0 without "I", "my", "we" ..., 1 from three of them on."""
    count = sum(word in _FIRST_PERSON for word in _WORD.findall(text.casefold()))
    return min(count, _ENOUGH) / _ENOUGH


def roles_asked_about(query: str, roles: Collection[str]) -> set[str]:
    """Which of the roles a query names: by their own words, "user" also by "I", "assistant" also by "you".

    Empty if it names all of them: then it tells nothing.
    """
    asked = set(_WORD.findall(query.casefold()))
    named = {role for role in roles if (own := set(_WORD.findall(role.casefold()))) and own <= asked}
    if asked & _FIRST_PERSON:
        named |= {role for role in roles if role == "user"}
    if asked & _SECOND_PERSON:
        named |= {role for role in roles if role == "assistant"}
    return set() if len(named) == len(roles) else named
