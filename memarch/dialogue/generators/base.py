"""What a chat needs of a model that answers, whoever runs it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from memarch.dialogue.prompt import Message
from memarch.dialogue.records import Hit
from memarch.dialogue.summarizers import LLMSummarizer

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


class StopSignal(Protocol):
    """Ends an answer early: a `threading.Event`, or anything that can be asked."""

    def is_set(self) -> bool:
        """Whether to stop."""
        ...


class Generator(Protocol):
    """A model that answers. Subclass it to get the defaults of `load`, `to_store`."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Model, as shown to people and kept with the summaries that it writes."""
        ...

    @property
    @abstractmethod
    def context_tokens(self) -> int:
        """How many tokens prompt and answer may have together."""
        ...

    @abstractmethod
    def count_tokens(self, text: str) -> int:
        """Tokens of a text."""
        ...

    @abstractmethod
    def count_prompt(self, messages: list[Message]) -> int:
        """Tokens of all messages with their template."""
        ...

    @abstractmethod
    def stream(
        self,
        messages: list[Message],
        *,
        hits: Sequence[Hit] = (),
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: StopSignal | None = None,
    ) -> Iterator[str]:
        """The answer, piece by piece as it comes; it ends early once `stop` is set.

        hits: the memories in the prompt, best first, for those who quote them. temperature: 0 takes the likeliest.
        Raises, at the first piece or later: GeneratorError (see `memarch.dialogue.errors`).
        """
        ...

    def load(self, progress: Progress | None = None) -> None:
        """Get ready, so that waiting and errors come before the first question. Calling it is optional."""
        del progress

    def to_store(self, answer: str) -> str:
        """What of an answer is kept as a turn: all of it, unless it repeats memories, which are never stored again."""
        return answer


def check_request(max_tokens: int, temperature: float) -> None:
    """ValueError unless these can be asked for."""
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
        raise ValueError(f"max_tokens must be a whole number of at least 1; got {max_tokens!r}")
    if not 0 <= temperature <= 10:
        raise ValueError(f"temperature must be from 0 to 10; got {temperature!r}")


def complete(generator: Generator, messages: list[Message], *, max_tokens: int = 512, temperature: float = 0.0) -> str:
    """The whole answer at once."""
    return "".join(generator.stream(messages, max_tokens=max_tokens, temperature=temperature))


def summarizer_of(generator: Generator, *, max_tokens: int = 120) -> LLMSummarizer:
    """The same model as writer of Compact Memory: `DialogueMemory(..., summarizer=summarizer_of(generator))`."""

    def generate(messages: list[Message]) -> str:
        return complete(generator, messages, max_tokens=max_tokens)

    return LLMSummarizer(generate, name=generator.name)
