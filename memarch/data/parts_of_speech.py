"""The part-of-speech task: is a word's class read from its context, or remembered in the weights?

A sequence of 7 tokens: a grammatical context that shows which word is the noun and which the adjective, a query that
repeats one of them, and a pattern of three that depends on the query's class. A model can tell the class from the place
beside the copula (in-context) or from having seen the word before (in-weights). Source: arXiv 2406.00053, section 3 and
the authors' code.

    cop ADJ noun | ADJ  | ADJ ADJ ADJ          context, query, pattern; the context may also read: noun cop ADJ
    noun cop ADJ | noun | ADJ noun noun
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SPLITS = ("val", "switch", "tail", "tail_switch", "holdout")
SEQ_LEN = 7
IGNORE = -100


class PartsOfSpeechBatch(NamedTuple):
    """Sequences and what is asked of them, all int64.

    tokens: `[B, 7]`, the pattern masked. labels: `[B, 7]`, the pattern by the context, -100 elsewhere. in_weights:
    `[B, 7]`, the pattern that the words' own classes would ask for, -100 elsewhere; equal to `labels` where words stand
    in slots of their class.
    """

    tokens: Tensor
    labels: Tensor
    in_weights: Tensor


@dataclass(frozen=True, kw_only=True)
class PartsOfSpeech:
    """The task and its vocabulary: nouns, adjectives, `cop`, `mask`, and words that training never shows.

    Attributes:
        num_words: v, half of them nouns (ids 0 to v/2 - 1), half adjectives.
        zipf: a of the Zipf law p(rank) ~ rank^-a by which words of a class are drawn; None draws all alike.
        ambiguous: share of the words of each class that stand in slots of the other class half of the time.
        seed: which words are ambiguous.

    Raises:
        ValueError: num_words odd or below 20, an `ambiguous` outside [0, 1], a negative `zipf`.
    """

    num_words: int = 1000
    zipf: float | None = 1.5
    ambiguous: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_words < 20 or self.num_words % 2:
            raise ValueError(f"num_words must be even and at least 20; got {self.num_words}")
        if not 0 <= self.ambiguous <= 1:
            raise ValueError(f"ambiguous must be in [0, 1]; got {self.ambiguous}")
        if self.zipf is not None and self.zipf < 0:
            raise ValueError(f"zipf must be at least 0, or None for equal frequencies; got {self.zipf}")

    @property
    def cop(self) -> int:
        """The copula."""
        return self.num_words

    @property
    def mask(self) -> int:
        """What stands where the pattern is to be predicted."""
        return self.num_words + 1

    @property
    def holdout(self) -> range:
        """Words that only the split `holdout` shows, v/10 of them."""
        return range(self.num_words + 2, self.vocab_size)

    @property
    def vocab_size(self) -> int:
        """All ids."""
        return self.num_words + 2 + self.num_words // 10

    def word_weights(self) -> Tensor:
        """How often each word stands in a noun's and an adjective's slot, `[2, v]` float64, rows summing to 1."""
        half = self.num_words // 2
        rank = torch.arange(1, half + 1, dtype=torch.float64)
        frequency = (rank ** -(self.zipf or 0.0)).repeat(2)
        own = torch.zeros(2, self.num_words, dtype=torch.float64)
        own[0, :half] = own[1, half:] = 1.0
        own[:, self.is_ambiguous()] = 0.5
        weights = own * frequency
        return weights / weights.sum(1, keepdim=True)

    def is_ambiguous(self) -> Tensor:
        """`[v]` bool: the words that stand in both kinds of slots."""
        generator = torch.Generator().manual_seed(self.seed)
        half, flags = self.num_words // 2, torch.zeros(self.num_words, dtype=torch.bool)
        count = round(self.ambiguous * half)
        for first in (0, half):
            flags[first + torch.randperm(half, generator=generator)[:count]] = True
        return flags

    def draw(
        self, batch_size: int, *, split: str = "val", generator: torch.Generator | None = None
    ) -> PartsOfSpeechBatch:
        """A batch of a split.

        "val" is the distribution of training. "switch": an unambiguous noun in the adjective's slot and the reverse,
        so `labels` is right in context and `in_weights` is not. "tail", "tail_switch": the last tenth of each class by
        frequency, all alike, in their own slots and in the other's. "holdout": two words that training never shows;
        `in_weights` equals `labels`.

        Raises: ValueError for another split.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
        noun, adjective = self._words(batch_size, split, generator)
        by_context = _pattern(noun, adjective)
        first = torch.rand(batch_size, generator=generator) < 0.5
        asks_adjective = torch.rand(batch_size, generator=generator) < 0.5
        cop = torch.full_like(noun, self.cop)
        context = torch.where(
            first[:, None], torch.stack([cop, adjective, noun], 1), torch.stack([noun, cop, adjective], 1)
        )
        query = torch.where(asks_adjective, adjective, noun)
        masked = torch.full((batch_size, 3), self.mask)
        tokens = torch.cat([context, query[:, None], masked], 1)
        labels = torch.where(asks_adjective[:, None], by_context[1], by_context[0])
        in_weights = labels
        if split in ("switch", "tail_switch"):
            # By their own classes the word in the noun's slot is the adjective.
            switched = _pattern(adjective, noun)
            in_weights = torch.where(asks_adjective[:, None], switched[0], switched[1])
        nothing = torch.full((batch_size, 4), IGNORE)
        return PartsOfSpeechBatch(tokens, torch.cat([nothing, labels], 1), torch.cat([nothing, in_weights], 1))

    def _words(self, batch_size: int, split: str, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """The words in the noun's and in the adjective's slot, `[B]` each."""
        if split == "holdout":
            pairs = torch.rand(batch_size, len(self.holdout), generator=generator).topk(2).indices
            noun, adjective = (pairs + self.holdout[0]).unbind(1)
            return noun, adjective
        weights = self.word_weights()
        half = self.num_words // 2
        if split != "val":
            weights[0, half:] = weights[1, :half] = 0
            weights[:, self.is_ambiguous()] = 0
        if split.startswith("tail"):
            tail = half - half // 10
            weights[0, :tail] = weights[1, half : half + tail] = 0
            weights = (weights > 0).double()
            if not weights.any(1).all():
                raise ValueError(f"ambiguous={self.ambiguous} leaves no unambiguous word in the tail of a class")
        nouns, adjectives = (torch.multinomial(row, batch_size, True, generator=generator) for row in weights)
        return (adjectives, nouns) if split.endswith("switch") else (nouns, adjectives)


def _pattern(noun: Tensor, adjective: Tensor) -> tuple[Tensor, Tensor]:
    """What follows a noun and what follows an adjective, `[B, 3]` each."""
    return torch.stack([adjective, noun, noun], 1), torch.stack([adjective] * 3, 1)
