"""Memories of three kinds behind the probe's protocol: weights that are fine-tuned, a state, a store that is searched.

None of them imports what it adapts: models and stores are known by what they can do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .few_shot import Item, overlap


class FineTunedLM:
    """A causal language model whose weights are the memory: an exposure is one pass of optimiser steps over the items.

    Args:
        model: called with ids `[B, T]`, gives logits `[B, T, V]`, bare or as `.logits`; recall goes on from its
            `.past_key_values` or `.state` if it gives one. It is trained in place.
        lr: of AdamW without weight decay, constant.
        batch_size: items per optimiser step.
        prefix: tokens put before every item (a beginning-of-sequence id), which are not scored.
        make_optimizer: from the parameters, in place of AdamW; called once, so its moments last.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 1e-4,
        batch_size: int = 8,
        prefix: Sequence[int] = (),
        make_optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        self.model, self.batch_size, self.prefix = model, batch_size, tuple(prefix)
        make = make_optimizer or (lambda parameters: torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0))
        self.optimizer = make(model.parameters())

    def write(self, items: Sequence[Item]) -> None:
        """One optimiser step per `batch_size` items, on the mean loss of their tokens."""
        self.model.train()
        for start in range(0, len(items), self.batch_size):
            batch = items[start : start + self.batch_size]
            losses = self._token_losses(batch)
            self.optimizer.zero_grad(set_to_none=True)
            torch.cat(losses).mean().backward()
            self.optimizer.step()
        self.model.eval()

    def score(self, item: Item) -> float:
        """Mean log-likelihood per token, in nats."""
        return self.score_many([item])[0]

    def recall(self, cue: Item, length: int) -> Item:
        """Greedy continuation."""
        return self.recall_many([cue], [length])[0]

    @torch.no_grad()
    def score_many(self, items: Sequence[Item]) -> list[float]:
        """`score` of every item; those of one length go through the model together."""
        self.model.eval()
        scores = [0.0] * len(items)
        for places in _of_one_length(items):
            for place, losses in zip(places, self._token_losses([items[place] for place in places]), strict=True):
                scores[place] = -float(losses.mean())
        return scores

    @torch.no_grad()
    def recall_many(self, cues: Sequence[Item], lengths: Sequence[int]) -> list[Item]:
        """`recall` of every cue; those of one length go through the model together, so none is padded."""
        self.model.eval()
        found: list[Item] = [()] * len(cues)
        for places in _of_one_length(cues):
            ids = torch.tensor([[*self.prefix, *cues[place]] for place in places], device=self._device)
            tokens = self._continue(ids, max(lengths[place] for place in places))
            for place, row in zip(places, tokens.tolist(), strict=True):
                found[place] = tuple(row[: lengths[place]])
        return found

    def _continue(self, ids: Tensor, length: int) -> Tensor:
        """`[B, length]` tokens, the likeliest each time.

        A model that hands out a cache (`past_key_values`, as in transformers) or a `state` reads every token once.
        """
        found = torch.empty(len(ids), 0, dtype=ids.dtype, device=ids.device)
        kept: dict[str, Any] = {}
        while found.shape[1] < length:
            out = self.model(ids, **kept)
            token = self._logits_of(out)[:, -1:].argmax(-1)
            found = torch.cat([found, token], 1)
            names = [name for name in ("past_key_values", "state") if getattr(out, name, None) is not None]
            kept = {name: getattr(out, name) for name in names[:1]}
            ids = token if kept else torch.cat([ids, token], 1)
        return found

    def _token_losses(self, items: Sequence[Item]) -> list[Tensor]:
        """Loss of every scored token of each item; items are padded to one length, padding is never scored."""
        rows = [[*self.prefix, *item] for item in items]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [row[-1]] * (longest - len(row)) for row in rows], device=self._device)
        logits = self._logits_of(self.model(ids))
        losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")
        first = max(0, len(self.prefix) - 1)
        return [losses[i, first : len(row) - 1] for i, row in enumerate(rows)]

    @staticmethod
    def _logits_of(out: Any) -> Tensor:
        logits: Tensor = getattr(out, "logits", out)
        return logits

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


class StateMemory:
    """A model whose state is the memory: its weights stay, an exposure is reading the items once more.

    Args:
        forward: ids `[1, T]` and a state (None at first) to logits `[1, T, V]` and the new state, as a pair or as
            `.logits` and `.state` (a MemoryLMForCausalLM). The old state must stay as it was, as it does for every
            layer of memarch.
        separator: read before each item and each cue; the probability of an item's first token is that after it.
    """

    def __init__(self, forward: Callable[[Tensor, Any], Any], *, separator: int) -> None:
        self.forward, self.separator = forward, separator
        self.state: Any = None

    @torch.no_grad()
    def write(self, items: Sequence[Item]) -> None:
        """Read every item into the state."""
        for item in items:
            _, self.state = self._read(self._ids(item), self.state)

    @torch.no_grad()
    def score(self, item: Item) -> float:
        """Mean log-likelihood per token given the state, in nats."""
        ids = self._ids(item)
        logits, _ = self._read(ids, self.state)
        return -float(F.cross_entropy(logits[0, :-1].float(), ids[0, 1:]))

    @torch.no_grad()
    def recall(self, cue: Item, length: int) -> Item:
        """Greedy continuation from the state."""
        logits, state = self._read(self._ids(cue), self.state)
        found = [int(logits[0, -1].argmax())]
        while len(found) < length:
            logits, state = self._read(torch.tensor([found[-1:]]), state)
            found.append(int(logits[0, -1].argmax()))
        return tuple(found[:length])

    def _read(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        out = self.forward(ids, state)
        logits, state = (out.logits, out.state) if hasattr(out, "logits") else out
        return logits, state

    def _ids(self, item: Item) -> Tensor:
        return torch.tensor([[self.separator, *item]])


class Searchable(Protocol):
    """A store of texts, such as memarch.DialogueMemory."""

    def add(self, role: str, text: str) -> object:
        """Keep a text."""

    def search(self, query: str, k: int) -> Sequence[Any]:
        """The best hits for a query, each with its `text`."""


class SearchedMemory:
    """A store that is searched, for items made of words. A hit's own score is not used: it ranks one search only."""

    def __init__(self, store: Searchable, *, num_hits: int = 5, role: str = "user") -> None:
        self.store, self.num_hits, self.role = store, num_hits, role

    def write(self, items: Sequence[Item]) -> None:
        """Add every item as a text."""
        for item in items:
            self.store.add(self.role, _text(item))

    def score(self, item: Item) -> float:
        """How much of the item the best of its hits repeats, 0 to 1."""
        hits = self.store.search(_text(item), self.num_hits)
        return max((overlap(tuple(hit.text.split()), item) for hit in hits), default=0.0)

    def recall(self, cue: Item, length: int) -> Item:
        """What follows the cue in the hit that begins most like it."""
        hits = [tuple(hit.text.split()) for hit in self.store.search(_text(cue), self.num_hits)]
        if not hits:
            return ()
        best = max(hits, key=lambda words: overlap(words[: len(cue)], cue))
        return best[len(cue) : len(cue) + length]


def _of_one_length(items: Sequence[Item], most: int = 32) -> list[list[int]]:
    """Places of items of the same length, at most so many together."""
    by_length: dict[int, list[int]] = {}
    for place, item in enumerate(items):
        by_length.setdefault(len(item), []).append(place)
    return [places[i : i + most] for places in by_length.values() for i in range(0, len(places), most)]


def _text(item: Item) -> str:
    return " ".join(map(str, item))
