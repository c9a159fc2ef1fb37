"""Matrix memory, forward: one program per (sequence, head, slice of values), the memory in registers.

The memory is held transposed, `[key, value]`, so that no product of matrices has to be transposed. Per chunk of tokens
(rows), W = link(anchor):
  U = rho(K W' - V);  O = decay (Q A') - S U,  S = mix * Q K';  A' <- decay_C A' - (write K)' U
"""

import triton
import triton.language as tl

from ._miras_gates import as_row, causal, chunk_rows, load_gate, load_rows, pairwise, store_rows, walk
from ._miras_math import error_gradient, link, mm, norm_to, power


@triton.jit
def link_matrix(at, present, LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr):
    """(W', scale, sum of |a|^Q) of a whole matrix A' `[key, value]`; the softmax runs over the values."""
    scale, total = 1.0, 1.0
    top, mass = tl.zeros_like(at), tl.zeros_like(at)
    if LINK == "lq" or LINK == "pnorm_dual":
        total = tl.sum(power(tl.abs(at), Q))
        scale = norm_to(total, Q, 2.0 - Q)
    if LINK == "softmax":
        logits = tl.where(present, at, float("-inf"))
        top = tl.max(logits, 1, keep_dims=True)
        top = tl.where(top == float("-inf"), 0.0, top)
        mass = tl.sum(tl.exp(logits - top), 1, keep_dims=True)
        mass = tl.where(mass == 0.0, 1.0, mass)
    return link(at, scale, top, mass, present, LINK, Q, MASS, SHRINK), scale, total


@triton.jit
def load_matrix(x, index, keys, values, D: tl.constexpr):
    """A' `[key, value]` of matrix `index` in `[.., D value, D key]`."""
    mask = (keys < D)[:, None] & (values < D)[None, :]
    return tl.load(x + index * D * D + keys[:, None] + values[None, :] * D, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_matrix(x, at, index, keys, values, D: tl.constexpr):
    mask = (keys < D)[:, None] & (values < D)[None, :]
    tl.store(x + index * D * D + keys[:, None] + values[None, :] * D, at, mask=mask)


@triton.jit
def inner_error(k, v, wt, BIAS: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """E = K W' - V; minus the values for the dot product's loss."""
    e = -v.to(tl.float32)
    if BIAS != "dot":
        e += mm(k, wt, DOT, PRECISION)
    return e


@triton.jit
def matrix_update(at, u, k, b, end, step, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """A' after the chunk, from its running sums b of the log-decays and their total `end`."""
    k_write = k * (tl.exp(end - b) * step)
    return at * tl.sum(tl.exp(end), 0)[:, None] - mm(tl.trans(k_write), u, DOT, PRECISION)


@triton.jit
def matrix_forward(
    q, k, v, log_decay, step_size, threshold, anchor, running, plan, position,
    o, end, end_anchor, checkpoints, num_sequences, H,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, G: tl.constexpr,
    BIAS: tl.constexpr, HUBER: tl.constexpr, LINK: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
    FROZEN: tl.constexpr, CHANNEL: tl.constexpr, DELTA: tl.constexpr, DELTA_CHANNEL: tl.constexpr,
    HAS_STATE: tl.constexpr, SAVE: tl.constexpr, STORE_ANCHOR: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    program, h, first, last, origin, num_chunks, checkpoint = walk(plan, position, num_sequences, H, C, HAS_STATE)
    keys = tl.arange(0, BD)
    values = tl.program_id(1) * BV + tl.arange(0, BV)
    present = (keys < D)[:, None] & (values < D)[None, :]
    source = h
    if HAS_STATE:
        source = program
    at = load_matrix(running, source, keys, values, D)
    for j in range(num_chunks):
        row, valid = chunk_rows(j, h, H, first, last, origin, C, BC)
        k_ = load_rows(k, row, valid, keys, D)
        v_ = load_rows(v, row, valid, values, D)
        q_ = load_rows(q, row, valid, keys, D)
        log_a = load_gate(log_decay, row, valid, keys, D, CHANNEL)
        step = load_gate(step_size, row, valid, keys, D, CHANNEL)
        delta = 0.0
        if DELTA:
            delta = load_gate(threshold, row, valid, values, D, DELTA_CHANNEL)
        if SAVE:
            if j % G == 0:
                store_matrix(checkpoints, at, (checkpoint + j // G) * H + h, keys, values, D)
        start = at
        if HAS_STATE:
            if j == 0:
                start = load_matrix(anchor, source, keys, values, D)
        if STORE_ANCHOR:
            if j == num_chunks - 1:
                store_matrix(end_anchor, start, program, keys, values, D)
        wt, scale, _ = link_matrix(start, present, LINK, Q, MASS, SHRINK)
        u = error_gradient(inner_error(k_, v_, wt, BIAS, DOT, PRECISION), delta, BIAS, HUBER, P)
        b = tl.cumsum(log_a, 0)
        if FROZEN:
            out = mm(q_, wt, DOT, PRECISION)
        else:
            decay = tl.exp(b)
            if CHANNEL:
                q_read = q_ * decay
                out = mm(q_read, at, DOT, PRECISION)
                scores = tl.where(causal(BC), mm(q_read, tl.trans(k_ * (tl.exp(-b) * step)), DOT, PRECISION), 0.0)
            else:
                out = decay * mm(q_, at, DOT, PRECISION)
                scores = pairwise(b, BC) * as_row(step) * mm(q_, tl.trans(k_), DOT, PRECISION)
            out -= mm(scores, u, DOT, PRECISION)
            if LINK == "lq":
                out *= scale
        store_rows(o, out, row, valid, values, D)
        at = matrix_update(at, u, k_, b, tl.sum(log_a, 0, keep_dims=True), step, DOT, PRECISION)
    store_matrix(end, at, program, keys, values, D)
    if STORE_ANCHOR:
        if (last - origin) % C == 0:
            store_matrix(end_anchor, at, program, keys, values, D)
