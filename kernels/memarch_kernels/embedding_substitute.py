"""Embedding lookup with substituted rows in Triton: reads the rows it needs, computes those that stand in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from ._philox import SUBSTITUTE, choice_word, normal_tile

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def unsupported(tensors: Sequence[Tensor]) -> str:
    """Why the kernel cannot look up in these weights; empty if it can."""
    (weight,) = tensors
    if weight.device.type != "cuda" and not INTERPRETED:
        return (
            f"weight is on {weight.device}: the kernel needs CUDA tensors (on a CPU it runs only in Triton's "
            "interpreter, switched on by TRITON_INTERPRET=1 before the first import, for tests)"
        )
    if weight.dtype not in DTYPES:
        return f"the kernel reads float32, bfloat16 and float16, not {weight.dtype}"
    return ""


def lookup(
    ids: Tensor, weight: Tensor, keep: Tensor | None, below: int, std: float, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Rows `[*ids.shape, D]`, and which positions got a row that stands in, bool like `ids`.

    below: a token is substituted if its word is smaller; 2^32 substitutes all.
    """
    weight, flat = weight.contiguous(), ids.contiguous()
    num_columns = weight.shape[1]
    out = torch.empty(*ids.shape, num_columns, dtype=weight.dtype, device=weight.device)
    taken = torch.empty(ids.shape, dtype=torch.bool, device=weight.device)
    if not flat.numel() or not num_columns:
        return out, taken.fill_(False)
    quads = min(64, triton.next_power_of_2(triton.cdiv(num_columns, 4)))
    _lookup[(flat.numel(), triton.cdiv(num_columns, 4 * quads))](
        flat,
        weight,
        keep if keep is not None else flat,
        out,
        taken,
        num_columns,
        below,
        step & 0xFFFFFFFF,
        step >> 32,
        seed if seed < 1 << 63 else seed - (1 << 64),
        std,
        HAS_KEEP=keep is not None,
        QUADS=quads,
        num_warps=1,
        enable_fp_fusion=False,
    )
    return out, taken


@triton.jit(do_not_specialize=["below", "step_low", "step_high", "seed"])
def _lookup(
    ids, weight, keep, out, taken, num_columns, below, step_low, step_high, seed, std,
    HAS_KEEP: tl.constexpr, QUADS: tl.constexpr,
):  # fmt: skip
    """One program per position and tile of columns: tokens that stay cost a copy, those substituted no read at all."""
    position = tl.program_id(0).to(tl.int64)
    quad = tl.program_id(1) * QUADS
    token = tl.load(ids + position)
    column = 4 * quad + tl.arange(0, 4 * QUADS)
    inside = column < num_columns
    word = choice_word(token + tl.zeros([1], tl.int64), step_low, step_high, seed)
    substitute = tl.sum((word.to(tl.int64) < below).to(tl.int32), 0) > 0
    if HAS_KEEP:
        substitute = substitute & (tl.load(keep + token) == 0)
    if quad == 0:
        tl.store(taken + position, substitute)
    to = out + position * num_columns + column
    if substitute:
        noise = normal_tile(token + tl.zeros([1], tl.int64), quad, step_low, step_high, seed, QUADS, SUBSTITUTE) * std
        tl.store(to, tl.reshape(noise, [4 * QUADS]), mask=inside)
    else:
        tl.store(to, tl.load(weight + token * num_columns + column, mask=inside), mask=inside)


INTERPRETED = isinstance(_lookup, InterpretedFunction)
