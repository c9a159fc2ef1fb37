"""Which entries are rewritten: the step just completed, and the earlier ones that it attended to most.

L layers, B rows, T slots, S selected entries. Rewriting the recent entries is consolidation, rewriting the others
reconsolidation, in the words of arXiv 2505.16950.
"""

from __future__ import annotations

import torch
from torch import Tensor


def recent_slots(valid: Tensor, step_start: Tensor, window: str | int, max_step_tokens: int) -> Tensor:
    """bool `[B, T]`: the entries of the window, and of those at most the newest `max_step_tokens` for a step.

    Args:
        valid: bool `[B, T]`, slots that hold a token.
        step_start: int64 `[B]`, where each row's step began.
        window: "step", "all", or the number of newest entries.
        max_step_tokens: of a step.
    """
    if window == "all":
        return valid
    if window == "step":
        slots = torch.arange(valid.shape[1], device=valid.device)
        valid = valid & (slots >= step_start[:, None])
    newest = valid.flip(1).cumsum(1).flip(1)
    return valid & (newest <= (max_step_tokens if window == "step" else int(window)))


def to_index(mask: Tensor) -> Tensor:
    """int64 `[B, most of any row]`: the slots of each row of a bool mask `[B, T]` in order, then -1."""
    count = mask.sum(1)
    width = int(count.max()) if count.numel() else 0
    order = (~mask).to(torch.uint8).sort(dim=1, stable=True).indices[:, :width]
    return order.masked_fill(torch.arange(width, device=mask.device) >= count[:, None], -1)


def top_slots(score: Tensor, candidates: Tensor, top_k: int) -> Tensor:
    """int64 `[L, B, min(top_k, T)]`: the candidates of highest score, -1 where there are fewer.

    Args:
        score: `[L, B, T]`.
        candidates: bool `[B, T]`.
        top_k: how many.
    """
    score = score.masked_fill(~candidates, -torch.inf)
    best, slots = score.topk(min(top_k, score.shape[-1]), -1)
    return slots.masked_fill(best == -torch.inf, -1)


def in_order(index: Tensor) -> Tensor:
    """The same slots by position, -1 last: the order a causal processor needs, and memory likes."""
    last = torch.iinfo(torch.int64).max
    ordered = index.masked_fill(index < 0, last).sort(-1).values
    return ordered.masked_fill(ordered == last, -1)
