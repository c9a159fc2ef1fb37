"""GRU and LSTM with resets: the recurrent baselines of reinforcement learning, called like every memory layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._episodes import check_call


@dataclass(frozen=True)
class RecurrentState:
    """hidden: `[B, d_model]`. cell: `[B, d_model]` of an LSTM, None of a GRU."""

    hidden: Tensor
    cell: Tensor | None = None

    def detach(self) -> RecurrentState:
        """The same state cut from the autograd graph."""
        return RecurrentState(self.hidden.detach(), None if self.cell is None else self.cell.detach())

    def to(self, device: torch.device | str) -> RecurrentState:
        """The same state on another device."""
        return RecurrentState(self.hidden.to(device), None if self.cell is None else self.cell.to(device))


class GRU(nn.Module):
    """One gated recurrent layer (arXiv 1406.1078) of `d_model` units, emptied where `reset` is True.

    Shapes: x `[B, T, d_model]` -> `[B, T, d_model]`; reset `[B, T]` bool; state `RecurrentState`.
    Raises: ValueError for a wrong x, reset or state.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.core: nn.GRU | nn.LSTM = self._core(d_model)

    def _core(self, d_model: int) -> nn.GRU | nn.LSTM:
        return nn.GRU(d_model, d_model, batch_first=True)

    def forward(
        self, x: Tensor, state: RecurrentState | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """Steps x `[B, T, d_model]` after those in `state`; one call of the core between any two resets."""
        check_call(x, self.d_model, reset, state, RecurrentState, getattr(state, "hidden", None))
        is_lstm = isinstance(self.core, nn.LSTM)
        zeros = x.new_zeros(1, x.shape[0], self.d_model)
        hidden = zeros if state is None else state.hidden[None].to(x.dtype)
        cell = zeros if state is None or state.cell is None else state.cell[None].to(x.dtype)
        starts = [] if reset is None else torch.nonzero(reset.any(0)).flatten().tolist()
        parts = []
        for first, end in zip([0, *(s for s in starts if s)], [*(s for s in starts if s), x.shape[1]], strict=True):
            if reset is not None:
                kept = ~reset[None, :, first, None]
                hidden, cell = hidden * kept, cell * kept
            if is_lstm:
                y, (hidden, cell) = self.core(x[:, first:end], (hidden, cell))
            else:
                y, hidden = self.core(x[:, first:end], hidden)
            parts.append(y)
        return torch.cat(parts, 1), RecurrentState(hidden[0], cell[0] if is_lstm else None)


class LSTM(GRU):
    """One LSTM layer (Hochreiter and Schmidhuber 1997); shapes, resets and errors as `GRU`."""

    def _core(self, d_model: int) -> nn.GRU | nn.LSTM:
        return nn.LSTM(d_model, d_model, batch_first=True)
