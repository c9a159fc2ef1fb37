"""Memory traces: exponential moving averages of the inputs at several speeds, the cheapest memory there is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._episodes import check_call, episodes

BLOCK = 64


class MemoryTrace(nn.Module):
    """z_t = a z_{t-1} + (1 - a) x_t for every decay a, z = 0 before an episode; y_t = W [z_t of every a].

    Shapes: x `[B, T, d_model]` -> `[B, T, d_model]`; reset `[B, T]` bool; state `[B, K, d_model]`, one row a decay.
    Computed in blocks of 64 steps as one product with the decays' powers.

    Raises: ValueError for decays outside [0, 1), none at all, a wrong x, reset or state.
    """

    def __init__(self, d_model: int, *, decays: Sequence[float] = (0.0, 0.5, 0.9, 0.99)) -> None:
        super().__init__()
        if not decays or not all(0 <= a < 1 for a in decays):
            raise ValueError(f"decays must be one or more numbers in [0, 1); got {list(decays)!r}")
        self.d_model, self.decays = d_model, tuple(decays)
        self.out_proj = nn.Linear(len(self.decays) * d_model, d_model)

    def forward(self, x: Tensor, state: Tensor | None = None, *, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Steps x `[B, T, d_model]` after those in `state`."""
        check_call(x, self.d_model, reset, state, Tensor, state if isinstance(state, Tensor) else None)
        shape = (x.shape[0], len(self.decays), self.d_model)
        if state is not None and tuple(state.shape) != shape:
            raise ValueError(f"state must be [B, K, d_model] = {list(shape)}; got {list(state.shape)}")
        trace = x.new_zeros(shape) if state is None else state.to(x.dtype)
        parts = []
        for first in range(0, x.shape[1], BLOCK):
            here = None if reset is None else reset[:, first : first + BLOCK]
            z = self._block(x[:, first : first + BLOCK], trace, here)
            trace = z[:, :, -1]
            parts.append(z)
        return self.out_proj(torch.cat(parts, 2).transpose(1, 2).flatten(2)), trace

    def _block(self, x: Tensor, trace: Tensor, reset: Tensor | None) -> Tensor:
        """Traces `[B, K, T, d_model]` of x `[B, T, d_model]`."""
        steps = episodes(x, reset, torch.zeros(x.shape[0], dtype=torch.int64, device=x.device))
        time = torch.arange(x.shape[1], device=x.device)
        gap = time[:, None] - time
        same = (gap >= 0) & (steps.number[:, :, None] == steps.number[:, None])
        a = torch.tensor(self.decays, dtype=x.dtype, device=x.device)[:, None, None]
        weight = (1 - a) * a ** gap.clamp_min(0) * same[:, None]
        past = a ** (time + 1)[:, None] * trace[:, :, None] * (steps.number == 0)[:, None, :, None]
        return weight @ x[:, None] + past
