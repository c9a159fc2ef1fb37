"""SwiGLU: the gated feed-forward layer of Llama-style blocks (arXiv 2002.05202)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases.

    Shapes: x `[..., d_model]` -> `[..., d_model]`.

    Args:
        d_model: width of the input and output.
        mlp_dim: hidden width; None is 8/3 d_model rounded up to a multiple of 8, the size of a plain 4x layer.

    Raises:
        ValueError: a width below 1.
    """

    def __init__(self, d_model: int, *, mlp_dim: int | None = None) -> None:
        super().__init__()
        if d_model < 1 or (mlp_dim is not None and mlp_dim < 1):
            raise ValueError(f"d_model and mlp_dim must be at least 1; got {d_model} and {mlp_dim}")
        self.mlp_dim = default_mlp_dim(d_model) if mlp_dim is None else mlp_dim
        self.gate_proj = nn.Linear(d_model, self.mlp_dim, bias=False)
        self.up_proj = nn.Linear(d_model, self.mlp_dim, bias=False)
        self.down_proj = nn.Linear(self.mlp_dim, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x `[..., d_model]` -> `[..., d_model]`."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def default_mlp_dim(d_model: int) -> int:
    """8/3 d_model, rounded up to a multiple of 8."""
    return -(-8 * d_model // 24) * 8
