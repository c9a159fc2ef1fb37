"""Dense chunk attention: every query over every chunk that its tile reads, the softmax inside each chunk.

Flash attention without the running maximum: a chunk's rows fit one tile, so that its softmax is done at once. w is the
router's weight of a chunk, P the softmax of its scores S = scale q K':
  O = sum over chunks of w P V;  G = dO V';  dw = sum of P G;  dS = w P (G - dw);  dQ = scale dS K
A chunk that no query of the tile weighs is skipped. The backward has one pass by queries and one by chunks, and nothing
is added by two programs.
"""

import triton
import triton.language as tl

from ._miras_math import mm


@triton.jit
def chunk_softmax(scores, valid):
    """Softmax of each row over the valid columns of a tile; at least one must be valid."""
    scores = tl.where(valid, scores, float("-inf"))
    e = tl.exp(scores - tl.max(scores, 1, keep_dims=True))
    return e / tl.sum(e, 1, keep_dims=True)


@triton.jit
def load_tile(x, rows, inside, columns, stride, D: tl.constexpr):
    """`[rows, columns]` of x, a row every `stride` numbers; zero outside."""
    mask = inside[:, None] & (columns < D)[None, :]
    return tl.load(x + rows[:, None] * stride + columns[None, :], mask=mask, other=0.0)


@triton.jit
def store_tile(x, value, rows, inside, columns, stride, D: tl.constexpr):
    mask = inside[:, None] & (columns < D)[None, :]
    tl.store(x + rows[:, None] * stride + columns[None, :], value, mask=mask)


@triton.jit
def any_weight(w):
    """Whether a tile's queries weigh the chunk at all. A weight that is not a number does."""
    return tl.max((w != 0.0).to(tl.int32), 0) > 0


@triton.jit
def query_tile(T, H, D: tl.constexpr, BT: tl.constexpr):
    """This program's (batch, head's offset in a row, queries, which of them exist, sequence and head in one number)."""
    program = tl.program_id(1).to(tl.int64)
    b, h = program // H, program % H
    queries = tl.program_id(0) * BT + tl.arange(0, BT)
    return b, h * D, queries, queries < T, program


@triton.jit
def load_rows(x, b, i, offset, M, H, columns, C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr):
    """One head's rows `[BC, BD]` of chunk i of x `[B, M, C, H, D]`."""
    rows = tl.arange(0, BC)
    return load_tile(x + (b * M + i) * C * H * D + offset, rows, rows < C, columns, H * D, D)


@triton.jit
def load_real(real, chunk, C: tl.constexpr, BC: tl.constexpr):
    """`[BC]`, which rows are real of the chunk that starts at row `chunk` of real `[B M C]`."""
    rows = tl.arange(0, BC)
    return tl.load(real + chunk + rows, mask=rows < C, other=0) != 0


@triton.jit
def dense_forward(
    q, k, v, real, spread, o, T, M, H, scale,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (tile of queries, sequence and head). spread: `[B, M, T]`, the router's weights, 0 where not selected."""
    b, offset, queries, inside, program = query_tile(T, H, D, BT)
    columns = tl.arange(0, BD)
    start = b * T * H * D + offset
    q_ = load_tile(q + start, queries, inside, columns, H * D, D)
    acc = tl.zeros([BT, BD], dtype=tl.float32)
    for i in range(M):
        w = tl.load(spread + (b * M + i) * T + queries, mask=inside, other=0.0)
        if any_weight(w):
            k_ = load_rows(k, b, i, offset, M, H, columns, C, BC, D)
            valid = load_real(real, (b * M + i) * C, C, BC)[None, :]
            v_ = load_rows(v, b, i, offset, M, H, columns, C, BC, D)
            p = chunk_softmax(mm(q_, tl.trans(k_), DOT, PRECISION) * scale, valid)
            acc += mm(p * w[:, None], v_, DOT, PRECISION)
    store_tile(o + start, acc, queries, inside, columns, H * D, D)


@triton.jit
def dense_backward_queries(
    q, k, v, real, spread, d_o, dq, dw, T, M, H, scale,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (tile of queries, sequence and head): dQ, and dw `[B, H, M, T]` of this head."""
    b, offset, queries, inside, program = query_tile(T, H, D, BT)
    columns = tl.arange(0, BD)
    start = b * T * H * D + offset
    q_ = load_tile(q + start, queries, inside, columns, H * D, D)
    do_ = load_tile(d_o + start, queries, inside, columns, H * D, D)
    acc = tl.zeros([BT, BD], dtype=tl.float32)
    for i in range(M):
        w = tl.load(spread + (b * M + i) * T + queries, mask=inside, other=0.0)
        share = tl.zeros([BT], dtype=tl.float32)
        if any_weight(w):
            k_ = load_rows(k, b, i, offset, M, H, columns, C, BC, D)
            valid = load_real(real, (b * M + i) * C, C, BC)[None, :]
            v_ = load_rows(v, b, i, offset, M, H, columns, C, BC, D)
            p = chunk_softmax(mm(q_, tl.trans(k_), DOT, PRECISION) * scale, valid)
            g = mm(do_, tl.trans(v_), DOT, PRECISION)
            share = tl.sum(p * g, 1)
            acc += mm(p * (g - share[:, None]) * (w * scale)[:, None], k_, DOT, PRECISION)
        tl.store(dw + (program * M + i) * T + queries, share, mask=inside)
    store_tile(dq + start, acc, queries, inside, columns, H * D, D)


@triton.jit
def dense_backward_chunks(
    q, k, v, real, spread, d_o, dk, dv, T, M, H, scale,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (chunk, sequence and head): dK and dV of the chunk's rows, summed over the tiles of queries in order."""
    i = tl.program_id(0)
    program = tl.program_id(1).to(tl.int64)
    b, offset = program // H, (program % H) * D
    columns, rows = tl.arange(0, BD), tl.arange(0, BC)
    k_ = load_rows(k, b, i, offset, M, H, columns, C, BC, D)
    valid = load_real(real, (b * M + i) * C, C, BC)[None, :]
    v_ = load_rows(v, b, i, offset, M, H, columns, C, BC, D)
    k_acc = tl.zeros([BC, BD], dtype=tl.float32)
    v_acc = tl.zeros([BC, BD], dtype=tl.float32)
    start = b * T * H * D + offset
    for first in range(0, T, BT):
        queries = first + tl.arange(0, BT)
        inside = queries < T
        w = tl.load(spread + (b * M + i) * T + queries, mask=inside, other=0.0)
        if any_weight(w):
            q_ = load_tile(q + start, queries, inside, columns, H * D, D)
            do_ = load_tile(d_o + start, queries, inside, columns, H * D, D)
            p = chunk_softmax(mm(q_, tl.trans(k_), DOT, PRECISION) * scale, valid)
            v_acc += mm(tl.trans(p * w[:, None]), do_, DOT, PRECISION)
            g = mm(do_, tl.trans(v_), DOT, PRECISION)
            ds = p * (g - tl.sum(p * g, 1, keep_dims=True)) * (w * scale)[:, None]
            k_acc += mm(tl.trans(ds), q_, DOT, PRECISION)
    chunk = (b * M + i) * C * H * D + offset
    store_tile(dk + chunk, k_acc, rows, rows < C, columns, H * D, D)
    store_tile(dv + chunk, v_acc, rows, rows < C, columns, H * D, D)
