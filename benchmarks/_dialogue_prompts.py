"""What a composed prompt holds: tokens per turn, and whether a question's evidence is in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from benchmarks._dialogue_lives import RETRIEVED, Life
from benchmarks._dialogue_locomo import Conversation
from memarch.dialogue.memory import DialogueMemory
from memarch.dialogue.prompt import Prompt, compose
from memarch.dialogue.records import Chunk
from memarch.dialogue.tokens import estimate_tokens
from memarch.dialogue.words import Words

BUDGET = 3500
WINDOW = 4000
RECENT = 8
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_TAGS = re.compile(r"<said [^>]*>|</said>")


def window(chunks: Sequence[Chunk], tokens: int = WINDOW) -> list[str]:
    """The latest turns that fit into so many tokens, as lines."""
    lines: list[str] = []
    for chunk in reversed(chunks):
        line = f"{chunk.role}: {chunk.text}"
        tokens -= estimate_tokens(line + "\n")
        if tokens < 0:
            break
        lines.append(line)
    return lines[::-1]


def lines_of(prompt: Prompt) -> list[str]:
    """Everything in a prompt but the message that it answers, line by line."""
    text = "\n".join(message["content"] for message in prompt.messages)
    return [_TAGS.sub("", line) for line in text.split("\n")[:-1]]


class Coverage:
    """Whether a line states what a turn states: it has all content words of the turn's longest sentence, stemmed.

    That lets a summary turn "I sold my boat" into "Maya sold Maya's boat", but not leave the boat out.
    """

    def __init__(self) -> None:
        self._words = Words()

    def bags(self, lines: Sequence[str]) -> list[set[str]]:
        """Words of lines."""
        return [set(self._words(line)) for line in lines]

    def covers(self, bags: Sequence[set[str]], text: str) -> bool:
        """Whether one of the lines states it."""
        wanted = max((set(self._words(sentence)) for sentence in _SENTENCE.split(text)), key=len)
        return any(wanted <= bag for bag in bags)


def coverage(life: Life, conversation: Conversation) -> dict[str, list[float]]:
    """Share of each question's evidence in the prompt, by what the prompt is made of."""
    measure = Coverage()
    memory = life.memory
    recent, summary = memory.turns(last=RECENT), memory.summary()
    last_turns = measure.bags(window(conversation.chunks))

    def composed(make: Callable[[str], Prompt]) -> Callable[[str], list[set[str]]]:
        return lambda question: measure.bags(lines_of(make(question)))

    ways: dict[str, Callable[[str], list[set[str]]]] = {
        f"last {WINDOW:,} tokens": lambda question: last_turns,
        "compact only": composed(lambda question: compose(question, compact=summary, recent=recent)),
        "vector only": composed(
            lambda question: compose(question, hits=memory.search(question, RETRIEVED), recent=recent)
        ),
        "both": composed(lambda question: memory.compose(question, BUDGET, num_retrieved=RETRIEVED)),
    }
    shares: dict[str, list[float]] = {way: [] for way in ways}
    for question in conversation.questions:
        for way, lines in ways.items():
            bags = lines(question.text)
            states = [measure.covers(bags, conversation.chunks[place].text) for place in question.evidence]
            shares[way].append(sum(states) / len(states))
    return shares


class TokenCurve:
    """Composes a prompt for every turn of one role, before it is stored, and notes its tokens."""

    def __init__(self, conversation: Conversation, *, role: str) -> None:
        self._chunks, self._user = conversation.chunks, role
        self.tokens: dict[int, int] = {}
        """By the turn's place."""

    def __call__(self, memory: DialogueMemory, place: int) -> None:
        """For `live`."""
        if self._chunks[place].role == self._user:
            self.tokens[place] = memory.compose(
                self._chunks[place].text, BUDGET, num_retrieved=RETRIEVED
            ).report.used_tokens
