"""Chunk attention in Triton: what `memarch.ops.chunk_attention` runs on a GPU. See that function for the meaning.

Two forms of the middle of it, between the projections: `dense_chunks` goes through every chunk that a tile of queries
weighs, `sparse_chunks` through the chunks that one query selected. Every output is written by one program in a fixed
order: no atomics, so results are the same in every run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from ._chunk_dense import dense_backward_chunks, dense_backward_queries, dense_forward
from ._chunk_launch import (
    MAX_CHUNK_SIZE,
    MAX_HEAD_DIM,
    OPERANDS,
    Sizes,
    dense_launch,
    memory_launch,
    sparse_launch,
)
from ._chunk_sparse import sparse_backward, sparse_backward_memory, sparse_forward

INTERPRETED = isinstance(dense_forward, InterpretedFunction)
"""Whether these kernels run in Triton's interpreter, on CPU tensors (TRITON_INTERPRET=1 before triton's import)."""


def unsupported(x: Tensor, chunk_size: int, head_dim: int, form: str) -> str:
    """Why these kernels cannot take queries like x `[B, T, D]` in this form; empty if they can."""
    if x.device.type != "cuda" and not INTERPRETED:
        return (
            f"x is on {x.device}: the kernels need CUDA tensors (on a CPU they run only in Triton's interpreter, "
            "switched on by TRITON_INTERPRET=1 before the first import, for tests)"
        )
    if x.dtype not in OPERANDS:
        return f"the kernels take float32, bfloat16 and float16, not {x.dtype}"
    if chunk_size > MAX_CHUNK_SIZE:
        return f"the kernels hold chunks up to {MAX_CHUNK_SIZE} rows; got {chunk_size}"
    if form == "gather":
        return "there is no kernel for form='gather', only for 'dense' and 'absorbed'"
    if form == "dense" and head_dim > MAX_HEAD_DIM:
        return f"the dense kernels hold heads up to {MAX_HEAD_DIM} wide; got {head_dim}"
    return ""


def dense_chunks(q: Tensor, k: Tensor, v: Tensor, real: Tensor, spread: Tensor) -> Tensor:
    """Weighted attention inside every chunk: `[B, T, H, E]` in q's dtype.

    q: `[B, T, H, E]`, E the heads' width. k, v: `[B, M, C, H, E]`, finite also where not real. real: `[B, M, C]` bool.
    spread: `[B, T, M]` float32, a query's weight of each chunk; one without real rows must have none.
    """
    tensors = (q, k, v, real.to(torch.uint8), spread.mT)
    mixed: Tensor = DenseChunks.apply(*(x.contiguous() for x in tensors))
    return mixed


def sparse_chunks(q: Tensor, rows: Tensor, real: Tensor, position: Tensor, chunk: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of the rows of selected chunks: `[B, T, H, D]` in q's dtype.

    q: `[B, T, H, D]`, through W_K^T and scaled. rows: `[B, M, C, D]`, read only where real. real: `[B, M, C]` bool.
    position: `[C, D]`, added to the rows of every chunk. chunk, weight: `[B, T, K]`, int64 and float32; no weight where
    a chunk has no real rows.
    """
    tensors = (q, rows, real.to(torch.uint8), position, chunk, weight)
    mixed: Tensor = SparseChunks.apply(*(x.contiguous() for x in tensors))
    return mixed


def _refuse_second_derivatives() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "chunk_attention has first derivatives only on its kernels, but create_graph=True asked for its gradient's "
            "graph; use backend='torch', which autograd differentiates any number of times"
        )


class DenseChunks(torch.autograd.Function):
    """Arguments as `dense_chunks`, real as uint8 and spread as `[B, M, T]`, all contiguous."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, real: Tensor, spread: Tensor) -> Tensor:
        (batch, time, num_heads, _), num_chunks = q.shape, k.shape[1]
        o = torch.empty_like(q)
        sizes = _dense_sizes(q, k)
        launch = dense_launch(sizes, backward=False)
        dense_forward[triton.cdiv(time, launch["BT"]), batch * num_heads](
            q, k, v, real, spread, o, time, num_chunks, num_heads, q.shape[-1] ** -0.5, **sizes.options, **launch
        )
        ctx.save_for_backward(q, k, v, real, spread)
        return o

    @staticmethod
    def backward(ctx: Any, d_o: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        q, k, v, real, spread = ctx.saved_tensors
        (batch, time, num_heads, width), num_chunks = q.shape, k.shape[1]
        given = (q, k, v, real, spread, d_o.contiguous())
        counts = (time, num_chunks, num_heads, width**-0.5)
        sizes = _dense_sizes(q, k)
        launch = dense_launch(sizes, backward=True)
        dq = dk = dv = d_spread = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[4]:
            dq = torch.empty_like(q)
            share = spread.new_empty(batch, num_heads, num_chunks, time)
            dense_backward_queries[triton.cdiv(time, launch["BT"]), batch * num_heads](
                *given, dq, share, *counts, **sizes.options, **launch
            )
            d_spread = share.sum(1)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            dk, dv = torch.empty_like(k), torch.empty_like(v)
            dense_backward_chunks[num_chunks, batch * num_heads](*given, dk, dv, *counts, **sizes.options, **launch)
        return dq, dk, dv, None, d_spread


def _dense_sizes(q: Tensor, k: Tensor) -> Sizes:
    return Sizes(k.shape[2], q.shape[-1], q.shape[1], q.dtype)


class SparseChunks(torch.autograd.Function):
    """Arguments as `sparse_chunks`, real as uint8, all contiguous."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, rows: Tensor, real: Tensor, position: Tensor, chunk: Tensor, weight: Tensor
    ) -> Tensor:
        o = torch.empty_like(q)
        sizes, counts, grid = _sparse_call(q, rows, chunk)
        launch = sparse_launch(sizes, backward=False)
        shares = _shares(q, rows, chunk) if launch["BS"] < launch["BD"] else q
        sparse_forward[grid](q, rows, real, position, chunk, weight, o, shares, *counts, **sizes.options, **launch)
        ctx.save_for_backward(q, rows, real, position, chunk, weight)
        return o

    @staticmethod
    def backward(ctx: Any, d_o: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        q, rows, real, position, chunk, weight = ctx.saved_tensors
        sizes, counts, grid = _sparse_call(q, rows, chunk)
        d_o, dq = d_o.contiguous(), torch.empty_like(q)
        # One share of each tile of heads: added up here, in their order.
        d_weight = weight.new_empty(*weight.shape, grid[1])
        launch = sparse_launch(sizes, backward=True)
        save = ctx.needs_input_grad[1]
        shares = _shares(q, rows, chunk) if save else q
        dscores = _shares(q, rows, chunk) if save or launch["BS"] < launch["BD"] else q
        sparse_backward[grid](
            q, rows, real, position, chunk, weight, d_o, dq, d_weight, shares, dscores, *counts,
            SAVE=save, **sizes.options, **launch,
        )  # fmt: skip
        d_rows = _memory_gradient(q, d_o, shares, dscores, rows, chunk, weight, sizes) if save else None
        return dq, d_rows, None, None, None, d_weight.sum(-1)


def _sparse_call(q: Tensor, rows: Tensor, chunk: Tensor) -> tuple[Sizes, tuple[Any, ...], tuple[int, int]]:
    """Sizes, the kernels' counts and scale, and their grid."""
    batch, time, num_heads, width = q.shape
    sizes = Sizes(rows.shape[2], width, num_heads, q.dtype)
    counts = (time, chunk.shape[2], rows.shape[1], num_heads, 1.0)
    return sizes, counts, (batch * time, triton.cdiv(num_heads, sparse_launch(sizes, backward=False)["BH"]))


def _shares(q: Tensor, rows: Tensor, chunk: Tensor) -> Tensor:
    """Fresh memory for a number per query, selected chunk, head and row."""
    return q.new_empty(*chunk.shape, q.shape[2], rows.shape[2])


def _memory_gradient(
    q: Tensor,
    d_o: Tensor,
    shares: Tensor,
    dscores: Tensor,
    rows: Tensor,
    chunk: Tensor,
    weight: Tensor,
    sizes: Sizes,
) -> Tensor:
    """The gradient of rows `[B, M, C, D]`: selections sorted by chunk, so that each chunk gathers its own."""
    batch, num_chunks = rows.shape[:2]
    first = torch.arange(batch, device=chunk.device)[:, None, None] * num_chunks
    named = torch.where(weight != 0, chunk + first, batch * num_chunks).flatten()
    named, order = named.sort(stable=True)
    bounds = torch.searchsorted(named, torch.arange(batch * num_chunks + 1, device=chunk.device))
    d_rows = torch.empty_like(rows)
    launch = memory_launch(sizes)
    sparse_backward_memory[batch * num_chunks, triton.cdiv(sizes.width, launch["BS"])](
        q, d_o, shares, dscores, order, bounds, d_rows, chunk.shape[2], q.shape[2], **sizes.options, **launch
    )
    return d_rows
