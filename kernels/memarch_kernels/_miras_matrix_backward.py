"""Matrix memory, backward: one program per (sequence, head) walks its chunks in reverse.

States are recomputed from the checkpoints, G chunks at a time, into `scratch`. d<name> is the gradient of <name>; names
follow _miras_matrix. Products with a transposed *result* of another product are computed the other way round instead
(see `scores_t`): Triton 3.4 to 3.7 miscompile the transposed form on Hopper.
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
from ._miras_math import error_gradient_vjp, link_direction, link_share, link_vjp, mm, norm_to
from ._miras_matrix import link_matrix, load_matrix, matrix_write, store_matrix


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
                    _, at, _ = matrix_write(at, wt, k_, v_, delta, log_a, step, BC, BIAS, HUBER, P, DOT, PRECISION)
            tl.debug_barrier()
        for back_i in range(count):
            i = count - 1 - back_i
            j = group * G + i
            row, valid = chunk_rows(j, h, H, first, last, origin, C, BC)
            k_ = load_rows(k, row, valid, columns, D)
            v_ = load_rows(v, row, valid, columns, D)
            q_ = load_rows(q, row, valid, columns, D)
            do = load_rows(d_o, row, valid, columns, D).to(tl.float32)
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
            u, _, b = matrix_write(at, wt, k_, v_, delta, log_a, step, BC, BIAS, HUBER, P, DOT, PRECISION)
            sum_b = tl.sum(log_a, 0, keep_dims=True)
            fall_end = tl.exp(sum_b - b)
            write = fall_end * step
            decay_end = tl.sum(tl.exp(sum_b), 0)

            # The memory at the chunk's end: A' = decay_C A' - (write K)' U.
            du = -mm(k_ * write, dat, DOT, PRECISION)
            dk_write = -mm(u, tl.trans(dat), DOT, PRECISION)
            kept = tl.sum(dat * at, 1)
            dat = dat * decay_end[:, None]
            dk_ = dk_write * write
            dstep = dk_write * k_ * fall_end
            db = -dk_write * k_ * write
            db_end = -tl.sum(db, 0, keep_dims=True)
            if CHANNEL:
                db_end += kept[None, :] * tl.exp(sum_b)
            else:
                # Shared out over the columns, which store_gate sums up again.
                db_end += tl.sum(kept) * tl.exp(sum_b) / BD

            # Reads.
            dwt = tl.zeros((BD, BD), tl.float32)
            dscale = 0.0
            if FROZEN:
                dq_ = mm(do, tl.trans(wt), DOT, PRECISION)
                dwt += mm(tl.trans(q_), do, DOT, PRECISION)
            else:
                decay = tl.exp(b)
                dn = do
                if CHANNEL:
                    q_read = q_ * decay
                    gain = tl.exp(-b) * step
                    gained = k_ * gain
                    scores_t = tl.where(causal_transposed(BC), mm(gained, tl.trans(q_read), DOT, PRECISION), 0.0)
                else:
                    q_read = q_ * decay
                    raw_t = mm(k_, tl.trans(q_), DOT, PRECISION)
                    fall_t = pairwise_transposed(b, BC)
                    scores_t = raw_t * fall_t * step
                if LINK == "lq":
                    far = mm(q_read, at, DOT, PRECISION)
                    # <dO, N> with N = Qd A' - S U, and <dO, S U> = <S' dO, U>.
                    dscale = tl.sum(do * far) - tl.sum(mm(scores_t, do, DOT, PRECISION) * u)
                    dn = do * scale
                dq_read = mm(dn, tl.trans(at), DOT, PRECISION)
                du -= mm(scores_t, dn, DOT, PRECISION)
                dat += mm(tl.trans(q_read), dn, DOT, PRECISION)
                dscores = -mm(dn, tl.trans(u), DOT, PRECISION)
                dscores_t = -mm(u, tl.trans(dn), DOT, PRECISION)
                if CHANNEL:
                    dscores = tl.where(causal(BC), dscores, 0.0)
                    dscores_t = tl.where(causal_transposed(BC), dscores_t, 0.0)
                    dq_read += mm(dscores, gained, DOT, PRECISION)
                    dgained = mm(dscores_t, q_read, DOT, PRECISION)
                    dk_ += dgained * gain
                    dgain = dgained * k_
                    db -= dgain * gain
                    dstep += dgain * tl.exp(-b)
                    dq_ = dq_read * decay
                    db += dq_ * q_
                else:
                    fall = pairwise(b, BC)
                    dq_ = dq_read * decay
                    db += dq_ * q_
                    dq_ += mm(dscores * fall * as_row(step), k_, DOT, PRECISION)
                    dk_ += mm(dscores_t * fall_t * step, q_, DOT, PRECISION)
                    # The gradient of log mix: rows t gain, columns i lose; shared out over the columns as above.
                    per_key = tl.sum(dscores_t * raw_t * fall_t, 1, keep_dims=True)
                    raw = mm(q_, tl.trans(k_), DOT, PRECISION)
                    per_query = tl.sum(dscores * raw * fall * as_row(step), 1, keep_dims=True)
                    dstep += per_key / BD
                    db += (per_query - per_key * step) / BD

            # The inner error.
            e = -v_.to(tl.float32)
            if BIAS != "dot":
                e += mm(k_, wt, DOT, PRECISION)
            de, ddelta = error_gradient_vjp(e, delta, du, BIAS, HUBER, P)
            if BIAS != "dot":
                dk_ += mm(de, tl.trans(wt), DOT, PRECISION)
                dwt += mm(tl.trans(k_), de, DOT, PRECISION)
            store_rows(dq, dq_, row, valid, columns, D)
            store_rows(dk, dk_, row, valid, columns, D)
            store_rows(dv, -de, row, valid, columns, D)
            store_gate(d_step_size, dstep, row, valid, columns, D, CHANNEL)
            store_gate(d_log_decay, log_decay_gradient(db, db_end), row, valid, columns, D, CHANNEL)
            if DELTA:
                store_gate(d_threshold, ddelta, row, valid, columns, D, DELTA_CHANNEL)

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
