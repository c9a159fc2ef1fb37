"""Causal attention over the last steps of the current episode: short-term memory of reinforcement-learning layers.

B batch, T time, W window, H heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._episodes import check_call, check_sizes, episodes
from .attention import rotate


@dataclass(frozen=True)
class LocalAttentionState:
    """inputs: `[B, W - 1, d_model]` last inputs. num_steps: `[B]` int64, how many of them (the last) are of the
    current episode."""

    inputs: Tensor
    num_steps: Tensor

    def detach(self) -> LocalAttentionState:
        """The same state cut from the autograd graph."""
        return LocalAttentionState(self.inputs.detach(), self.num_steps)

    def to(self, device: torch.device | str) -> LocalAttentionState:
        """The same state on another device."""
        return LocalAttentionState(self.inputs.to(device), self.num_steps.to(device))


class LocalAttention(nn.Module):
    """Softmax attention over the last `window_tokens` steps, the step itself included, never across a reset.

    Shapes: x `[B, T, d_model]` -> `[B, T, d_model]`; reset `[B, T]` bool, True where a new episode begins; state
    `LocalAttentionState`. Rotary positions (arXiv 2104.09864) on scores only, so they are relative.

    Raises: ValueError for `d_model` that `num_heads` does not divide into even heads, a window below 1, a wrong x,
    reset or state.
    """

    def __init__(self, d_model: int, num_heads: int, *, window_tokens: int, rope_base: float = 10000.0) -> None:
        super().__init__()
        check_sizes(d_model=d_model, num_heads=num_heads, window_tokens=window_tokens)
        if d_model % num_heads or d_model // num_heads % 2:
            raise ValueError(
                f"d_model / num_heads must be an even integer (rotary positions turn pairs); "
                f"got {d_model} and {num_heads}"
            )
        self.d_model, self.num_heads, self.window_tokens, self.rope_base = d_model, num_heads, window_tokens, rope_base
        self.qkv_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self, x: Tensor, state: LocalAttentionState | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, LocalAttentionState]:
        """Attend from x `[B, T, d_model]` to itself and to the cached steps of the same episode."""
        check_call(x, self.d_model, reset, state, LocalAttentionState, getattr(state, "inputs", None))
        past = self.window_tokens - 1
        if state is None:
            none = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
            state = LocalAttentionState(x.new_zeros(x.shape[0], past, self.d_model), none)
        elif state.inputs.shape[1] != past:
            raise ValueError(
                f"state must hold {past} steps for window_tokens={self.window_tokens}; got {state.inputs.shape[1]}"
            )
        batch, time, _ = x.shape
        steps = episodes(x, reset, state.num_steps)
        inputs = torch.cat([state.inputs.to(x.dtype), x], 1)
        q, k, v = self.qkv_proj(inputs).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        # Positions count from this window's start: scores depend on differences only.
        position = torch.arange(-past, time, device=x.device).expand(batch, -1)
        q, k = rotate(q[:, past:], position[:, past:], self.rope_base), rotate(k, position, self.rope_base)
        blocks = []
        for first in range(0, time, self.window_tokens):
            last = min(first + self.window_tokens, time)
            gap = position[:1, past + first : past + last, None] - position[:1, None, first : past + last]
            seen = (gap >= 0) & (gap <= steps.since_reset[:, first:last, None].clamp_max(past))
            keys, values = k[:, first : past + last], v[:, first : past + last]
            blocks.append(_attend(q[:, first:last], keys, values, seen))
        y = self.out_proj(torch.cat(blocks, 1).flatten(2))
        num_steps = (steps.since_reset[:, -1] + 1).clamp_max(past)
        return y, LocalAttentionState(inputs[:, time:], num_steps)


def _attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """q `[B, T, H, D]`, k and v `[B, S, H, D]`, seen `[B, T, S]`."""
    q, k, v = (z.transpose(1, 2) for z in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None]).transpose(1, 2)
