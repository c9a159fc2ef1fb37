"""Every sequence on its own grid of chunks, and the gates of a chunk as matrices.

Rows are (sequence, head) pairs; chunk layout is `[NC, R, C, ...]` with R = N H rows. Padding tokens carry a = 1 and
eta = 0, which leaves the memory exactly as it was. Rows are sorted so that those still running come first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MAX_LOG_RANGE = {torch.float32: 60.0, torch.float64: 500.0}
"""Largest fall of a channel-wise log-decay within a chunk that exp(-b) still represents with room to spare."""


class Grid:
    """Placement of packed tokens on chunks.

    Args:
        bounds: `[N + 1]` int64, sequence boundaries in the flat token axis.
        position: `[N]` int64, tokens each sequence has already used of its current chunk.
        chunk_size: C.
        num_heads: H.

    Attributes:
        num_active: for every chunk, how many rows still have tokens in it (they come first).
        order: `[N]` sequence of each group of H rows.
        end_position: `[N]` position after these tokens, in the original order of sequences.
    """

    def __init__(self, bounds: Tensor, position: Tensor, chunk_size: int, num_heads: int):
        lengths = bounds.diff()
        end = position + lengths
        chunks = (end + chunk_size - 1) // chunk_size
        self.end_position = end % chunk_size
        self.num_chunks = int(chunks.max())
        self.order = torch.argsort(chunks, descending=True, stable=True)
        per_chunk = (chunks[None, :] > torch.arange(self.num_chunks)[:, None]).sum(1)
        self.num_active = [int(n) * num_heads for n in per_chunk]
        self.num_heads, self.num_sequences = num_heads, lengths.numel()
        self.num_tokens = int(bounds[-1])
        single = self.num_chunks == 1
        self.width = int(lengths.max()) if single else chunk_size
        self.regular = not bool(position.any()) and bool((lengths == lengths[0]).all())
        if not self.regular:
            self.index = self._index(bounds, position, lengths)

    def _index(self, bounds: Tensor, position: Tensor, lengths: Tensor) -> Tensor:
        """`[NC, N, C]` flat token of every slot; padding slots point one past the last token."""
        slot = torch.arange(self.num_chunks * self.width).view(self.num_chunks, 1, self.width)
        offset = slot if self.num_chunks == 1 else slot - position[self.order].view(1, -1, 1)
        inside = (offset >= 0) & (offset < lengths[self.order].view(1, -1, 1))
        flat = bounds[:-1][self.order].view(1, -1, 1) + offset
        return torch.where(inside, flat, torch.full_like(flat, self.num_tokens))

    def to_chunks(self, x: Tensor) -> Tensor:
        """`[B, T, H, *]` tokens to `[NC, R, C, *]`; padding slots are zero."""
        flat = x.flatten(0, 1)
        if self.regular:
            missing = self.num_chunks * self.width - self.num_tokens // self.num_sequences
            rows = flat.unflatten(0, (self.num_sequences, -1))
            if missing:
                rows = torch.cat([rows, rows.new_zeros(rows.shape[0], missing, *rows.shape[2:])], dim=1)
            chunks = rows.unflatten(1, (self.num_chunks, self.width)).movedim(0, 1)
        else:
            padded = torch.cat([flat, flat.new_zeros(1, *flat.shape[1:])])
            chunks = padded[self.index.to(x.device)]
        return chunks.movedim(3, 2).flatten(1, 2).contiguous()

    def to_tokens(self, chunks: Tensor, like: Tensor) -> Tensor:
        """`[NC, R, C, D]` back to `like`'s `[B, T, H, D]`."""
        rows = chunks.unflatten(1, (self.num_sequences, self.num_heads)).movedim(2, 3)
        if self.regular:
            tokens = rows.movedim(0, 1).flatten(1, 2)[:, : self.num_tokens // self.num_sequences]
        else:
            flat, target = rows.flatten(0, 2), self.index.flatten().to(chunks.device)
            source = torch.argsort(target, stable=True)[: self.num_tokens]
            tokens = flat[source]
        return tokens.reshape(like.shape)

    def rows(self, x: Tensor) -> Tensor:
        """A state tensor `[N, H, ...]` to sorted rows `[R, ...]`."""
        return (x if self.regular else x[self.order.to(x.device)]).flatten(0, 1)

    def unrows(self, rows: Tensor) -> Tensor:
        """Sorted rows `[R, ...]` back to `[N, H, ...]` in the original order."""
        x = rows.unflatten(0, (self.num_sequences, self.num_heads))
        return x if self.regular else x[torch.argsort(self.order).to(x.device)]


class Gates(NamedTuple):
    """The gates of every chunk. G is 1 (per head) or D (per channel).

    decay: `[NC, R, C, G]` exp(b_t), b the running sum of log-decays from the chunk's start.
    write: `[NC, R, C, G]` exp(b_C - b_i) eta_i, weight of token i in the memory at the chunk's end.
    mix: `[NC, R, C, C]` exp(b_t - b_i) eta_i for i <= t (per head), or the causal mask of ones (per channel).
    key_gain: per channel only: exp(-b_i) eta_i, else None.
    """

    decay: Tensor
    write: Tensor
    mix: Tensor
    key_gain: Tensor | None


def chunk_gates(log_decay: Tensor, step_size: Tensor) -> Gates:
    """Gates from log-decays and step sizes in chunk layout, `[NC, R, C]` each or `[NC, R, C, D]`."""
    channels = max(log_decay.dim(), step_size.dim()) == 4
    total = log_decay.cumsum(2)
    causal = causal_mask(log_decay.shape[2], log_decay)
    if not channels:
        mix = pairwise_decay(total) * step_size.unsqueeze(-2)
        return Gates(total.exp().unsqueeze(-1), mix[..., -1, :].unsqueeze(-1), mix, None)
    total, step = (x if x.dim() == 4 else x.unsqueeze(-1) for x in (total, step_size))
    decay = total.exp()
    write = (total[..., -1:, :] - total).exp() * step
    return Gates(decay, write, causal.expand(*log_decay.shape[:3], -1), (-total).exp() * step)


def causal_mask(width: int, like: Tensor) -> Tensor:
    """`[C, C]` ones where i <= t."""
    return torch.ones(width, width, dtype=like.dtype, device=like.device).tril()


def pairwise_decay(total: Tensor) -> Tensor:
    """exp(b_t - b_i) for i <= t, else 0: `[..., C, C]` from `[..., C]`, `[..., C, C, D]` from `[NC, R, C, D]`."""
    if total.dim() == 4:
        gap = total.unsqueeze(3) - total.unsqueeze(2)
        future = causal_mask(total.shape[2], total)[..., None] == 0
    else:
        gap = total.unsqueeze(-1) - total.unsqueeze(-2)
        future = causal_mask(total.shape[-1], total) == 0
    return gap.masked_fill(future, float("-inf")).exp()


def overflows(log_decay: Tensor, step_size: Tensor) -> bool:
    """Whether exp(-b), formed when either gate is channel-wise `[NC, R, C, D]`, could overflow: then form pairs."""
    if max(log_decay.dim(), step_size.dim()) < 4:
        return False
    return bool(log_decay.detach().sum(2).min() < -MAX_LOG_RANGE[log_decay.dtype])
