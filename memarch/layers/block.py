"""The Llama-style residual block around any token mixer that follows `y, state = mixer(x, state, *, mask)`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .swiglu import SwiGLU


class MemoryBlock(nn.Module):
    """x + mixer(norm(x)), then x + SwiGLU(norm(x)); RMSNorm before each (Llama, arXiv 2302.13971).

    Shapes: x `[B, T, d_model]` -> `[B, T, d_model]`; the state is the mixer's own. Outputs where `mask` is False
    have no meaning and reach no other token.

    Args:
        mixer: a Miras layer, `Attention`, or any module with the same call.
        d_model: width of the block; the mixer must map `d_model` to `d_model`.
        mlp_dim: hidden width of the SwiGLU; None is about 8/3 d_model.
    """

    def __init__(self, mixer: nn.Module, d_model: int, *, mlp_dim: int | None = None) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(d_model, eps=1e-6)
        self.mixer = mixer
        self.mlp_norm = nn.RMSNorm(d_model, eps=1e-6)
        self.mlp = SwiGLU(d_model, mlp_dim=mlp_dim)

    def forward(self, x: Tensor, state: Any = None, *, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        """x `[B, T, d_model]`, the mixer's state or None, mask `[B, T]` bool -> output and the mixer's next state."""
        y, state = self.mixer(self.mixer_norm(x), state, mask=mask)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), state
