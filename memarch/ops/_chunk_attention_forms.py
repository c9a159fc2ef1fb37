"""Three exact forms of chunk attention, and which of them a call takes.

B batch, T queries, M chunks of C rows, k of them selected, D model width, H heads, F width of all heads together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._chunk_attention_blocks import AttendInBlocks
from ._chunk_attention_inputs import ChunkAttentionWeights, sinusoids


class Selection(NamedTuple):
    """What the router chose. chunk: `[B, T, k]` indices. weight: `[B, T, k]`, zero where nothing was allowed."""

    chunk: Tensor
    weight: Tensor


def select_chunks(
    x: Tensor,
    summaries: Tensor,
    weights: ChunkAttentionWeights,
    allowed: Tensor,
    bias: Tensor | None,
    top_k: int,
    normalize: str,
) -> Selection:
    """Router: the k allowed chunks of the highest score (equal scores: the lower index) and their softmax weights."""
    query = x @ weights.router_query.mT
    if summaries.shape[1] > x.shape[1]:
        scores = query @ weights.router_key @ summaries.mT
    else:
        scores = query @ (summaries @ weights.router_key.mT).mT
    scores = scores * weights.router_query.shape[0] ** -0.5
    if bias is not None:
        scores = scores + bias
    # The lowest number instead of -inf: a query without any chunk then has weights to zero out, not NaN.
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    index = _largest(scores.detach(), top_k)
    if normalize == "all":
        weight = scores.softmax(-1).gather(-1, index)
    else:
        weight = scores.gather(-1, index).softmax(-1)
    return Selection(index, weight * allowed.gather(-1, index))


def _largest(scores: Tensor, top_k: int) -> Tensor:
    """Indices `[B, T, k]` of the k largest of the last axis, from the largest; of equal ones the lower index first."""
    if scores.device.type != "cpu" or scores.shape[-1] < 4 * top_k:
        return scores.sort(dim=-1, descending=True, stable=True).indices[..., :top_k]
    # topk is many times faster than a sort, but does not say which of equal ones it takes.
    values, index = scores.topk(top_k + 1, dim=-1)
    cut = values[..., top_k]
    if bool(((values[..., top_k - 1] == cut) & (cut > torch.finfo(scores.dtype).min)).any()):
        return scores.sort(dim=-1, descending=True, stable=True).indices[..., :top_k]
    index = index[..., :top_k].sort(dim=-1).values
    order = scores.gather(-1, index).sort(dim=-1, descending=True, stable=True).indices
    return index.gather(-1, order)


def dense(
    x: Tensor, contents: Tensor, real: Tensor, weights: ChunkAttentionWeights, num_heads: int, chosen: Selection
) -> Tensor:
    """All M C rows for every query as two matrix products; softmax inside each chunk, unselected chunks times 0."""
    k, v = _project(contents, real, weights, num_heads)
    q = _heads(x @ weights.query.mT, num_heads).movedim(2, 1) * k.shape[-1] ** -0.5
    scores = q @ k.flatten(2, 3).mT
    inside = _softmax(scores.unflatten(-1, contents.shape[1:3]), real[:, None, None])
    spread = x.new_zeros(*x.shape[:2], contents.shape[1]).scatter(-1, chosen.chunk, chosen.weight)
    mixed = (inside * spread[:, None, :, :, None]).flatten(-2) @ v.flatten(2, 3)
    return mixed.movedim(1, 2).flatten(2) @ weights.output.mT


def gather(
    x: Tensor, contents: Tensor, real: Tensor, weights: ChunkAttentionWeights, num_heads: int, chosen: Selection
) -> Tensor:
    """Rows projected once, then the keys and values of the selected chunks gathered for every query."""
    k, v = (_take(y.movedim(1, 3).flatten(-2), chosen.chunk) for y in _project(contents, real, weights, num_heads))
    q = _heads(x @ weights.query.mT, num_heads) * (weights.query.shape[0] // num_heads) ** -0.5
    k, v = (y.unflatten(-1, (num_heads, -1)).movedim(-2, 2) for y in (k, v))
    scores = (k.flatten(3, 4) @ q.unsqueeze(-1)).squeeze(-1)
    weight = _selected_weights(scores, contents, real, chosen)
    mixed = (weight.unsqueeze(-2) @ v.flatten(3, 4)).squeeze(-2)
    return mixed.flatten(2) @ weights.output.mT


def absorbed(
    x: Tensor, contents: Tensor, real: Tensor, weights: ChunkAttentionWeights, num_heads: int, chosen: Selection
) -> Tensor:
    """The query through W_K^T instead of the rows through W_K: the memory itself is key and value, gathered once.

    With a memory that needs no gradient the backward has no scatter.
    """
    key, value = (w.unflatten(0, (num_heads, -1)) for w in (weights.key, weights.value))
    q = _heads(x @ weights.query.mT, num_heads) * key.shape[1] ** -0.5
    q = torch.einsum("bthf,hfd->bthd", q, key)
    mixed = torch.einsum("bthd,hfd->bthf", AttendInBlocks.apply(q, contents, real, *chosen), value)
    return mixed.flatten(2) @ weights.output.mT


def _project(contents: Tensor, real: Tensor, weights: ChunkAttentionWeights, num_heads: int) -> tuple[Tensor, Tensor]:
    """Keys and values `[B, H, M, C, F/H]` of every row; rows that are not real count as zeros."""
    rows = contents.masked_fill(~real.unsqueeze(-1), 0) + sinusoids(contents.shape[2], contents.shape[3], contents)
    k, v = (_heads(rows @ w.mT, num_heads).movedim(3, 1) for w in (weights.key, weights.value))
    return k, v


def _selected_weights(scores: Tensor, contents: Tensor, real: Tensor, chosen: Selection) -> Tensor:
    """`[B, T, H, k C]` scores of gathered rows to weights: softmax inside a chunk times the chunk's weight."""
    scores = scores.unflatten(-1, (-1, contents.shape[2]))
    inside = _softmax(scores, _take(real, chosen.chunk).unsqueeze(2))
    return (inside * chosen.weight[:, :, None, :, None]).flatten(-2)


def _softmax(scores: Tensor, real: Tensor) -> Tensor:
    """Softmax over the real rows of a chunk; all zeros in a chunk without any."""
    return scores.masked_fill(~real, torch.finfo(scores.dtype).min).softmax(-1) * real


def _heads(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1))


def _take(x: Tensor, index: Tensor) -> Tensor:
    """x `[B, M, ...]` of the chunks index `[B, T, k]`: `[B, T, k, ...]`."""
    batch = torch.arange(x.shape[0], device=x.device)[:, None, None]
    return x[batch, index]


FORM = {"dense": dense, "gather": gather, "absorbed": absorbed}


def choose_form(x: Tensor, contents: Tensor, top_k: int) -> str:
    """The fastest form for these sizes, by measurement on one CPU core (AMD EPYC, torch 2.13.0, float32).

    86 random sizes (T 1 to 256, M 2 to 256, C 8 to 64, D 32 to 256, H 1 to 16, k 1 to 16, forward alone and with
    backward): always "absorbed" takes 1.22 times the best form's CPU time in the mean, always "dense" 6.7 times; dense
    where M < 3 k and T >= 16 makes it 1.03, and 1.9 at worst. "gather" is the best nowhere by more than that.
    """
    return "dense" if x.shape[1] >= 16 and contents.shape[1] < 3 * top_k else "absorbed"
