"""Answer without any model: quote the memories that fit best, with their age and where they come from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from memarch.dialogue.prompt import Message
from memarch.dialogue.quoting import printable
from memarch.dialogue.records import Hit, utc_now
from memarch.dialogue.tokens import estimate_tokens
from memarch.dialogue.words import Words

from .base import Generator, StopSignal, check_request

NOTHING = "I found nothing about that in memory."
_QUOTE = re.compile(r"(\(turn \d+\)): \u201c.*\u201d?$", re.MULTILINE)
_OWN = re.compile(r"^(?:You|I|[^\n]{1,60}) said on \d{1,2} \w+ \d{4}, [^\n()]+ \(turn \d+\)[.:]")
_SENTENCE_END = re.compile(r"(?<=[.!?\u2026])[\"')\]]*\s+")
# Longer memories are quoted by the sentences that fit best.
_MAX_QUOTE_CHARS = 320
_UNITS = (("year", 365.25), ("month", 30.44), ("week", 7.0), ("day", 1.0))


class ExtractiveGenerator(Generator):
    """Quotes up to `num_quotes` memories: `You said on 3 March 2024, 2 years ago (turn 12): "..."`.

    A memory is quoted if it shares a word stem with the question, or stands out from the others by meaning; statements
    go before questions. The same memories and question give the same answer. now: what ages are counted to.
    """

    name = "extractive"
    context_tokens = 1 << 20

    def __init__(self, *, num_quotes: int = 3, now: datetime | None = None) -> None:
        if num_quotes < 1:
            raise ValueError(f"num_quotes must be at least 1; got {num_quotes}")
        self._num_quotes, self._now = num_quotes, now
        self._words = Words()

    def count_tokens(self, text: str) -> int:
        """An estimate; nothing depends on it but the report of the prompt."""
        return estimate_tokens(text)

    def count_prompt(self, messages: list[Message]) -> int:
        """An estimate."""
        return 8 + sum(6 + estimate_tokens(message["content"]) for message in messages)

    def stream(
        self,
        messages: list[Message],
        *,
        hits: Sequence[Hit] = (),
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: StopSignal | None = None,
    ) -> Iterator[str]:
        """One line a quotation, each a piece, or `NOTHING`; `max_tokens` bounds the number of lines after the first."""
        check_request(max_tokens, temperature)
        question = _question(messages)
        used = 0
        for number, hit in enumerate(self.choose(question, hits)):
            line = ("\n" if number else "") + self._line(question, hit)
            used += estimate_tokens(line)
            if (stop is not None and stop.is_set()) or (number and used > max_tokens):
                return
            yield line
        if not used:
            yield NOTHING

    def choose(self, question: str, hits: Sequence[Hit]) -> list[Hit]:
        """The memories to quote, best first."""
        asked = set(self._words(question))
        found: dict[str, tuple[float, Hit]] = {}
        for hit in hits:
            text = " ".join(hit.text.split())
            if not text or _OWN.match(text) or text == NOTHING:
                continue
            common = len(asked & set(self._words(text)))
            if not common and hit.parts.get("meaning", 0.0) < _CLOSE_IN_MEANING:
                continue
            worth = hit.score - (_QUESTION_COSTS if text.endswith("?") else 0.0)
            if text not in found or worth > found[text][0]:
                found[text] = (worth, hit)
        ranked = sorted(found.values(), key=lambda pair: (-pair[0], -pair[1].chunk))
        return [hit for _, hit in ranked[: self._num_quotes]]

    def to_store(self, answer: str) -> str:
        """The answer without what it quotes: when it was said and in which turn stays."""
        return _QUOTE.sub(r"\1.", answer)

    def _line(self, question: str, hit: Hit) -> str:
        who = {"user": "You", "assistant": "I"}.get(hit.role, " ".join(printable(hit.role).split()))
        said = hit.time
        quoted = self._excerpt(question, " ".join(printable(hit.text).split()))
        age = age_of(said, self._now or utc_now())
        return f"{who} said on {said.day} {said:%B %Y}, {age} (turn {hit.turn}): \u201c{quoted}\u201d"

    def _excerpt(self, question: str, text: str) -> str:
        """`text`, or as many of its sentences next to the best one as there is room for."""
        if len(text) <= _MAX_QUOTE_CHARS:
            return text
        asked = set(self._words(question))
        sentences = _SENTENCE_END.split(text)
        common = [len(asked & set(self._words(sentence))) for sentence in sentences]
        first = common.index(max(common))
        last = first
        length = len(sentences[first])
        while last + 1 < len(sentences) and length + len(sentences[last + 1]) < _MAX_QUOTE_CHARS:
            last += 1
            length += len(sentences[last]) + 1
        shown = " ".join(sentences[first : last + 1])
        cut = len(shown) > _MAX_QUOTE_CHARS
        if cut:
            shown = shown[:_MAX_QUOTE_CHARS].rsplit(" ", 1)[0]
        before = "\u2026 " if first else ""
        return before + shown + (" \u2026" if cut or last + 1 < len(sentences) else "")


# A cosine this many weighted deviations above the mean: about nobody's chance neighbour.
_CLOSE_IN_MEANING = 1.8
# So much a question's score is lowered: it seldom holds the answer.
_QUESTION_COSTS = 1.0


def _question(messages: list[Message]) -> str:
    """The user's words in the last message, which may begin with the memories: those cannot end their block early."""
    content = messages[-1]["content"] if messages else ""
    return content.partition("</memory>\n\n")[2] if content.startswith("<memory>\n") else content


def age_of(then: datetime, now: datetime) -> str:
    """How long ago in the largest whole unit: "today", "yesterday", "3 days ago", "2 years ago".

    >>> from datetime import UTC
    >>> age_of(datetime(2024, 3, 3, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
    '2 years ago'
    """
    days = (now.date() - then.astimezone(now.tzinfo).date()).days
    if days <= 0:
        return "today"
    if days == 1:
        return "yesterday"
    unit, length = next((unit, length) for unit, length in _UNITS if days >= length)
    count = int(days / length)
    return f"{count} {unit}{'s' if count > 1 else ''} ago"
