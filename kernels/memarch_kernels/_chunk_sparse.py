"""Sparse chunk attention: one query's heads over the chunks it selected, the memory itself as key and value.

A head's query came through W_K^T, so that all heads read the same rows: heads are the rows of the tile, and a selected
row of memory is loaded once, straight from where it lies. m rows, p their positions, w the router's weight, q a head's:
  P = softmax(scale q (m + p)');  O = sum over chunks of w P (m + p)
The positions are the same in every chunk: their part of the scores is computed once, that of the sum at the end. The
loops have no branch, so that loads run ahead: what has no weight is masked, not skipped.
"""

import triton
import triton.language as tl

from ._chunk_dense import chunk_softmax, load_real, load_tile, store_tile
from ._miras_math import mm


@triton.jit
def selected(real, chunk, weight, n, j, b, K, M, C: tl.constexpr, BC: tl.constexpr):
    """Chunk j of query n: (its first row, which rows may be read `[BC]`, which count in the softmax `[1, BC]`, weight).

    A chunk without weight is not read; its scores are those of zeros, finite, and count for nothing.
    """
    w = tl.load(weight + n * K + j)
    start = (b * M + tl.load(chunk + n * K + j)) * C
    weighs = (tl.zeros([BC], dtype=tl.float32) + w) != 0.0
    present = load_real(real, start, C, BC) & weighs
    return start, present, (present | (weighs == 0))[None, :], w


@triton.jit
def query_heads(T, H, BH: tl.constexpr):
    """This program's (query in `[B T]`, batch, heads, which of them exist)."""
    n = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * BH + tl.arange(0, BH)
    return n, n // T, heads, heads < H


@triton.jit
def products(
    x, heads, inside, rows, present, D: tl.constexpr, BS: tl.constexpr, BH: tl.constexpr, BC: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`[BH, BC]`: heads of x `[H, D]` times rows `[C, D]`, slice by slice of D."""
    y = tl.zeros([BH, BC], dtype=tl.float32)
    for first in range(0, D, BS):
        columns = first + tl.arange(0, BS)
        x_ = load_tile(x, heads, inside, columns, D, D)
        y += mm(x_, tl.trans(load_tile(rows, tl.arange(0, BC), present, columns, D, D)), DOT, PRECISION)
    return y


@triton.jit
def mix(
    y, shares, total, rows, position, real, chunk, weight, n, b, heads, inside, K, M, H,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BS: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write y `[H, D]`, selected rows summed with `shares` and positions with `total`, slice by slice of D."""
    places = tl.arange(0, BC)
    for first in range(0, D, BS):
        columns = first + tl.arange(0, BS)
        acc = mm(total, load_tile(position, places, places < C, columns, D, D), DOT, PRECISION)
        for j in range(K):
            start, present, _, w = selected(real, chunk, weight, n, j, b, K, M, C, BC)
            share = load_tile(shares + (n * K + j) * H * C, heads, inside, places, C, C)
            acc += mm(share, load_tile(rows + start * D, places, present, columns, D, D), DOT, PRECISION)
        store_tile(y, acc, heads, inside, columns, D, D)


@triton.jit
def sparse_forward(
    q, rows, real, position, chunk, weight, o, shares, T, K, M, H, scale,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr, BH: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (query, tile of heads). chunk, weight: `[B, T, K]`, what the router selected.

    BS < BD: rows too wide to be held whole pass in slices of BS columns, twice: for the scores, and for the sum with
    w P, kept in `shares` `[B, T, K, H, C]` in between.
    """
    n, b, heads, inside = query_heads(T, H, BH)
    columns, places = tl.arange(0, BD), tl.arange(0, BC)
    total = tl.zeros([BH, BC], dtype=tl.float32)
    q += n * H * D
    o += n * H * D
    if BS < BD:
        base = products(q, heads, inside, position, places < C, D, BS, BH, BC, DOT, PRECISION)
        for j in range(K):
            start, present, valid, w = selected(real, chunk, weight, n, j, b, K, M, C, BC)
            scores = base + products(q, heads, inside, rows + start * D, present, D, BS, BH, BC, DOT, PRECISION)
            share = w * chunk_softmax(scores * scale, valid)
            total += share
            store_tile(shares + (n * K + j) * H * C, share, heads, inside, places, C, C)
        tl.debug_barrier()
        mix(
            o, shares, total, rows, position, real, chunk, weight, n, b, heads, inside, K, M, H,
            C, BC, D, BS, DOT, PRECISION,
        )  # fmt: skip
    else:
        q_ = load_tile(q, heads, inside, columns, D, D)
        p_ = load_tile(position, places, places < C, columns, D, D)
        base = mm(q_, tl.trans(p_), DOT, PRECISION)
        acc = tl.zeros([BH, BD], dtype=tl.float32)
        for j in range(K):
            start, present, valid, w = selected(real, chunk, weight, n, j, b, K, M, C, BC)
            m = load_tile(rows + start * D, places, present, columns, D, D)
            share = w * chunk_softmax((base + mm(q_, tl.trans(m), DOT, PRECISION)) * scale, valid)
            total += share
            acc += mm(share, m, DOT, PRECISION)
        acc += mm(total, p_, DOT, PRECISION)
        store_tile(o, acc, heads, inside, columns, D, D)


@triton.jit
def scores_vjp(p, g, w, scale, dw, place):
    """dS of one chunk; its weight's gradient, summed over the heads of the tile, is stored at `place` of dw."""
    along = tl.sum(p * g, 1)
    tl.store(dw + place * tl.num_programs(1) + tl.program_id(1), tl.sum(along, 0))
    return p * (g - along[:, None]) * (w * scale)


@triton.jit
def sparse_backward(
    q, rows, real, position, chunk, weight, d_o, dq, dw, shares, dscores, T, K, M, H, scale,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr, BH: tl.constexpr,
    SAVE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (query, tile of heads): dq, and dw `[B, T, K, tiles of heads]`. BS as in `sparse_forward`.

    SAVE: also w P and dS, `[B, T, K, H, C]`, from which `sparse_backward_memory` makes the memory's gradient.
    """
    n, b, heads, inside = query_heads(T, H, BH)
    columns, places = tl.arange(0, BD), tl.arange(0, BC)
    total = tl.zeros([BH, BC], dtype=tl.float32)
    q += n * H * D
    d_o += n * H * D
    dq += n * H * D
    if BS < BD:
        base = products(q, heads, inside, position, places < C, D, BS, BH, BC, DOT, PRECISION)
        base_g = products(d_o, heads, inside, position, places < C, D, BS, BH, BC, DOT, PRECISION)
        for j in range(K):
            start, present, valid, w = selected(real, chunk, weight, n, j, b, K, M, C, BC)
            m = rows + start * D
            scores = base + products(q, heads, inside, m, present, D, BS, BH, BC, DOT, PRECISION)
            g = base_g + products(d_o, heads, inside, m, present, D, BS, BH, BC, DOT, PRECISION)
            p = chunk_softmax(scores * scale, valid)
            ds = scores_vjp(p, g, w, scale, dw, n * K + j)
            total += ds
            store_tile(dscores + (n * K + j) * H * C, ds, heads, inside, places, C, C)
            if SAVE:
                store_tile(shares + (n * K + j) * H * C, w * p, heads, inside, places, C, C)
        tl.debug_barrier()
        mix(
            dq, dscores, total, rows, position, real, chunk, weight, n, b, heads, inside, K, M, H,
            C, BC, D, BS, DOT, PRECISION,
        )  # fmt: skip
    else:
        q_ = load_tile(q, heads, inside, columns, D, D)
        do_ = load_tile(d_o, heads, inside, columns, D, D)
        p_ = load_tile(position, places, places < C, columns, D, D)
        base = mm(q_, tl.trans(p_), DOT, PRECISION)
        base_g = mm(do_, tl.trans(p_), DOT, PRECISION)
        acc = tl.zeros([BH, BD], dtype=tl.float32)
        for j in range(K):
            start, present, valid, w = selected(real, chunk, weight, n, j, b, K, M, C, BC)
            m = load_tile(rows + start * D, places, present, columns, D, D)
            p = chunk_softmax((base + mm(q_, tl.trans(m), DOT, PRECISION)) * scale, valid)
            ds = scores_vjp(p, base_g + mm(do_, tl.trans(m), DOT, PRECISION), w, scale, dw, n * K + j)
            total += ds
            acc += mm(ds, m, DOT, PRECISION)
            if SAVE:
                store_tile(dscores + (n * K + j) * H * C, ds, heads, inside, places, C, C)
                store_tile(shares + (n * K + j) * H * C, w * p, heads, inside, places, C, C)
        acc += mm(total, p_, DOT, PRECISION)
        store_tile(dq, acc, heads, inside, columns, D, D)


@triton.jit
def sparse_backward_memory(
    q, d_o, shares, dscores, order, bounds, d_rows, K, H,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BS: tl.constexpr, BH: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (chunk, slice of columns): the gradient of the chunk's rows, from the queries that selected it in order.

    order: places in `[B T K]` sorted by the chunk they name; bounds: `[B M + 1]`, where each chunk's begin.
    """
    program = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BS + tl.arange(0, BS)
    places = tl.arange(0, BC)
    acc = tl.zeros([BC, BS], dtype=tl.float32)
    for e in range(tl.load(bounds + program), tl.load(bounds + program + 1)):
        place = tl.load(order + e)
        token = (place // K) * H * D
        for first in range(0, H, BH):
            heads = first + tl.arange(0, BH)
            inside = heads < H
            share = load_tile(shares + place * H * C, heads, inside, places, C, C)
            ds = load_tile(dscores + place * H * C, heads, inside, places, C, C)
            acc += mm(tl.trans(share), load_tile(d_o + token, heads, inside, columns, D, D), DOT, PRECISION)
            acc += mm(tl.trans(ds), load_tile(q + token, heads, inside, columns, D, D), DOT, PRECISION)
    store_tile(d_rows + program * C * D, acc, places, places < C, columns, D, D)
