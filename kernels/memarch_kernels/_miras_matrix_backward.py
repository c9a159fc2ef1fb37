"""Matrix memory, backward: one program per (sequence, head) walks its chunks in reverse.

States are recomputed from the checkpoints, G chunks at a time, into `scratch`. d<name> is the gradient of <name>; names
follow _miras_matrix. Registers are what is scarce: tiles are loaded again rather than kept, and gates need no products
of their own, because the reads are linear in q and the writes in step * k (a gate's gradient is a row sum of q * dq or
k * dk). Products with a transposed *result* of another product are computed the other way round instead (see
`scores_t`): Triton 3.4 to 3.7 miscompile the transposed form on Hopper.
"""

import triton
import triton.language as tl

from ._miras_gates import (
    as_row,
    causal,
    causal_transposed,
    chunk_rows,
    load_gate,
    load_rows,
    log_decay_gradient,
    pairwise,
    pairwise_transposed,
    store_gate,
    store_rows,
    walk,
)
from ._miras_math import error_gradient, error_gradient_vjp, link_direction, link_share, link_vjp, mm, norm_to
from ._miras_matrix import inner_error, link_matrix, load_matrix, matrix_update, store_matrix


@triton.jit
def link_matrix_vjp(at, wt, dwt, dscale, scale, total, LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr):
    """dA' from dW' and, under "lq", from the gradient of the scale that the running read used."""
    dat = link_vjp(at, wt, dwt, scale, LINK, Q)
    if LINK == "lq" or LINK == "pnorm_dual":
        coef = (Q - 2.0) * norm_to(total, Q, 2.0 - 2.0 * Q) * (tl.sum(link_share(at, wt, dwt, LINK, Q)) + dscale)
        dat -= coef * link_direction(at, wt, LINK, Q)
    if LINK == "softmax":
        coef = tl.sum(link_share(at, wt, dwt, LINK, Q), 1, keep_dims=True) / MASS
        dat -= coef * link_direction(at, wt, LINK, Q)
    return dat


@triton.jit
def along_channels(x, CHANNEL: tl.constexpr):
    """A gate's share of a tile `[BC, BD]`: the tile itself per channel, its row sums `[BC, 1]` per head."""
    if CHANNEL:
        y = x
    else:
        y = tl.sum(x, 1, keep_dims=True)
    return y


@triton.jit
def matrix_backward(
    q, k, v, log_decay, step_size, threshold, anchor, plan, position, checkpoints,
    d_o, d_end, d_end_anchor, dq, dk, dv, d_log_decay, d_step_size, d_threshold, d_anchor, d_running, scratch,
    num_sequences, H,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, G: tl.constexpr,
    BIAS: tl.constexpr, HUBER: tl.constexpr, LINK: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
    FROZEN: tl.constexpr, CHANNEL: tl.constexpr, DELTA: tl.constexpr, DELTA_CHANNEL: tl.constexpr,
    HAS_STATE: tl.constexpr, HAS_D_END: tl.constexpr, HAS_D_ANCHOR: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    program, h, first, last, origin, num_chunks, checkpoint = walk(plan, position, num_sequences, H, C, HAS_STATE)
    columns = tl.arange(0, BD)
    present = (columns < D)[:, None] & (columns < D)[None, :]
    dat = tl.zeros((BD, BD), tl.float32)
    if HAS_D_END:
        dat += load_matrix(d_end, program, columns, columns, D)
    d_kept = tl.zeros((BD, BD), tl.float32)
    inside = (last - origin) % C != 0
    if HAS_D_ANCHOR:
        # An end on a chunk's boundary starts the next chunk from where it is.
        given = load_matrix(d_end_anchor, program, columns, columns, D)
        d_kept += tl.where(inside, given, 0.0)
        dat += tl.where(inside, 0.0, given)
    num_groups = tl.cdiv(num_chunks, G)
    for back in range(num_groups):
        group = num_groups - 1 - back
        count = tl.minimum(G, num_chunks - group * G)
        at = load_matrix(checkpoints, (checkpoint + group) * H + h, columns, columns, D)
        if G > 1:
            tl.debug_barrier()
            for i in range(count):
                store_matrix(scratch, at, program * G + i, columns, columns, D)
                if i + 1 < count:
                    j = group * G + i
                    row, valid = chunk_rows(j, h, H, first, last, origin, C, BC)
                    k_ = load_rows(k, row, valid, columns, D)
                    v_ = load_rows(v, row, valid, columns, D)
                    log_a = load_gate(log_decay, row, valid, columns, D, CHANNEL)
                    step = load_gate(step_size, row, valid, columns, D, CHANNEL)
                    delta = 0.0
                    if DELTA:
                        delta = load_gate(threshold, row, valid, columns, D, DELTA_CHANNEL)
                    start = at
                    if HAS_STATE:
                        if j == 0:
                            start = load_matrix(anchor, program, columns, columns, D)
                    wt, scale, total = link_matrix(start, present, LINK, Q, MASS, SHRINK)
                    u = error_gradient(inner_error(k_, v_, wt, BIAS, DOT, PRECISION), delta, BIAS, HUBER, P)
                    b, end = tl.cumsum(log_a, 0), tl.sum(log_a, 0, keep_dims=True)
                    at = matrix_update(at, u, k_, b, end, step, DOT, PRECISION)
            tl.debug_barrier()
        for back_i in range(count):
            i = count - 1 - back_i
            j = group * G + i
            row, valid = chunk_rows(j, h, H, first, last, origin, C, BC)
            k_ = load_rows(k, row, valid, columns, D)
            v_ = load_rows(v, row, valid, columns, D)
            log_a = load_gate(log_decay, row, valid, columns, D, CHANNEL)
            step = load_gate(step_size, row, valid, columns, D, CHANNEL)
            delta = 0.0
            if DELTA:
                delta = load_gate(threshold, row, valid, columns, D, DELTA_CHANNEL)
            if G > 1:
                at = load_matrix(scratch, program * G + i, columns, columns, D)
            start = at
            if HAS_STATE:
                if j == 0:
                    start = load_matrix(anchor, program, columns, columns, D)
            wt, scale, total = link_matrix(start, present, LINK, Q, MASS, SHRINK)
            u = error_gradient(inner_error(k_, v_, wt, BIAS, DOT, PRECISION), delta, BIAS, HUBER, P).to(DOT)
            b, sum_b = tl.cumsum(log_a, 0), tl.sum(log_a, 0, keep_dims=True)
            fall_end = tl.exp(sum_b - b)

            # The memory at the chunk's end: A' = decay_C A' - (fall_end step K)' U. dk_ is for step * K until below.
            du = -mm(k_ * (fall_end * step), dat, DOT, PRECISION)
            dk_ = -mm(u, tl.trans(dat), DOT, PRECISION) * fall_end
            db_end = tl.sum(along_channels(dk_ * k_, CHANNEL) * step, 0, keep_dims=True)
            kept = tl.sum(dat * at, 1)
            if CHANNEL:
                db_end += kept[None, :] * tl.exp(sum_b)
            else:
                db_end += tl.sum(kept) * tl.exp(sum_b)
            dat = dat * tl.sum(tl.exp(sum_b), 0)[:, None]

            # Reads.
            q_ = load_rows(q, row, valid, columns, D)
            dn = load_rows(d_o, row, valid, columns, D).to(tl.float32)
            dwt = tl.zeros((BD, BD), tl.float32)
            dscale = 0.0
            if FROZEN:
                dq_ = mm(dn, tl.trans(wt), DOT, PRECISION)
                dwt += mm(tl.trans(q_), dn, DOT, PRECISION)
                db = tl.zeros_like(b)
            else:
                if LINK == "lq":
                    dn = dn * scale
                decay = tl.exp(b)
                q_read = q_ * decay
                dat += mm(tl.trans(q_read), dn, DOT, PRECISION)
                if CHANNEL:
                    gain = tl.exp(-b)
                    gained = k_ * (gain * step)
                    scores_t = tl.where(causal_transposed(BC), mm(gained, tl.trans(q_read), DOT, PRECISION), 0.0)
                    du -= mm(scores_t, dn, DOT, PRECISION)
                    dscores_t = tl.where(causal_transposed(BC), mm(u, tl.trans(dn), DOT, PRECISION), 0.0)
                    dk_ -= mm(dscores_t, q_read, DOT, PRECISION) * gain
                    dscores = tl.where(causal(BC), mm(dn, tl.trans(u), DOT, PRECISION), 0.0)
                    dq_ = mm(dn, tl.trans(at), DOT, PRECISION) - mm(dscores, gained, DOT, PRECISION)
                    dq_ = dq_ * decay
                else:
                    fall_t = pairwise_transposed(b, BC)
                    scores_t = mm(k_, tl.trans(q_), DOT, PRECISION) * fall_t * step
                    du -= mm(scores_t, dn, DOT, PRECISION)
                    dk_ -= mm(mm(u, tl.trans(dn), DOT, PRECISION) * fall_t, q_, DOT, PRECISION)
                    dscores = mm(dn, tl.trans(u), DOT, PRECISION) * pairwise(b, BC) * as_row(step)
                    dq_ = mm(dn, tl.trans(at), DOT, PRECISION) * decay - mm(dscores, k_, DOT, PRECISION)
                db = along_channels(dq_ * q_, CHANNEL)
                if LINK == "lq":
                    dscale = tl.sum(db) / scale
            store_rows(dq, dq_, row, valid, columns, D)
            dstep = along_channels(dk_ * k_, CHANNEL)
            store_gate(d_step_size, dstep, row, valid, columns, D, CHANNEL)
            gate = log_decay_gradient(db - dstep * step, db_end)
            store_gate(d_log_decay, gate, row, valid, columns, D, CHANNEL)
            dk_ = dk_ * step

            # The inner error, computed again.
            e = inner_error(k_, v_, wt, BIAS, DOT, PRECISION)
            de, ddelta = error_gradient_vjp(e, delta, du, BIAS, HUBER, P)
            if DELTA:
                store_gate(d_threshold, ddelta, row, valid, columns, D, DELTA_CHANNEL)
            store_rows(dv, -de, row, valid, columns, D)
            if BIAS != "dot":
                dk_ += mm(de, tl.trans(wt), DOT, PRECISION)
                dwt += mm(tl.trans(k_), de, DOT, PRECISION)
            store_rows(dk, dk_, row, valid, columns, D)

            dstart = link_matrix_vjp(start, wt, dwt, dscale, scale, total, LINK, Q, MASS)
            if HAS_D_ANCHOR:
                if j == num_chunks - 1:
                    dstart += d_kept
            if HAS_STATE:
                if j == 0:
                    store_matrix(d_anchor, dstart, program, columns, columns, D)
                    dstart = tl.zeros((BD, BD), tl.float32)
            dat += dstart
    store_matrix(d_running, dat, program, columns, columns, D)
