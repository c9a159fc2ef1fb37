"""A generator that says what a test tells it to."""

import time
from collections.abc import Callable, Iterator, Sequence

from memarch.dialogue.generators.base import Generator, StopSignal
from memarch.dialogue.prompt import Message
from memarch.dialogue.records import Hit

Script = str | BaseException | Callable[[list[Message]], str]


class ScriptedGenerator(Generator):
    """Each answer is the next of `answers`, word by word; an exception among a list of pieces is raised there.

    seen: the prompts that came; hits: the memories with them; before: called before each piece.
    """

    name = "scripted"

    def __init__(self, *answers: Script | list[Script], context_tokens: int = 4096) -> None:
        self.answers: list[Script | list[Script]] = list(answers)
        self._context = context_tokens
        self.seen: list[list[Message]] = []
        self.hits: list[tuple[Hit, ...]] = []
        self.before: Callable[[], None] = lambda: None

    @property
    def context_tokens(self) -> int:
        """As given."""
        return self._context

    def count_tokens(self, text: str) -> int:
        """Words."""
        return len(text.split())

    def count_prompt(self, messages: list[Message]) -> int:
        """Words and three a message."""
        return sum(3 + self.count_tokens(message["content"]) for message in messages)

    def stream(
        self,
        messages: list[Message],
        *,
        hits: Sequence[Hit] = (),
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: StopSignal | None = None,
    ) -> Iterator[str]:
        """See the class."""
        self.seen.append(messages)
        self.hits.append(tuple(hits))
        answer = self.answers.pop(0)
        pieces = answer if isinstance(answer, list) else [answer]
        for piece in pieces:
            if stop is not None and stop.is_set():
                return
            self.before()
            if isinstance(piece, BaseException):
                raise piece
            text = piece if isinstance(piece, str) else piece(messages)
            words = text.split(" ")
            for i, word in enumerate(words):
                if stop is not None and stop.is_set():
                    return
                yield word + (" " if i + 1 < len(words) else "")


def wait_for(condition: Callable[[], bool], *, seconds: float = 10.0) -> bool:
    """Whether the condition comes true within this time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return condition()
