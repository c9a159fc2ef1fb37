"""Choosing the next token from logits."""

from __future__ import annotations

import torch
from torch import Tensor


def check_sampling(*, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise ValueError unless the options make sense together; names the one that does not."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be 0 (greedy) or positive; got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, or None for all tokens; got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], or None for all tokens; got {top_p}")


def sample_next(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One token per row of logits `[B, V]` -> `[B]`.

    Args:
        logits: unnormalised log-probabilities.
        temperature: divides the logits; 0 takes the most likely token.
        top_k: keep the k most likely tokens (ties with the k-th are kept).
        top_p: keep the fewest tokens whose probability reaches p (nucleus sampling, arXiv 1904.09751), after top_k.
        generator: source of randomness on the logits' device; None is torch's global one.

    Raises:
        ValueError: an option out of range.
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        weakest = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < weakest, float("-inf"))
    probabilities = logits.softmax(-1)
    if top_p is not None and top_p < 1:
        ordered, index = probabilities.sort(-1, descending=True)
        # A token stays if those before it do not reach p yet, so at least one stays.
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0)
        probabilities = torch.zeros_like(ordered).scatter(-1, index, ordered)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
