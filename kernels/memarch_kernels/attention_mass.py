"""Attention mass in Triton: what `memarch.ops.attention_mass` runs on a GPU. See that function for the meaning.

Two passes over the keys, and no scores in memory: the first leaves, per tile of slots, the log of each query's sum of
exponentials; the second adds up the probabilities of each slot. A program owns a tile of keys of one layer, row and key
head, and walks the queries that share the head. Every number is written by one program in a fixed order: no atomics, so
that equal inputs select equal entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from ._layer_pointers import ALIGNMENT, ELEMENTS, refused, table

MAX_HEAD_DIM = 256


@triton.jit
def _keys(Table, layer, b, g, slots, T, stride_b, stride_t, stride_g, D: tl.constexpr, BD: tl.constexpr,
          KIND: tl.constexpr, ALIGN: tl.constexpr):  # fmt: skip
    """A tile of keys, transposed: [BD, BT]; zeros outside."""
    K = tl.multiple_of(tl.load(Table + layer).to(tl.pointer_type(KIND)), ALIGN)
    d = tl.arange(0, BD)
    at = b.to(tl.int64) * stride_b + g * stride_g + slots[None, :].to(tl.int64) * stride_t + d[:, None]
    return tl.load(K + at, mask=(d[:, None] < D) & (slots[None, :] < T), other=0.0)


@triton.jit
def _scores(Q, QuerySlots, Seen, k, layer, b, g, m, slots, B, R, T, scale, H: tl.constexpr, GROUP: tl.constexpr,
            D: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """Logits [BM, BT] of the group's queries m, with -inf where a query does not see a slot."""
    r, h = m // GROUP, g * GROUP + m % GROUP
    d = tl.arange(0, BD)
    row = ((layer * B + b) * R + r).to(tl.int64) * H + h
    q = tl.load(Q + row[:, None] * D + d[None, :], mask=(r[:, None] < R) & (d[None, :] < D), other=0.0)
    last = tl.load(QuerySlots + b * R + r, mask=r < R, other=-1)
    seen = (slots[None, :] <= last[:, None]) & (slots[None, :] < T)
    if MASKED:
        seen = seen & (tl.load(Seen + b * T + slots, mask=slots < T, other=0)[None, :] != 0)
    return tl.where(seen, tl.dot(q, k, input_precision=PRECISION) * scale, float("-inf"))


@triton.jit
def attention_sums(
    Table, Q, QuerySlots, Newest, Seen, Partial, B, R, T, G, stride_b, stride_t, stride_g, scale,
    H: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BT: tl.constexpr,
    KIND: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Partial [L, B, G, tiles, R * GROUP]: log of the sum of exponentials of each query over a tile of slots."""
    tile, which = tl.program_id(0), tl.program_id(1)
    g, b, layer = which % G, which // G % B, which // G // B
    slots = tile * BT + tl.arange(0, BT)
    out = Partial + (which.to(tl.int64) * tl.num_programs(0) + tile) * (R * GROUP)
    if tile * BT <= tl.load(Newest + b):
        k = _keys(Table, layer, b, g, slots, T, stride_b, stride_t, stride_g, D, BD, KIND, ALIGN)
        for start in range(0, R * GROUP, BM):
            m = start + tl.arange(0, BM)
            s = _scores(
                Q, QuerySlots, Seen, k, layer, b, g, m, slots, B, R, T, scale, H, GROUP, D, BD, PRECISION, MASKED
            )
            top = tl.max(s, 1)
            some = top > float("-inf")
            total = tl.sum(tl.exp(s - tl.where(some, top, 0.0)[:, None]), 1)
            log = tl.where(some, top + tl.log(tl.where(some, total, 1.0)), float("-inf"))
            tl.store(out + m, log, mask=m < R * GROUP)
    else:
        for start in range(0, R * GROUP, BM):
            m = start + tl.arange(0, BM)
            tl.store(out + m, tl.full((BM,), float("-inf"), tl.float32), mask=m < R * GROUP)


@triton.jit
def attention_masses(
    Table, Q, QuerySlots, Newest, Seen, Unwanted, Log, Mass, B, R, T, G, stride_b, stride_t, stride_g, scale,
    H: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BT: tl.constexpr,
    KIND: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr, EXCLUDES: tl.constexpr,
):  # fmt: skip
    """Mass [L, B, G, T]: sum of the probabilities that the group's queries give each slot; 0 for unwanted ones."""
    tile, which = tl.program_id(0), tl.program_id(1)
    g, b, layer = which % G, which // G % B, which // G // B
    slots = tile * BT + tl.arange(0, BT)
    mass = tl.zeros((BT,), tl.float32)
    wanted = slots <= tl.load(Newest + b)
    if EXCLUDES:
        wanted = wanted & (tl.load(Unwanted + b * T + slots, mask=slots < T, other=1) == 0)
    if tl.max(wanted.to(tl.int32), 0) > 0:
        k = _keys(Table, layer, b, g, slots, T, stride_b, stride_t, stride_g, D, BD, KIND, ALIGN)
        for start in range(0, R * GROUP, BM):
            m = start + tl.arange(0, BM)
            s = _scores(
                Q, QuerySlots, Seen, k, layer, b, g, m, slots, B, R, T, scale, H, GROUP, D, BD, PRECISION, MASKED
            )
            log = tl.load(Log + which.to(tl.int64) * R * GROUP + m, mask=m < R * GROUP, other=float("inf"))
            mass += tl.sum(tl.exp(s - log[:, None]), 0)
    tl.store(Mass + which.to(tl.int64) * T + slots, tl.where(wanted, mass, 0.0), mask=slots < T)


INTERPRETED = isinstance(attention_masses, InterpretedFunction)
"""Whether these kernels run in Triton's interpreter, on CPU tensors (TRITON_INTERPRET=1 before triton's import)."""


def unsupported(queries: Tensor, keys: Sequence[Tensor]) -> str:
    """Why these kernels cannot take such queries and keys; empty if they can."""
    if queries.shape[-1] > MAX_HEAD_DIM:
        return f"the kernels hold head widths up to {MAX_HEAD_DIM}; got {queries.shape[-1]}"
    return refused(keys, INTERPRETED)


def launch(dtype: torch.dtype) -> dict[str, int]:
    """Tiles of BM queries and BT slots, and warps: never chosen by the run.

    Of those tried, the ones without spills up to D = 128 that use fewest registers (72 a thread for half precision):
    the kernel waits for memory, and many programs hide that.
    """
    whole = dtype == torch.float32
    return {"BM": 16 if whole else 32, "BT": 64, "num_warps": 8 if whole else 4, "num_stages": 2}


def mass(
    queries: Tensor,
    keys: Sequence[Tensor],
    scale: float,
    query_slots: Tensor,
    valid: Tensor | None,
    exclude: Tensor | None,
) -> Tensor:
    """`[L, B, T]` float32: sum over queries and heads of the probability of each slot."""
    num_layers, batch, num_queries, num_heads, width = queries.shape
    length, num_key_heads = keys[0].shape[1:3]
    group = num_heads // num_key_heads
    rows = num_queries * group
    queries, query_slots = queries.contiguous(), query_slots.contiguous()
    stride_b, stride_t, stride_g, _ = keys[0].stride()
    options = launch(queries.dtype)
    tiles = triton.cdiv(length, options["BT"])
    grid = (tiles, num_layers * batch * num_key_heads)
    partial = queries.new_empty(num_layers, batch, num_key_heads, tiles, rows, dtype=torch.float32)
    found = queries.new_empty(num_layers, batch, num_key_heads, length, dtype=torch.float32)
    newest = query_slots.amax(1)
    # A missing mask is any pointer.
    seen = query_slots if valid is None else valid.to(torch.uint8)
    unwanted = query_slots if exclude is None else exclude.to(torch.uint8)
    sizes = (batch, num_queries, length, num_key_heads, stride_b, stride_t, stride_g, scale)
    same = {
        "H": num_heads, "GROUP": group, "D": width, "BD": max(16, triton.next_power_of_2(width)),
        "KIND": ELEMENTS[queries.dtype], "ALIGN": ALIGNMENT, "MASKED": valid is not None,
        "PRECISION": "ieee" if queries.dtype == torch.float32 else "tf32", **options,
    }  # fmt: skip
    where = table(keys)
    attention_sums[grid](where, queries, query_slots, newest, seen, partial, *sizes, **same)
    log = partial.logsumexp(3)
    # A query that sees nothing gives nothing: exp(-inf - inf) is 0.
    log = log.masked_fill(log == -torch.inf, torch.inf)
    attention_masses[grid](
        where, queries, query_slots, newest, seen, unwanted, log, found, *sizes, EXCLUDES=exclude is not None, **same
    )
    return found.sum(2)
