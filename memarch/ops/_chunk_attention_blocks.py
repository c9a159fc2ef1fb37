"""The absorbed form in blocks of queries: what is gathered for one block stays in the cache and is never kept.

N queries of all sequences, k chunks of C rows each, D model width, H heads. For a query with q `[H, D]`, its selected
rows m and their positions p:  P = softmax(q (m + p)') inside each chunk;  O = sum of w P (m + p).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ._chunk_attention_inputs import sinusoids

BLOCK_BYTES = {"cpu": 2**22}
"""Memory of a block of gathered rows: a cache's, by measurement. Elsewhere blocks only bound what is allocated."""
LARGEST_BLOCK_BYTES = 2**28


def attend(q: Tensor, contents: Tensor, real: Tensor, chunk: Tensor, weight: Tensor) -> Tensor:
    """O `[B, T, H, D]` for q of that shape, scaled; chunk, weight `[B, T, k]`. Differentiable any number of times."""
    rows, kept = _take(contents, chunk), _take(real, chunk)
    rows = rows.masked_fill(~kept.unsqueeze(-1), 0) + sinusoids(contents.shape[2], contents.shape[3], contents)
    rows = rows.flatten(2, 3)
    inside = softmax((q @ rows.mT).unflatten(-1, (-1, contents.shape[2])), kept.unsqueeze(2))
    return (inside * weight[:, :, None, :, None]).flatten(-2) @ rows


def softmax(scores: Tensor, real: Tensor) -> Tensor:
    """Softmax over the real rows of a chunk; all zeros in a chunk without any."""
    return scores.masked_fill(~real, torch.finfo(scores.dtype).min).softmax(-1) * real


def _take(x: Tensor, index: Tensor) -> Tensor:
    """x `[B, M, ...]` of the chunks index `[B, T, k]`: `[B, T, k, ...]`."""
    batch = torch.arange(x.shape[0], device=x.device)[:, None, None]
    return x[batch, index]


def _positions(contents: Tensor) -> Tensor:
    """`sinusoids` of a memory; kept between calls on a CPU, where acting is made of such small operations."""
    if type(contents) is Tensor and contents.device.type == "cpu":
        return _positions_on_cpu(contents.shape[2], contents.shape[3], contents.dtype)
    return sinusoids(contents.shape[2], contents.shape[3], contents)


@lru_cache(maxsize=16)
def _positions_on_cpu(num_rows: int, width: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return sinusoids(num_rows, width, torch.zeros((), dtype=dtype))


class AttendInBlocks(torch.autograd.Function):
    """`attend` with the same arguments, its backward gathering again. A second derivative goes through `attend`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, contents: Tensor, real: Tensor, chunk: Tensor, weight: Tensor) -> Tensor:
        o = torch.empty_like(q, memory_format=torch.contiguous_format)
        probs = q.new_empty(q.shape[0] * q.shape[1], q.shape[2], chunk.shape[-1], contents.shape[2])
        position = _positions(contents)
        flat_q, flat_o, flat_w = q.flatten(0, 1), o.flatten(0, 1), weight.flatten(0, 1)
        for part, rows, kept in _blocks(contents, real, chunk):
            scores = _scores(flat_q[part], rows, position)
            inside = scores.softmax(-1) if kept is None else softmax(scores, kept)
            probs[part] = inside
            _mix(inside * flat_w[part][:, None, :, None], rows, position, out=flat_o[part])
        ctx.save_for_backward(q, contents, real, chunk, weight, probs)
        return o

    @staticmethod
    def backward(ctx: Any, d_o: Tensor) -> tuple[Tensor | None, ...]:
        q, contents, real, chunk, weight, probs = ctx.saved_tensors
        if torch.is_grad_enabled():
            wanted = [x for x, needed in zip((q, contents, weight), _differentiable(ctx), strict=True) if needed]
            found = iter(torch.autograd.grad(attend(q, contents, real, chunk, weight), wanted, d_o, create_graph=True))
            dq, d_contents, d_weight = (next(found) if needed else None for needed in _differentiable(ctx))
            return dq, d_contents, None, None, d_weight
        position = _positions(contents)
        dq = torch.empty_like(q, memory_format=torch.contiguous_format)
        d_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
        d_contents = torch.zeros_like(contents) if ctx.needs_input_grad[1] else None
        flat = [x.flatten(0, 1) for x in (q, weight, d_o, dq, d_weight)]
        for part, rows, _ in _blocks(contents, real, chunk):
            q_, w_, do_, dq_, dw_ = (x[part] for x in flat)
            inside, g = probs[part], _scores(do_, rows, position)
            along = (inside * g).sum(-1, keepdim=True)
            dw_.copy_(along.sum(1).squeeze(-1))
            w_ = w_[:, None, :, None]
            ds = inside * (g - along) * w_
            _mix(ds, rows, position, out=dq_)
            if d_contents is not None:
                index = _flat_index(chunk, contents.shape[1])[part].flatten()
                d_rows = torch.baddbmm(ds.flatten(2).mT @ q_, (inside * w_).flatten(2).mT, do_)
                d_contents.view(-1, *contents.shape[2:]).index_add_(0, index, d_rows.view(-1, *contents.shape[2:]))
        return dq, d_contents, None, None, d_weight


def _differentiable(ctx: Any) -> tuple[bool, bool, bool]:
    """Whether q, contents and weight need a gradient."""
    return ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[4]


def _scores(q: Tensor, rows: Tensor, position: Tensor) -> Tensor:
    """`[n, H, k, C]`: q `[n, H, D]` with the rows `[n, k C, D]` plus their positions."""
    scores = (q @ rows.mT).unflatten(-1, (-1, position.shape[0]))
    return scores.add_((q @ position.mT).unsqueeze(2))


def _mix(weight: Tensor, rows: Tensor, position: Tensor, *, out: Tensor) -> None:
    """Write into out `[n, H, D]` the rows and positions summed with `[n, H, k, C]` weights."""
    torch.baddbmm((weight.sum(2) @ position), weight.flatten(2), rows, out=out)


def _flat_index(chunk: Tensor, num_chunks: int) -> Tensor:
    """`[N, k]`, the chunks' places in `[B M]`."""
    first = torch.arange(chunk.shape[0], device=chunk.device) * num_chunks
    return (chunk + first[:, None, None]).flatten(0, 1)


def _blocks(contents: Tensor, real: Tensor, chunk: Tensor) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """(which queries, their rows `[n, k C, D]`, which are real `[n, 1, k, C]` or None if all); rows that are not are 0.

    The rows lie in one buffer, overwritten by the next block.
    """
    (_, num_chunks, num_rows, width), top_k = contents.shape, chunk.shape[-1]
    memory, valid = contents.flatten(0, 1).flatten(1), real.flatten(0, 1)
    index = _flat_index(chunk, num_chunks)
    everything = bool(valid.all()) if valid.device.type == "cpu" else False
    query_bytes = top_k * num_rows * width * contents.element_size()
    size = max(1, BLOCK_BYTES.get(contents.device.type, LARGEST_BLOCK_BYTES) // query_bytes)
    buffer = memory.new_empty(min(size, len(index)) * top_k, num_rows * width)
    for first in range(0, len(index), size):
        part = slice(first, first + size)
        named = index[part].flatten()
        rows = torch.index_select(memory, 0, named, out=buffer[: len(named)])
        rows = rows.view(-1, top_k * num_rows, width)
        kept = None if everything else valid.index_select(0, named).view(-1, 1, top_k, num_rows)
        if kept is not None:
            rows.masked_fill_(~kept.view(-1, top_k * num_rows, 1), 0)
        yield part, rows, kept
