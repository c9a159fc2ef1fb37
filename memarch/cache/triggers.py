"""When a cache is rewritten: before the token that ends a step is processed.

A trigger is called with the next token of every row, int64 `[B]`, and how many tokens each row has processed since its
last rewrite (or since the prompt), int64 `[B]`; it answers bool `[B]`. Any such callable is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

Trigger = Callable[[Tensor, Tensor], Tensor]


class NewlineTrigger:
    """A step ends with any token whose text contains a newline (the paper's newline is one of many such tokens).

    Raises: ValueError if no token of the tokenizer's has one.
    """

    _tables: WeakKeyDictionary[Any, Tensor] = WeakKeyDictionary()

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer not in self._tables:
            texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
            self._tables[tokenizer] = torch.tensor(["\n" in text for text in texts])
        self.table = self._tables[tokenizer]
        if not bool(self.table.any()):
            raise ValueError(
                "no token of this tokenizer contains a newline: give consolidate another trigger, "
                "for example EveryTokensTrigger(32)"
            )

    def __call__(self, tokens: Tensor, since: Tensor) -> Tensor:
        """Whether each token's text contains a newline; tokens beyond the tokenizer's vocabulary have no text."""
        if self.table.device != tokens.device:
            self.table = self.table.to(tokens.device)
        return self.table[tokens.clamp(max=self.table.numel() - 1)] & (tokens < self.table.numel())


class EveryTokensTrigger:
    """A step is `num_tokens` tokens (version 1 of the paper, with `window="all"`).

    Raises: ValueError for fewer than 1.
    """

    def __init__(self, num_tokens: int) -> None:
        if isinstance(num_tokens, bool) or not isinstance(num_tokens, int) or num_tokens < 1:
            raise ValueError(f"num_tokens must be an integer of at least 1; got {num_tokens!r}")
        self.num_tokens = num_tokens

    def __call__(self, tokens: Tensor, since: Tensor) -> Tensor:
        """Whether `num_tokens` tokens are done."""
        return since >= self.num_tokens


def make_trigger(trigger: str | int | Trigger, tokenizer: Any) -> Trigger:
    """The trigger that `consolidate` was asked for: "newline", a number of tokens, or a trigger itself.

    Raises:
        ValueError: none of these, or "newline" without a tokenizer.
    """
    if trigger == "newline":
        if tokenizer is None:
            raise ValueError("trigger='newline' needs the model's tokenizer, to know which tokens have a newline")
        return NewlineTrigger(tokenizer)
    if isinstance(trigger, int) and not isinstance(trigger, bool):
        return EveryTokensTrigger(trigger)
    if callable(trigger):
        return trigger
    raise ValueError(f"trigger must be 'newline', a number of tokens, or a callable; got {trigger!r}")
