"""Small pieces of decoding: choose the next token, turn tokens into text as they come, reuse what was already read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class TextPieces:
    """Text of a growing list of tokens, in pieces that never split a character and join to the text of them all.

    decode: token ids to text. A tokenizer may treat the first token otherwise (leading spaces), so the last ones that
    were shown are decoded again in front of the new.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = self._shown = 0

    def add(self, token: int) -> str:
        """What this token makes visible; "" in the middle of a character."""
        self._ids.append(token)
        return self._take(final=False)

    def rest(self) -> str:
        """What was held back, at the end."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        before = self._decode(self._ids[self._start : self._shown])
        now = self._decode(self._ids[self._start :])
        if len(now) <= len(before) or (now.endswith("\ufffd") and not final):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return now[len(before) :]


def next_token(
    logits: torch.Tensor, *, temperature: float, top_p: float, penalty: float, made: Sequence[int], rng: torch.Generator
) -> int:
    """A token from `logits` `[vocabulary]`: the likeliest at temperature 0, else drawn from the likeliest `top_p`.

    penalty: above 1 makes tokens of `made` less likely again (Keskar et al. 2019, arXiv 1909.05858, section 4.1).
    """
    import torch

    scores = logits.float()
    if penalty != 1.0 and made:
        again = torch.tensor(sorted(set(made)), device=scores.device)
        old = scores[again]
        scores = scores.index_copy(0, again, torch.where(old > 0, old / penalty, old * penalty))
    if temperature == 0:
        return int(scores.argmax())
    ordered, tokens = (scores / temperature).softmax(-1).sort(descending=True)
    ordered = ordered * (ordered.cumsum(-1) - ordered < top_p)
    return int(tokens[torch.multinomial(ordered.cpu(), 1, generator=rng)])


class PromptCache:
    """Keys and values of the tokens that the model read last, as far as a new prompt begins with the same."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._cache: Any = None

    def begin(self, prompt: Sequence[int], new_cache: Callable[[], Any]) -> tuple[Any, int]:
        """A cache for this prompt and how many of its tokens it holds: not the last, whose logits are wanted."""
        common = 0
        for old, new in zip(self._ids, prompt[:-1], strict=False):
            if old != new:
                break
            common += 1
        held = len(self._ids)
        cache, self._cache, self._ids = self._cache, None, []
        if cache is None or not common or not _can_crop(cache):
            return new_cache(), 0
        if extra := held - common:
            cache.crop(-extra)
        return cache, common

    def keep(self, cache: Any, ids: Sequence[int]) -> None:
        """Remember that `cache` holds `ids`."""
        self._cache, self._ids = cache, list(ids)


def _can_crop(cache: Any) -> bool:
    """Whether every layer keeps all positions: windows and states of linear attention have forgotten some."""
    layers = getattr(cache, "layers", ())
    return bool(layers) and all(type(layer).__name__ == "DynamicLayer" for layer in layers)
