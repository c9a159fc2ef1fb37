"""Miras layers with resets: `y, state = layer(x, state, reset=reset)` for agents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._episodes import check_call
from .miras import Miras, MirasLayerState


class EpisodicMiras(nn.Module):
    """A Miras layer whose memory starts anew where `reset` is True. Every episode is one packed sequence of one call.

    Shapes: x `[B, T, d_model]` -> `[B, T, d_model]`; reset `[B, T]` bool; state `MirasLayerState`.
    Raises: ValueError for a wrong x, reset or state.
    """

    def __init__(self, miras: Miras) -> None:
        super().__init__()
        self.miras = miras

    def forward(
        self, x: Tensor, state: MirasLayerState | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, MirasLayerState]:
        """Steps x `[B, T, d_model]` after those in `state`."""
        check_call(x, self.miras.d_model, reset, state, MirasLayerState, None)
        if reset is None or not bool(reset.any()):
            y, ended = self.miras(x, state)
            return y, ended
        batch, time, _ = x.shape
        empty = self.miras._empty_state(x)
        state = empty if state is None else state
        if state.conv.shape[0] != batch:
            raise ValueError(f"state holds {state.conv.shape[0]} sequences, x has {batch}: pass the same batch's state")
        # A piece begins with every row and with every reset; only a row's first, without a reset, goes on.
        begins = reset.cpu().clone()
        begins[:, 0] = True
        row, step = torch.nonzero(begins, as_tuple=True)
        goes_on = (step == 0) & ~reset.cpu()[row, step]
        both = MirasLayerState(torch.cat([state.conv.to(x.dtype), empty.conv]), state.memory.concat(empty.memory))
        bounds = F.pad(row * time + step, (0, 1), value=batch * time)
        y, ended = self.miras._mix(x.flatten(0, 1)[None], both.select(torch.where(goes_on, row, row + batch)), bounds)
        last = begins.sum(1).cumsum(0) - 1
        return y.view_as(x), ended.select(last)
