"""Resetting an embedding in Triton: noise, its low-precision copy and zeroed moments in one write-only pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from ._philox import RESET, normal_tile

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_TENSORS = 4
"""weight, one copy, two moments: AdamW in mixed precision."""


def unsupported(tensors: Sequence[Tensor]) -> str:
    """Why the kernel cannot write these tensors; empty if it can."""
    if tensors[0].device.type != "cuda" and not INTERPRETED:
        return (
            f"weight is on {tensors[0].device}: the kernel needs CUDA tensors (on a CPU it runs only in Triton's "
            "interpreter, switched on by TRITON_INTERPRET=1 before the first import, for tests)"
        )
    for tensor in tensors:
        if tensor.dtype not in DTYPES:
            return f"the kernel writes float32, bfloat16 and float16, not {tensor.dtype}"
        if tensor.stride(1) != 1:
            return f"the kernel writes rows of adjacent columns; got strides {tensor.stride()}"
    if len(tensors) > MAX_TENSORS:
        return f"the kernel writes at most {MAX_TENSORS} tensors at once; got {len(tensors)}"
    return ""


def reset(
    targets: Sequence[Tensor],
    num_noisy: int,
    keep: Tensor | None,
    std: float,
    seed: int,
    step: int,
    first_row: int,
    first_column: int,
) -> None:
    """Noise into the first `num_noisy` of `targets` `[V, D]`, zero into the others, except in rows marked in `keep`."""
    num_rows, num_columns = targets[0].shape
    if not num_rows or not num_columns:
        return
    padded = [*targets, *[targets[0]] * (MAX_TENSORS - len(targets))]
    quads = min(64, triton.next_power_of_2(triton.cdiv(num_columns, 4)))
    rows = max(1, 256 // quads)
    _reset[(triton.cdiv(num_rows, rows), triton.cdiv(num_columns, 4 * quads))](
        *padded,
        keep if keep is not None else targets[0],
        *(tensor.stride(0) for tensor in padded),
        num_rows,
        num_columns,
        first_row,
        first_column // 4,
        step & 0xFFFFFFFF,
        step >> 32,
        seed if seed < 1 << 63 else seed - (1 << 64),
        std,
        NUM_TENSORS=len(targets),
        NUM_NOISY=num_noisy,
        HAS_KEEP=keep is not None,
        ROWS=rows,
        QUADS=quads,
        enable_fp_fusion=False,
    )


@triton.jit(do_not_specialize=["first_row", "first_quad", "step_low", "step_high", "seed"])
def _reset(
    t0, t1, t2, t3, keep, stride0, stride1, stride2, stride3, num_rows, num_columns, first_row, first_quad, step_low,
    step_high, seed, std,
    NUM_TENSORS: tl.constexpr, NUM_NOISY: tl.constexpr, HAS_KEEP: tl.constexpr, ROWS: tl.constexpr, QUADS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    quad = tl.program_id(1) * QUADS
    noise = normal_tile(row.to(tl.int64) + first_row, first_quad + quad, step_low, step_high, seed, QUADS, RESET) * std
    column = 4 * quad + tl.arange(0, 4 * QUADS)
    write = row < num_rows
    if HAS_KEEP:
        write = write & (tl.load(keep + row, mask=write, other=1) == 0)
    mask = write[:, None] & (column < num_columns)[None, :]
    place, column = row[:, None].to(tl.int64), column[None, :]
    zero = tl.zeros_like(noise)
    tl.store(t0 + place * stride0 + column, noise, mask=mask)
    if NUM_TENSORS > 1:
        tl.store(t1 + place * stride1 + column, noise if NUM_NOISY > 1 else zero, mask=mask)
    if NUM_TENSORS > 2:
        tl.store(t2 + place * stride2 + column, noise if NUM_NOISY > 2 else zero, mask=mask)
    if NUM_TENSORS > 3:
        tl.store(t3 + place * stride3 + column, noise if NUM_NOISY > 3 else zero, mask=mask)


INTERPRETED = isinstance(_reset, InterpretedFunction)
