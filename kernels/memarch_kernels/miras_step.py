"""One token of Miras memory per sequence in one launch: what `memarch.ops.miras_step` runs on a GPU."""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from ._miras_launch import MAX_HEAD_DIM, OPERANDS, Rule
from ._miras_step_kernels import matrix_step, mlp_step

INTERPRETED = isinstance(mlp_step, InterpretedFunction)
"""Whether these kernels run in Triton's interpreter, on CPU tensors (TRITON_INTERPRET=1 before triton's import)."""

MLP_TILE = 4096
"""Entries of a tile over the hidden width: with 8 warps 128 registers, so that two programs share a multiprocessor."""


def unsupported(q: Tensor, memory: Tensor) -> str:
    """Why these kernels cannot take tokens like q and a memory of this dtype; empty if they can."""
    if q.device.type != "cuda" and not INTERPRETED:
        return (
            f"q is on {q.device}: the kernels need CUDA tensors (on a CPU they run only in Triton's interpreter, "
            "switched on by TRITON_INTERPRET=1 before the first import, for tests)"
        )
    if q.dtype not in OPERANDS:
        return f"the kernels take float32, bfloat16 and float16, not {q.dtype}"
    if memory.dtype != torch.float32:
        return f"the kernels take a float32 state, not {memory.dtype}"
    if q.shape[-1] > MAX_HEAD_DIM:
        return f"the kernels hold head widths up to {MAX_HEAD_DIM}; got {q.shape[-1]}"
    return ""


def step_in_place(
    rule: Rule,
    chunk_size: int,
    position: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    step_size: Tensor,
    threshold: Tensor | None,
    anchor: tuple[Tensor, ...],
    running: tuple[Tensor, ...],
) -> Tensor:
    """O `[B, 1, H, D]`; overwrites position `[B]` (int64, on the device), anchor and running `[B, H, ...]`.

    The states must be float32, contiguous, and separate memory. A CUDA graph can capture the call.
    """
    tokens = (q, k, v, log_decay, step_size, threshold)
    return _launch(rule, chunk_size, position, tokens, anchor, running, running, in_place=True)


def step(
    rule: Rule,
    chunk_size: int,
    position: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    step_size: Tensor,
    threshold: Tensor | None,
    anchor: tuple[Tensor, ...],
    running: tuple[Tensor, ...],
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """(O `[B, 1, H, D]`, new running, new anchor), nothing overwritten; position `[B]` is on the CPU.

    The new anchor is the old one's memory where no sequence ends its chunk, the new running memory where all do.
    """
    anchor, running = (tuple(x.float().contiguous() for x in xs) for xs in (anchor, running))
    end = tuple(torch.empty_like(x) for x in running)
    tokens = (q, k, v, log_decay, step_size, threshold)
    o = _launch(rule, chunk_size, position.to(q.device), tokens, anchor, running, end, in_place=False)
    ends = position == chunk_size - 1
    if bool(ends.all()):
        return o, end, end
    if bool((position == 0).all()):
        anchor = running
    if not bool(ends.any()):
        return o, end, anchor
    rows = ends.to(q.device).view(-1, 1, 1, 1)
    return o, end, tuple(torch.where(rows, e, a) for e, a in zip(end, anchor, strict=True))


def _launch(
    rule: Rule,
    chunk_size: int,
    position: Tensor,
    tokens: tuple[Tensor | None, ...],
    anchor: tuple[Tensor, ...],
    running: tuple[Tensor, ...],
    end: tuple[Tensor, ...],
    *,
    in_place: bool,
) -> Tensor:
    q, k, v, log_decay, step_size, threshold = (None if x is None else x.contiguous() for x in tokens)
    assert q is not None and log_decay is not None and step_size is not None
    batch, _, heads, head_dim = q.shape
    o = torch.empty_like(q)
    block = max(16, triton.next_power_of_2(head_dim))
    options = {
        **rule.options, "C": chunk_size, "D": head_dim, "BD": block, "IN_PLACE": in_place,
        "DECAY_CHANNEL": log_decay.dim() == 4, "STEP_CHANNEL": step_size.dim() == 4,
        "DELTA": rule.needs_threshold, "DELTA_CHANNEL": threshold is not None and threshold.dim() == 4,
    }  # fmt: skip
    # A missing threshold is any pointer.
    tensors = (q, k, v, log_decay, step_size, q if threshold is None else threshold, position, *anchor, *running)
    if rule.memory == "matrix":
        rows = value_slice(rule, block)
        matrix_step[batch * heads, triton.cdiv(head_dim, rows)](
            *tensors, o, *end, heads, BV=rows, num_warps=8 if rows * block > 4096 else 4, **options
        )  # fmt: skip
    else:
        hidden = running[0].shape[-1]
        tile = min(max(16, triton.next_power_of_2(hidden)), MLP_TILE // block)
        mlp_step[(batch * heads,)](*tensors, o, *end, heads, N=hidden, BN=tile, num_warps=8, **options)
    return o


def value_slice(rule: Rule, block: int) -> int:
    """Values a program of the matrix memory holds: all where the loss or the link couples them, else few."""
    rows_couple = rule.bias == "huber" and rule.huber in ("mixture", "norm")
    whole = rows_couple or rule.link in ("lq", "pnorm_dual", "softmax")
    return block if whole else min(32, block)
