"""HCAM's memory: cutting episodes into chunks, keeping the newest, and who may see which.

B batch, T time, M chunks kept, N chunks that end in this window, C steps of a chunk, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ._episodes import Episodes
from .local_attention import LocalAttentionState


@dataclass(frozen=True)
class HCAMState:
    """What an HCAM layer carries between calls, for B environments. Chunks lie from oldest to newest, empty ones first.

    summaries: `[B, M, D]` means of the chunks' rows.
    contents: `[B, M, C, D]` stored steps, oldest to newest; a chunk cut short by a reset fills its last rows.
    num_rows: `[B, M]` int64, real rows of each chunk; 0 marks an empty place, which may hold anything.
    age: `[B, M]` int64, steps from the chunk's last one to the last step seen.
    accumulator: `[B, C, D]` steps of the chunk in progress, in its last rows.
    num_pending: `[B]` int64, how many those are.
    local: the last steps, for the attention over them.
    """

    summaries: Tensor
    contents: Tensor
    num_rows: Tensor
    age: Tensor
    accumulator: Tensor
    num_pending: Tensor
    local: LocalAttentionState

    def detach(self) -> HCAMState:
        """The same state cut from the autograd graph."""
        return HCAMState(**{f.name: getattr(self, f.name).detach() for f in fields(self)})

    def to(self, device: torch.device | str) -> HCAMState:
        """The same state on another device."""
        return HCAMState(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def empty_state(x: Tensor, num_chunks: int, chunk_size: int, local: LocalAttentionState) -> HCAMState:
    """A memory without any chunk, for x's batch, width, dtype and device."""
    batch, _, width = x.shape
    count = torch.zeros(batch, num_chunks, dtype=torch.int64, device=x.device)
    return HCAMState(
        summaries=x.new_zeros(batch, num_chunks, width),
        contents=x.new_zeros(batch, num_chunks, chunk_size, width),
        num_rows=count,
        age=count,
        accumulator=x.new_zeros(batch, chunk_size, width),
        num_pending=count[:, 0],
        local=local,
    )


@dataclass(frozen=True)
class Candidates:
    """Chunks of the state followed by those that end in this window, M + N of them, from oldest to newest.

    end: `[B, M + N]` int64, the chunk's last step, counted from this window's first. episode: as `Episodes.number`.
    """

    summaries: Tensor
    contents: Tensor
    num_rows: Tensor
    end: Tensor
    episode: Tensor

    def real_rows(self) -> Tensor:
        """`[B, M + N, C]` bool."""
        return _last_rows(self.num_rows, self.contents.shape[2])

    def visible(self, steps: Episodes, num_chunks: int, within_episode: bool) -> Tensor:
        """`[B, T, M + N]` bool: ended before the step, among the newest `num_chunks` then, in an allowed episode."""
        step = torch.arange(steps.number.shape[1], device=self.end.device)
        ended = (self.num_rows > 0)[:, None] & (self.end[:, None] < step[:, None])
        newer = ended.flip(-1).cumsum(-1).flip(-1) - 1
        seen = ended & (newer < num_chunks)
        return seen & (self.episode[:, None] == steps.number[..., None]) if within_episode else seen


def collect(
    state: HCAMState, stored: Tensor, steps: Episodes, reset: Tensor | None, within_episode: bool
) -> Candidates:
    """Cut this window's `stored` `[B, T, D]` into chunks, by the step of the episode, and append them to the state's.

    A chunk ends with every C-th step of an episode and, unless `within_episode`, with the episode's last step.
    """
    chunk_size = state.accumulator.shape[1]
    # Place 0 is the step before this window: a reset at its first step ends the chunk that was in progress.
    rows = torch.cat([state.num_pending[:, None], steps.since_reset % chunk_size + 1], 1)
    ends = rows == chunk_size
    ends[:, 0] = False
    if reset is not None and not within_episode:
        ends[:, :-1] |= reset & (rows[:, :-1] > 0)
    episode = F.pad(steps.number, (1, 0))
    num_new = int(ends.sum(1).max())
    if not num_new:
        none = torch.zeros_like(state.num_rows)
        summaries, contents = state.summaries.to(stored.dtype), state.contents.to(stored.dtype)
        return Candidates(summaries, contents, state.num_rows, -1 - state.age, none)
    order = (~ends).to(torch.int8).argsort(dim=1, stable=True)[:, :num_new]
    num_rows = torch.where(ends, rows, 0).gather(1, order)
    history = torch.cat([state.accumulator.to(stored.dtype), stored], 1)
    contents = _take(history, order[..., None] + torch.arange(chunk_size, device=order.device))
    contents = contents * _last_rows(num_rows, chunk_size)[..., None]
    summaries = contents.sum(2) / num_rows.clamp_min(1)[..., None]
    return Candidates(
        torch.cat([state.summaries.to(stored.dtype), summaries], 1),
        torch.cat([state.contents.to(stored.dtype), contents], 1),
        torch.cat([state.num_rows, num_rows], 1),
        torch.cat([-1 - state.age, order - 1], 1),
        torch.cat([torch.zeros_like(state.num_rows), episode.gather(1, order)], 1),
    )


def keep_newest(
    candidates: Candidates,
    state: HCAMState,
    stored: Tensor,
    steps: Episodes,
    local: LocalAttentionState,
    within_episode: bool,
) -> HCAMState:
    """The state after this window: the newest M chunks, and the chunk in progress."""
    (num_chunks, chunk_size), time = state.contents.shape[1:3], stored.shape[1]
    num_rows = candidates.num_rows
    if within_episode:
        num_rows = torch.where(candidates.episode == steps.number[:, -1:], num_rows, 0)
    summaries, contents, end = candidates.summaries, candidates.contents, candidates.end
    if contents.shape[1] > num_chunks:
        order = (num_rows > 0).to(torch.int8).argsort(dim=1, stable=True)[:, -num_chunks:]
        num_rows, end = num_rows.gather(1, order), end.gather(1, order)
        summaries, contents = _take(summaries, order), _take(contents, order)
    pending = (steps.since_reset[:, -1] + 1) % chunk_size
    history = torch.cat([state.accumulator.to(stored.dtype), stored], 1)[:, -chunk_size:]
    return HCAMState(
        summaries=summaries,
        contents=contents,
        num_rows=num_rows,
        age=torch.where(num_rows > 0, time - 1 - end, 0),
        accumulator=history * _last_rows(pending, chunk_size)[..., None],
        num_pending=pending,
        local=local,
    )


def _take(x: Tensor, index: Tensor) -> Tensor:
    """x `[B, M, ...]` at index `[B, ...]`: whole rows are copied, where `gather` would go number by number."""
    first = torch.arange(x.shape[0], device=x.device) * x.shape[1]
    rows = (index.flatten(1) + first[:, None]).flatten()
    return x.flatten(0, 1).index_select(0, rows).view(*index.shape, *x.shape[2:])


def _last_rows(count: Tensor, chunk_size: int) -> Tensor:
    """`[..., C]` bool: the last `count` `[...]` rows of a chunk."""
    return torch.arange(chunk_size, device=count.device) >= chunk_size - count[..., None]
