"""Matrix memory, backward: one program per (sequence, head) walks its chunks in reverse.

States are recomputed from the checkpoints, G chunks at a time, into `scratch`. The gradient of the state stays in
`d_running`. Both pass through the registers in tiles of BV values, all of them at once only where a link couples them.
d<name> is the gradient of <name>; names follow _miras_matrix.

Gates need no products of their own: reads are linear in q and writes in step * k, so a gate's gradient is a row sum of
q * dq or k * dk. Products with a transposed *result* of another product are computed the other way round instead (see
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
from ._miras_math import (
    error_gradient_tile,
    error_gradient_tile_vjp,
    link_direction,
    link_share,
    link_vjp,
    mm,
    norm_to,
    row_sums,
)
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
def load_start(states, index, anchor, program, j, keys, values, D: tl.constexpr, HAS_STATE: tl.constexpr):
    """A' at which chunk j takes its gradients: its state, or the anchor of a chunk that was begun before."""
    start = load_matrix(states, index, keys, values, D)
    if HAS_STATE:
        if j == 0:
            start = load_matrix(anchor, program, keys, values, D)
    return start


@triton.jit
def load_delta(threshold, row, valid, values, D: tl.constexpr, DELTA: tl.constexpr, DELTA_CHANNEL: tl.constexpr):
    """The thresholds of these values; 0 where the loss has none."""
    delta = 0.0
    if DELTA:
        delta = load_gate(threshold, row, valid, values, D, DELTA_CHANNEL)
    return delta


@triton.jit
def error_squares(
    k_, v, states, index, anchor, program, j, row, valid, keys,
    BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    BIAS: tl.constexpr, HUBER: tl.constexpr, LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr,
    SHRINK: tl.constexpr, HAS_STATE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Row sums `[BC, 1]` of the squared error over all values, where the loss needs them."""
    total = tl.zeros((BC, 1), tl.float32)
    if BIAS == "huber" and (HUBER == "norm" or HUBER == "mixture"):
        for t in range(0, BD, BV):
            values = t + tl.arange(0, BV)
            present = (keys < D)[:, None] & (values < D)[None, :]
            start = load_start(states, index, anchor, program, j, keys, values, D, HAS_STATE)
            wt, _, _ = link_matrix(start, present, LINK, Q, MASS, SHRINK)
            e = inner_error(k_, load_rows(v, row, valid, values, D), wt, BIAS, DOT, PRECISION)
            total += tl.sum(e * e, 1, keep_dims=True)
    return total


@triton.jit
def matrix_backward(
    q, k, v, log_decay, step_size, threshold, anchor, plan, position, checkpoints,
    d_o, d_end, d_end_anchor, dq, dk, dv, d_log_decay, d_step_size, d_threshold, d_anchor, d_running, scratch, errors,
    num_sequences, H,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, G: tl.constexpr,
    BIAS: tl.constexpr, HUBER: tl.constexpr, LINK: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
    FROZEN: tl.constexpr, CHANNEL: tl.constexpr, DELTA: tl.constexpr, DELTA_CHANNEL: tl.constexpr,
    HAS_STATE: tl.constexpr, HAS_D_END: tl.constexpr, HAS_D_ANCHOR: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    program, h, first, last, origin, num_chunks, checkpoint = walk(plan, position, num_sequences, H, C, HAS_STATE)
    keys = tl.arange(0, BD)
    inside = (last - origin) % C != 0
    for t in range(0, BD, BV):
        values = t + tl.arange(0, BV)
        dat = tl.zeros((BD, BV), tl.float32)
        if HAS_D_END:
            dat += load_matrix(d_end, program, keys, values, D)
        if HAS_D_ANCHOR:
            # An end on a chunk's boundary starts the next chunk from where it is.
            dat += tl.where(inside, 0.0, load_matrix(d_end_anchor, program, keys, values, D))
        store_matrix(d_running, dat, program, keys, values, D)
    num_groups = tl.cdiv(num_chunks, G)
    for back in range(num_groups):
        group = num_groups - 1 - back
        count = tl.minimum(G, num_chunks - group * G)
        for t in range(0, BD, BV):
            values = t + tl.arange(0, BV)
            at = load_matrix(checkpoints, (checkpoint + group) * H + h, keys, values, D)
            store_matrix(scratch, at, program * G, keys, values, D)
        tl.debug_barrier()
        for i in range(count - 1):
            j, index = group * G + i, program * G + i
            row, valid = chunk_rows(j, h, H, first, last, origin, C, BC)
            k_ = load_rows(k, row, valid, keys, D)
            log_a = load_gate(log_decay, row, valid, keys, D, CHANNEL)
            step = load_gate(step_size, row, valid, keys, D, CHANNEL)
            b, sum_b = tl.cumsum(log_a, 0), tl.sum(log_a, 0, keep_dims=True)
            square = error_squares(
                k_, v, scratch, index, anchor, program, j, row, valid, keys,
                BC, D, BD, BV, BIAS, HUBER, LINK, Q, MASS, SHRINK, HAS_STATE, DOT, PRECISION,
            )  # fmt: skip
            for t in range(0, BD, BV):
                values = t + tl.arange(0, BV)
                present = (keys < D)[:, None] & (values < D)[None, :]
                start = load_start(scratch, index, anchor, program, j, keys, values, D, HAS_STATE)
                wt, _, _ = link_matrix(start, present, LINK, Q, MASS, SHRINK)
                delta = load_delta(threshold, row, valid, values, D, DELTA, DELTA_CHANNEL)
                e = inner_error(k_, load_rows(v, row, valid, values, D), wt, BIAS, DOT, PRECISION)
                u = error_gradient_tile(e, square, delta, BIAS, HUBER, P)
                at = load_matrix(scratch, index, keys, values, D)
                at = matrix_update(at, u, k_, b, sum_b, step, DOT, PRECISION)
                store_matrix(scratch, at, index + 1, keys, values, D)
            tl.debug_barrier()
        for back_i in range(count):
            i = count - 1 - back_i
            j, index = group * G + i, program * G + i
            row, valid = chunk_rows(j, h, H, first, last, origin, C, BC)
            k_ = load_rows(k, row, valid, keys, D)
            q_ = load_rows(q, row, valid, keys, D)
            log_a = load_gate(log_decay, row, valid, keys, D, CHANNEL)
            step = load_gate(step_size, row, valid, keys, D, CHANNEL)
            b, sum_b = tl.cumsum(log_a, 0), tl.sum(log_a, 0, keep_dims=True)
            decay_end = tl.sum(tl.exp(sum_b), 0)[:, None]
            fall_end = tl.exp(sum_b - b)
            k_write = (k_ * (fall_end * step)).to(DOT)
            q_read, scores_t = q_.to(DOT), k_write
            if not FROZEN:
                q_read = (q_ * tl.exp(b)).to(DOT)
                if CHANNEL:
                    scores_t = mm(k_ * (tl.exp(-b) * step), tl.trans(q_read), DOT, PRECISION)
                    scores_t = tl.where(causal_transposed(BC), scores_t, 0.0).to(DOT)
                else:
                    scores_t = mm(k_, tl.trans(q_), DOT, PRECISION) * pairwise_transposed(b, BC)
                    scores_t = (scores_t * step).to(DOT)
            scale = 1.0
            if LINK == "lq" and not FROZEN:
                start = load_start(scratch, index, anchor, program, j, keys, keys, D, HAS_STATE)
                _, scale, _ = link_matrix(start, (keys < D)[:, None] & (keys < D)[None, :], LINK, Q, MASS, SHRINK)
            square = error_squares(
                k_, v, scratch, index, anchor, program, j, row, valid, keys,
                BC, D, BD, BV, BIAS, HUBER, LINK, Q, MASS, SHRINK, HAS_STATE, DOT, PRECISION,
            )  # fmt: skip

            # First pass. The memory at the chunk's end, A' = decay_C A' - (write K)' U, and the reads: du is kept.
            dq_, dk_ = tl.zeros((BC, BD), tl.float32), tl.zeros((BC, BD), tl.float32)
            dscores, dscores_t = tl.zeros((BC, BC), tl.float32), tl.zeros((BC, BC), tl.float32)
            kept = tl.zeros((BD,), tl.float32)
            product = tl.zeros((BC, 1), tl.float32)
            for t in range(0, BD, BV):
                values = t + tl.arange(0, BV)
                present = (keys < D)[:, None] & (values < D)[None, :]
                start = load_start(scratch, index, anchor, program, j, keys, values, D, HAS_STATE)
                wt, _, _ = link_matrix(start, present, LINK, Q, MASS, SHRINK)
                delta = load_delta(threshold, row, valid, values, D, DELTA, DELTA_CHANNEL)
                e = inner_error(k_, load_rows(v, row, valid, values, D), wt, BIAS, DOT, PRECISION)
                u = error_gradient_tile(e, square, delta, BIAS, HUBER, P).to(DOT)
                dn = load_rows(d_o, row, valid, values, D).to(tl.float32) * scale
                dat = load_matrix(d_running, program, keys, values, D)
                du = -mm(k_write, dat, DOT, PRECISION)
                dk_ -= mm(u, tl.trans(dat), DOT, PRECISION)
                at = load_matrix(scratch, index, keys, values, D)
                kept += tl.sum(dat * at, 1)
                dat = dat * decay_end
                if FROZEN:
                    dq_ += mm(dn, tl.trans(wt), DOT, PRECISION)
                else:
                    dat += mm(tl.trans(q_read), dn, DOT, PRECISION)
                    dq_ += mm(dn, tl.trans(at), DOT, PRECISION)
                    du -= mm(scores_t, dn, DOT, PRECISION)
                    dscores += mm(dn, tl.trans(u), DOT, PRECISION)
                    dscores_t += mm(u, tl.trans(dn), DOT, PRECISION)
                store_matrix(d_running, dat, program, keys, values, D)
                product += row_sums(e * du, BIAS, HUBER)
                at_tile = tl.arange(0, BC)[:, None] * BD + values[None, :]
                tl.store(errors + program * BC * BD + at_tile, du)
            tl.debug_barrier()

            # Gates; dk_ is the gradient of step * K until it is multiplied.
            dk_ = dk_ * fall_end
            db_end = tl.sum(along_channels(dk_ * k_, CHANNEL) * step, 0, keep_dims=True)
            if CHANNEL:
                db_end += kept[None, :] * tl.exp(sum_b)
            else:
                db_end += tl.sum(kept) * tl.exp(sum_b)
            db = tl.zeros_like(b)
            if not FROZEN:
                if CHANNEL:
                    gain = tl.exp(-b)
                    dscores = tl.where(causal(BC), dscores, 0.0)
                    dscores_t = tl.where(causal_transposed(BC), dscores_t, 0.0)
                    dk_ -= mm(dscores_t, q_read, DOT, PRECISION) * gain
                    dq_ = (dq_ - mm(dscores, k_ * (gain * step), DOT, PRECISION)) * tl.exp(b)
                else:
                    dk_ -= mm(dscores_t * pairwise_transposed(b, BC), q_, DOT, PRECISION)
                    dq_ = dq_ * tl.exp(b)
                    dq_ -= mm(dscores * pairwise(b, BC) * as_row(step), k_, DOT, PRECISION)
                db = along_channels(dq_ * q_, CHANNEL)
            dscale = 0.0
            if LINK == "lq" and not FROZEN:
                dscale = tl.sum(db) / scale
            store_rows(dq, dq_, row, valid, keys, D)
            dstep = along_channels(dk_ * k_, CHANNEL)
            store_gate(d_step_size, dstep, row, valid, keys, D, CHANNEL)
            gate = log_decay_gradient(db - dstep * step, db_end)
            store_gate(d_log_decay, gate, row, valid, keys, D, CHANNEL)
            dk_ = dk_ * step

            # Second pass: the inner error.
            ddelta = tl.zeros((BC, 1), tl.float32)
            for t in range(0, BD, BV):
                values = t + tl.arange(0, BV)
                present = (keys < D)[:, None] & (values < D)[None, :]
                start = load_start(scratch, index, anchor, program, j, keys, values, D, HAS_STATE)
                wt, link_scale, total = link_matrix(start, present, LINK, Q, MASS, SHRINK)
                delta = load_delta(threshold, row, valid, values, D, DELTA, DELTA_CHANNEL)
                e = inner_error(k_, load_rows(v, row, valid, values, D), wt, BIAS, DOT, PRECISION)
                du = tl.load(errors + program * BC * BD + tl.arange(0, BC)[:, None] * BD + values[None, :])
                de, share = error_gradient_tile_vjp(e, square, product, delta, du, BIAS, HUBER, P)
                store_rows(dv, -de, row, valid, values, D)
                if DELTA_CHANNEL:
                    store_rows(d_threshold, share, row, valid, values, D)
                elif DELTA:
                    ddelta += tl.sum(share, 1, keep_dims=True)
                dwt = tl.zeros((BD, BV), tl.float32)
                if BIAS != "dot":
                    dk_ += mm(de, tl.trans(wt), DOT, PRECISION)
                    dwt += mm(tl.trans(k_), de, DOT, PRECISION)
                if FROZEN:
                    dwt += mm(tl.trans(q_read), load_rows(d_o, row, valid, values, D), DOT, PRECISION)
                dstart = link_matrix_vjp(start, wt, dwt, dscale, link_scale, total, LINK, Q, MASS)
                if HAS_D_ANCHOR:
                    if j == num_chunks - 1:
                        dstart += tl.where(inside, load_matrix(d_end_anchor, program, keys, values, D), 0.0)
                if HAS_STATE:
                    if j == 0:
                        store_matrix(d_anchor, dstart, program, keys, values, D)
                        dstart = tl.zeros((BD, BV), tl.float32)
                dat = load_matrix(d_running, program, keys, values, D) + dstart
                store_matrix(d_running, dat, program, keys, values, D)
            store_rows(dk, dk_, row, valid, keys, D)
            if DELTA and not DELTA_CHANNEL:
                store_gate(d_threshold, ddelta, row, valid, keys, D, False)
            tl.debug_barrier()
