"""GRU and LSTM with resets: the recurrent baselines of reinforcement learning, called like every memory layer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ._episodes import check_call

GRADIENT_BLOCK = 16
"""Steps of a packed sequence per call on a CPU: torch's gradient of a call takes time quadratic in its steps there."""
FEW_RESETS = 4
"""An LSTM on a CPU is fused by torch unless packed: with resets at less than a quarter of the steps, not packed."""


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
        """Steps x `[B, T, d_model]` after those in `state`; episodes of the window run side by side."""
        check_call(x, self.d_model, reset, state, RecurrentState, getattr(state, "hidden", None))
        zeros = x.new_zeros(1, x.shape[0], self.d_model)
        before: tuple[Tensor, ...] = (zeros if state is None else state.hidden[None].to(x.dtype),)
        if isinstance(self.core, nn.LSTM):
            before = (*before, zeros if state is None or state.cell is None else state.cell[None].to(x.dtype))
        cuts: list[int] = []
        if reset is not None:
            before = tuple(torch.where(reset[None, :, :1], 0, s) for s in before)
            if x.shape[1] > 1:
                cuts = (torch.nonzero(reset[:, 1:].any(0)).flatten() + 1).tolist()
        if not cuts:
            y, after = self._run(x, before)
        elif x.is_cpu and isinstance(self.core, nn.LSTM) and len(cuts) * FEW_RESETS <= x.shape[1]:
            y, after = self._run_between(x, before, cast(Tensor, reset), cuts)
        else:
            y, after = self._run_segments(x, before, cast(Tensor, reset))
        return y, RecurrentState(*(s[0] for s in after))

    def _run(self, x: Any, before: tuple[Tensor, ...]) -> tuple[Any, tuple[Tensor, ...]]:
        """The core's call, its states `[1, B, d_model]` in a tuple: hidden, and cell of an LSTM."""
        if isinstance(self.core, nn.LSTM):
            return cast("tuple[Any, tuple[Tensor, ...]]", self.core(x, before))
        y, hidden = self.core(x, before[0])
        return y, (hidden,)

    def _run_between(
        self, x: Tensor, state: tuple[Tensor, ...], reset: Tensor, cuts: list[int]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One call between any two of `cuts`, the steps at which some row resets."""
        parts = []
        for first, end in pairwise([0, *cuts, x.shape[1]]):
            if first:
                state = tuple(torch.where(reset[None, :, first, None], 0, s) for s in state)
            y, state = self._run(x[:, first:end], state)
            parts.append(y)
        return torch.cat(parts, 1), state

    def _run_segments(self, x: Tensor, before: tuple[Tensor, ...], reset: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Every row cut at its own resets, the segments as rows of one packed sequence."""
        plan = _Segments.of(reset, x.device)
        block = GRADIENT_BLOCK if x.is_cpu and torch.is_grad_enabled() else len(plan.batch_sizes)
        sizes = plan.batch_sizes.split(block)
        steps = x.flatten(0, 1).index_select(0, plan.order).split([int(s.sum()) for s in sizes])
        # The state enters the first segment of each row; all others begin empty.
        num_segments = int(plan.batch_sizes[0])
        state = tuple(s.new_zeros(1, num_segments, self.d_model).index_copy(1, plan.first, s) for s in before)
        parts, ended = [], []
        for batch_sizes, data in zip(sizes, steps, strict=True):
            count = int(batch_sizes[0])
            ended.append(tuple(s[:, count:] for s in state))
            y, state = self._run(PackedSequence(data, batch_sizes), tuple(s[:, :count].contiguous() for s in state))
            parts.append(y.data)
        ended.append(state)
        after = tuple(torch.cat(s[::-1], 1).index_select(1, plan.last) for s in zip(*ended, strict=True))
        return torch.cat(parts).index_select(0, plan.place).view_as(x), after


class _Segments(NamedTuple):
    """Where the steps of a window `[B, T]` lie in a packed sequence of its segments, the longest segment first.

    order: `[B * T]`, the steps (b * T + t) in packed order. place: `[B * T]`, where each step is packed. first, last:
    `[B]`, the segments that rows begin and end in. batch_sizes: how many segments have a first, a second, ... step.
    """

    order: Tensor
    place: Tensor
    first: Tensor
    last: Tensor
    batch_sizes: Tensor

    @classmethod
    def of(cls, reset: Tensor, device: torch.device) -> _Segments:
        """The segments between the resets `[B, T]` of each row; batch_sizes stay on the CPU, where torch wants them."""
        begins = reset.cpu().index_fill(1, torch.tensor([0]), True).flatten()
        begin = begins.nonzero().flatten()
        rank = torch.empty_like(begin)
        lengths = begin.diff(append=begin.new_tensor([begins.numel()]))
        rank[lengths.argsort(descending=True, stable=True)] = torch.arange(begin.numel())
        segment = begins.cumsum(0) - 1
        since = torch.arange(begins.numel()) - begin[segment]
        batch_sizes = since.bincount()
        place = (batch_sizes.cumsum(0) - batch_sizes)[since] + rank[segment]
        ends = rank[segment].view_as(reset)
        order = torch.empty_like(place)
        order[place] = torch.arange(place.numel())
        order, place, first, last = (i.to(device) for i in (order, place, ends[:, 0], ends[:, -1]))
        return cls(order, place, first, last, batch_sizes)


class LSTM(GRU):
    """One LSTM layer (Hochreiter and Schmidhuber 1997); shapes, resets and errors as `GRU`."""

    def _core(self, d_model: int) -> nn.GRU | nn.LSTM:
        return nn.LSTM(d_model, d_model, batch_first=True)
