"""Gathering from and adding to key-value caches in Triton: what `memarch.ops.cache_rewrite` runs on a GPU.

One program per entry (layer, row, selected slot), all heads of it: one launch reads all layers, one writes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from ._layer_pointers import ALIGNMENT, ELEMENTS, refused, table


@triton.jit
def _rotation(Cos, Sin, b, slot, T, rotation_b, D: tl.constexpr, BH: tl.constexpr):
    """cos and sin of a slot, its first half: they repeat. float32 [1, BH]; 1 and 0 outside."""
    half: tl.constexpr = D // 2
    d = tl.arange(0, BH)[None, :]
    at = b.to(tl.int64) * rotation_b + slot * D + d
    cos = tl.load(Cos + at, mask=d < half, other=1.0).to(tl.float32)
    return cos, tl.load(Sin + at, mask=d < half, other=0.0).to(tl.float32)


@triton.jit
def gather_entries(
    Keys, Values, Index, Cos, Sin, Out, B, S, T, stride_b, stride_t, stride_g, value_b, value_t, value_g, rotation_b,
    G: tl.constexpr, D: tl.constexpr, BG: tl.constexpr, BH: tl.constexpr, KIND: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Out [L, B, S, 2 G D]: unrotated keys, then values; zeros where the index is negative."""
    entry = tl.program_id(0).to(tl.int64)
    b, layer = entry // S % B, entry // S // B
    slot = tl.load(Index + entry)
    half: tl.constexpr = D // 2
    g, d = tl.arange(0, BG)[:, None], tl.arange(0, BH)[None, :]
    inside = (g < G) & (d < half)
    here = inside & (slot >= 0)
    k = tl.multiple_of(tl.load(Keys + layer).to(tl.pointer_type(KIND)), ALIGN)
    v = tl.multiple_of(tl.load(Values + layer).to(tl.pointer_type(KIND)), ALIGN)
    k += b * stride_b + slot * stride_t + g * stride_g + d
    v += b * value_b + slot * value_t + g * value_g + d
    first = tl.load(k, mask=here, other=0.0).to(tl.float32)
    second = tl.load(k + half, mask=here, other=0.0).to(tl.float32)
    cos, sin = _rotation(Cos, Sin, b, tl.maximum(slot, 0), T, rotation_b, D, BH)
    norm = cos * cos + sin * sin
    out = Out + entry * (2 * G * D) + g * D + d
    tl.store(out, ((first * cos + second * sin) / norm).to(KIND), mask=inside)
    tl.store(out + half, ((second * cos - first * sin) / norm).to(KIND), mask=inside)
    tl.store(out + G * D, tl.load(v, mask=here, other=0.0), mask=inside)
    tl.store(out + G * D + half, tl.load(v + half, mask=here, other=0.0), mask=inside)


@triton.jit
def add_entries(
    Keys, Values, Index, Cos, Sin, Change, Gate, B, S, T, stride_b, stride_t, stride_g, value_b, value_t, value_g,
    rotation_b, G: tl.constexpr, D: tl.constexpr, BG: tl.constexpr, BH: tl.constexpr, KIND: tl.constexpr,
    ALIGN: tl.constexpr, WITH_KEYS: tl.constexpr,
):  # fmt: skip
    """Keys += R (gate dk), values += gate dv, where the index is not negative."""
    entry = tl.program_id(0).to(tl.int64)
    b, layer = entry // S % B, entry // S // B
    slot = tl.load(Index + entry)
    half: tl.constexpr = D // 2
    g, d = tl.arange(0, BG)[:, None], tl.arange(0, BH)[None, :]
    here = (g < G) & (d < half) & (slot >= 0)
    gate = tl.load(Gate + layer).to(tl.float32)
    parts: tl.constexpr = 2 if WITH_KEYS else 1
    change = Change + entry * (parts * G * D) + g * D + d
    if WITH_KEYS:
        k = tl.multiple_of(tl.load(Keys + layer).to(tl.pointer_type(KIND)), ALIGN)
        k += b * stride_b + slot * stride_t + g * stride_g + d
        first = tl.load(change, mask=here, other=0.0).to(tl.float32) * gate
        second = tl.load(change + half, mask=here, other=0.0).to(tl.float32) * gate
        cos, sin = _rotation(Cos, Sin, b, tl.maximum(slot, 0), T, rotation_b, D, BH)
        old = tl.load(k, mask=here, other=0.0).to(tl.float32)
        tl.store(k, (old + (first * cos - second * sin)).to(KIND), mask=here)
        old = tl.load(k + half, mask=here, other=0.0).to(tl.float32)
        tl.store(k + half, (old + (second * cos + first * sin)).to(KIND), mask=here)
        change += G * D
    v = tl.multiple_of(tl.load(Values + layer).to(tl.pointer_type(KIND)), ALIGN)
    v += b * value_b + slot * value_t + g * value_g + d
    for part in tl.static_range(2):
        dv = tl.load(change + part * half, mask=here, other=0.0).to(tl.float32) * gate
        old = tl.load(v + part * half, mask=here, other=0.0).to(tl.float32)
        tl.store(v + part * half, (old + dv).to(KIND), mask=here)


INTERPRETED = isinstance(add_entries, InterpretedFunction)
"""Whether these kernels run in Triton's interpreter, on CPU tensors (TRITON_INTERPRET=1 before triton's import)."""


def unsupported(keys: Sequence[Tensor], values: Sequence[Tensor]) -> str:
    """Why these kernels cannot take such caches; empty if they can."""
    return refused(keys, INTERPRETED) or refused(values, INTERPRETED)


def gather(keys: Sequence[Tensor], values: Sequence[Tensor], index: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`[L, B, S, 2 G D]`, see `memarch.ops.cache_gather`."""
    out = keys[0].new_empty(*index.shape, 2 * keys[0].shape[2] * keys[0].shape[3])
    if index.numel():
        tensors, sizes, options = _arguments(keys, values, index, cos, sin)
        gather_entries[(index.numel(),)](*tensors, out, *sizes, **options)
    return out


def add(
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    index: Tensor,
    change: Tensor,
    gate: Tensor,
    cos: Tensor,
    sin: Tensor,
) -> None:
    """Add to the caches in place, see `memarch.ops.cache_add`."""
    if not index.numel():
        return
    tensors, sizes, options = _arguments(keys, values, index, cos, sin)
    with_keys = change.shape[-1] == 2 * keys[0].shape[2] * keys[0].shape[3]
    add_entries[(index.numel(),)](
        *tensors, change.contiguous(), gate.contiguous(), *sizes, WITH_KEYS=with_keys, **options
    )


def _arguments(
    keys: Sequence[Tensor], values: Sequence[Tensor], index: Tensor, cos: Tensor, sin: Tensor
) -> tuple[tuple[Tensor, ...], tuple[int, ...], dict[str, object]]:
    _, batch, count = index.shape
    _, length, num_heads, width = keys[0].shape
    strides = (*keys[0].stride()[:3], *values[0].stride()[:3])
    rotation_b = length * width if cos.shape[0] > 1 else 0
    options: dict[str, object] = {
        "G": num_heads, "D": width, "BG": triton.next_power_of_2(num_heads),
        "BH": triton.next_power_of_2(width // 2), "KIND": ELEMENTS[keys[0].dtype], "ALIGN": ALIGNMENT, "num_warps": 2,
    }  # fmt: skip
    tensors = (table(keys), table(values), index.contiguous(), cos.contiguous(), sin.contiguous())
    return tensors, (batch, count, length, *strides, rotation_b), options
