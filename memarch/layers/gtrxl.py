"""GTrXL: the gated transformer of reinforcement learning (arXiv 1910.06764); its window slides with each step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .local_attention import LocalAttention, LocalAttentionState


class GTrXL(nn.Module):
    """Attention over the last `window_tokens` steps of the episode and an MLP, each joined to the stream by a GRU gate.

    Shapes: x `[B, T, d_model]` -> `[B, T, d_model]`; reset `[B, T]` bool; state `LocalAttentionState`. Unlike the
    paper's, every step sees exactly its last `window_tokens` steps, so acting equals learning; positions are rotary.

    Raises: ValueError for sizes, x, reset or state that `LocalAttention` refuses.
    """

    def __init__(self, d_model: int, num_heads: int, *, window_tokens: int) -> None:
        super().__init__()
        self.attention = LocalAttention(d_model, num_heads, window_tokens=window_tokens)
        self.norm, self.mlp_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.gate, self.mlp_gate = Gate(d_model), Gate(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.ReLU(), nn.Linear(4 * d_model, d_model))
        self.d_model = d_model

    def forward(
        self, x: Tensor, state: LocalAttentionState | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, LocalAttentionState]:
        """Steps x `[B, T, d_model]` after those in `state`."""
        if x.dim() != 3 or x.shape[-1] != self.d_model:
            raise ValueError(f"x must be [B, T, d_model={self.d_model}] with steps in it; got {list(x.shape)}")
        near, state = self.attention(self.norm(x), state, reset=reset)
        h = self.gate(x, F.relu(near))
        return self.mlp_gate(h, F.relu(self.mlp(self.mlp_norm(h)))), state


class Gate(nn.Module):
    """GRU-type gate of the paper: (1 - z) x + z h, with a bias of 2 that starts it close to x."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.from_y = nn.Linear(d_model, 3 * d_model, bias=False)
        self.from_x = nn.Linear(d_model, 2 * d_model, bias=False)
        self.from_reset = nn.Linear(d_model, d_model, bias=False)
        self.bias = nn.Parameter(torch.full((d_model,), 2.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Stream x and a sub-layer's output y, both `[..., d_model]`."""
        reset_y, update_y, new_y = self.from_y(y).chunk(3, -1)
        reset_x, update_x = self.from_x(x).chunk(2, -1)
        update = torch.sigmoid(update_y + update_x - self.bias)
        new = torch.tanh(new_y + self.from_reset(torch.sigmoid(reset_y + reset_x) * x))
        return (1 - update) * x + update * new
