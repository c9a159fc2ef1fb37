"""MLP memory, backward: one program per (sequence, head) walks its chunks in reverse.

States are recomputed from the checkpoints, G chunks at a time, into `states1`, `states2`. Names follow
_miras_mlp_passes; S is the causal product of queries and keys with decay and step size, P that of hidden units.
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
from ._miras_math import error_gradient_vjp, gelu_gate, gelu_slope, layer_norm, layer_norm_vjp, mm, norm_to
from ._miras_mlp import exchange, inner_error, link_stats, load_tile, store_tile, tile_at, transposed_at
from ._miras_mlp_passes import (
    coupling_pass,
    frozen_read_pass,
    gradient_pass,
    hidden_pass,
    inner_pass,
    load_first,
    load_second,
    running_read_pass,
    start_pass,
    write_pass,
)

NUM_TILES = 6
"""Tiles of a chunk's rows in `scratch`: U, the gradient of Hq A1', dYq, that of Qd, of S, and dY."""


@triton.jit
def replay_chunk(
    j, h, H, program, first, last, origin, columns, k, v, log_decay, step_size, threshold,
    x1, x2, index, states1, states2, here, there, y_saved, tiles,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    BIAS: tl.constexpr, HUBER: tl.constexpr, LINK: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
    CHANNEL: tl.constexpr, DELTA: tl.constexpr, DELTA_CHANNEL: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """State `there` from state `here`, with the gradients of chunk j taken at x1, x2."""
    row, valid = chunk_rows(j, h, H, first, last, origin, C, BC)
    inside = (columns < D)[None, :]
    stats1 = link_stats(x1, index, columns, D, N, BD, BN, True, LINK, Q)
    stats2 = link_stats(x2, index, columns, D, N, BD, BN, False, LINK, Q)
    delta = 0.0
    if DELTA:
        delta = load_gate(threshold, row, valid, columns, D, DELTA_CHANNEL)
    k_, v_ = load_rows(k, row, valid, columns, D), load_rows(v, row, valid, columns, D)
    y = load_rows(y_saved, row, valid, columns, D)
    _, _, _, _, u = inner_error(y, k_, v_, delta, inside, D, BIAS, HUBER, P)
    log_a = load_gate(log_decay, row, valid, columns, D, CHANNEL)
    step = load_gate(step_size, row, valid, columns, D, CHANNEL)
    sum_b = tl.sum(log_a, 0, keep_dims=True)
    write = tl.exp(sum_b - tl.cumsum(log_a, 0)) * step
    decay_end = tl.sum(tl.exp(sum_b), 0)[:, None]
    u_write_t = exchange(tiles, (u * write).to(DOT), BC, BD)
    k_write_t = tl.trans((k_ * write).to(DOT))
    u = u.to(DOT)
    source = (x1, x2, index, stats1, stats2)
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        z = mm(k_, load_second(source, columns, hidden, D, N, LINK, Q, MASS, SHRINK), DOT, PRECISION)
        gate = gelu_gate(z)
        w1 = load_first(source, columns, hidden, D, N, LINK, Q, MASS, SHRINK)
        r = gelu_slope(z, gate) * mm(u, w1, DOT, PRECISION)
        a1 = load_tile(states1, here, columns, hidden, D, N, True)
        store_tile(
            states1, a1 * decay_end - mm(u_write_t, z * gate, DOT, PRECISION), there, columns, hidden, D, N, True
        )
        a2 = load_tile(states2, here, columns, hidden, D, N, False)
        store_tile(states2, a2 * decay_end - mm(k_write_t, r, DOT, PRECISION), there, columns, hidden, D, N, False)
    tl.debug_barrier()


@triton.jit
def backward_chunk(
    j, h, H, program, first, last, origin, num_chunks, columns,
    q, k, v, log_decay, step_size, threshold, x1, x2, index, states1, states2, slot, y_saved, yq_saved,
    d_o, d_end_anchor1, d_end_anchor2, dq, dk, dv, d_log_decay, d_step_size, d_threshold,
    d_anchor1, d_anchor2, d1, d2, tiles, work,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    BIAS: tl.constexpr, HUBER: tl.constexpr, LINK: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
    FROZEN: tl.constexpr, CHANNEL: tl.constexpr, DELTA: tl.constexpr, DELTA_CHANNEL: tl.constexpr,
    SPLIT: tl.constexpr, HAS_D_ANCHOR: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Chunk j: d1, d2 hold the gradient of the memory at its end on entry, at its start on return.

    SPLIT: gradients were taken at x1, x2, apart from the running memory; theirs go to d_anchor1, d_anchor2.
    """
    row, valid = chunk_rows(j, h, H, first, last, origin, C, BC)
    inside = (columns < D)[None, :]
    TILE: tl.constexpr = BC * max(BC, BD)
    dense = tile_at(BC, BD)
    stats1 = link_stats(x1, index, columns, D, N, BD, BN, True, LINK, Q)
    stats2 = link_stats(x2, index, columns, D, N, BD, BN, False, LINK, Q)
    source, state = (x1, x2, index, stats1, stats2), (states1, states2, slot)
    delta = 0.0
    if DELTA:
        delta = load_gate(threshold, row, valid, columns, D, DELTA_CHANNEL)

    # Rows are loaded again where they are needed again: holding them across the passes would cost registers.
    k_, v_ = load_rows(k, row, valid, columns, D), load_rows(v, row, valid, columns, D)
    y = load_rows(y_saved, row, valid, columns, D)
    _, _, _, _, u = inner_error(y, k_, v_, delta, inside, D, BIAS, HUBER, P)
    tl.store(tiles + dense, u)
    tl.debug_barrier()
    u = tl.load(tiles + dense)
    k_ = load_rows(k, row, valid, columns, D)
    inner_pass(u, k_, source, work, columns, BC, D, N, BN, LINK, Q, MASS, SHRINK, DOT, PRECISION)

    # The reads' LayerNorm. Yq is exp(b_t) times what does not depend on b_t: its share of b's gradient is <dYq, Yq>.
    yq = load_rows(yq_saved, row, valid, columns, D)
    do = load_rows(d_o, row, valid, columns, D).to(tl.float32)
    read, read_rstd = layer_norm(yq, inside, D)
    dyq = layer_norm_vjp(do, read, read_rstd, inside, D)
    log_a = load_gate(log_decay, row, valid, columns, D, CHANNEL)
    step = load_gate(step_size, row, valid, columns, D, CHANNEL)
    b = tl.cumsum(log_a, 0)
    sum_b = tl.sum(log_a, 0, keep_dims=True)
    db, dstep = tl.zeros_like(log_a), tl.zeros_like(log_a)
    dscale1, dscale2 = 0.0, 0.0
    if FROZEN:
        tl.store(tiles + TILE + dense, dyq)
    else:
        if CHANNEL:
            db += dyq * yq
        else:
            db += tl.sum(dyq * yq, 1, keep_dims=True)
        if LINK == "lq":
            dscale1 = tl.sum(dyq * yq) / stats1[0]
            dyq *= stats1[0]
        tl.store(tiles + TILE + dense, dyq * tl.exp(b))
        tl.store(tiles + 2 * TILE + dense, dyq)
    tl.debug_barrier()

    # Through the reads. With N = Yq before its decay (per channel) or as it is (per head), dP = -dN U'.
    d_read = tl.load(tiles + TILE + dense)
    du = tl.zeros((BC, BD), tl.float32)
    if FROZEN:
        q_ = load_rows(q, row, valid, columns, D)
        dq_read = frozen_read_pass(
            q_, d_read, source, work, columns, BC, D, BD, N, BN, LINK, Q, MASS, SHRINK, DOT, PRECISION
        )
    else:
        q_ = load_rows(q, row, valid, columns, D)
        q_read = (q_ * tl.exp(b)).to(DOT)
        if CHANNEL:
            gain = tl.exp(-b) * step
            scores = tl.where(causal(BC), mm(q_read, tl.trans(k_ * gain), DOT, PRECISION), 0.0).to(DOT)
            dp = tl.where(causal(BC), -mm(d_read, tl.trans(u * gain), DOT, PRECISION), 0.0).to(DOT)
        else:
            mix = pairwise(b, BC) * as_row(step)
            d_near = tl.load(tiles + 2 * TILE + dense)
            scores = (mix * mm(q_, tl.trans(k_), DOT, PRECISION)).to(DOT)
            dp = (-mix * mm(d_near, tl.trans(u), DOT, PRECISION)).to(DOT)
        products_t, dq_read, dscale2 = running_read_pass(
            q_read, scores, d_read, dp, stats2[0], state, work, columns, BC, D, BD, N, BN, LINK, DOT, PRECISION
        )
        tl.store(tiles + 3 * TILE + dense, dq_read)
        if CHANNEL:
            d_gained = -mm(tl.where(causal_transposed(BC), products_t, 0.0), d_read, DOT, PRECISION)
            du += d_gained * (tl.exp(-b) * step)
            dgain = d_gained * u
            dstep += dgain * tl.exp(-b)
            db -= dgain * (tl.exp(-b) * step)
        else:
            fall_t = pairwise_transposed(b, BC)
            d_near = tl.load(tiles + 2 * TILE + dense)
            du -= mm(products_t * fall_t * step, d_near, DOT, PRECISION)
            dp_t = -mm(u, tl.trans(d_near), DOT, PRECISION) * fall_t
            per_key = tl.sum(dp_t * products_t, 1, keep_dims=True)
            dstep += per_key
            db -= per_key * step
    tl.debug_barrier()

    # Through the inner gradient's R and the memory's end.
    fall_end = tl.exp(sum_b - b)
    write = fall_end * step
    k_ = load_rows(k, row, valid, columns, D)
    k_write = (k_ * write).to(DOT)
    scores_t = k_write
    if not FROZEN:
        q_ = load_rows(q, row, valid, columns, D)
        if CHANNEL:
            scores_t = mm(k_ * (tl.exp(-b) * step), tl.trans((q_ * tl.exp(b)).to(DOT)), DOT, PRECISION)
            scores_t = tl.where(causal_transposed(BC), scores_t, 0.0).to(DOT)
        else:
            scores_t = mm(k_, tl.trans(q_), DOT, PRECISION) * pairwise_transposed(b, BC)
            scores_t = (scores_t * step).to(DOT)
    du_inner, dscores = gradient_pass(
        k_write, scores_t, source, d2, program, work, columns,
        BC, D, BD, N, BN, LINK, Q, MASS, SHRINK, FROZEN, DOT, PRECISION,
    )  # fmt: skip
    du_write, dk_write, kept = write_pass(state, d1, d2, program, work, columns, BC, D, BD, N, BN, DOT, PRECISION)
    du += du_inner + du_write * write
    k_, v_ = load_rows(k, row, valid, columns, D), load_rows(v, row, valid, columns, D)
    dwrite = du_write * tl.load(tiles + dense) + dk_write * k_
    if CHANNEL:
        db_end = kept[None, :] * tl.exp(sum_b)
    else:
        dwrite = tl.sum(dwrite, 1, keep_dims=True)
        db_end = tl.sum(kept) * tl.exp(sum_b)
    dstep += dwrite * fall_end
    db -= dwrite * write
    db_end += tl.sum(dwrite * write, 0, keep_dims=True)
    dk_ = dk_write * write

    # The inner error and its LayerNorm, whose gradient is itself part of the forward.
    y = load_rows(y_saved, row, valid, columns, D)
    e, y_hat, rstd, g, u = inner_error(y, k_, v_, delta, inside, D, BIAS, HUBER, P)
    dg = layer_norm_vjp(du, y_hat, rstd, inside, D)
    de, ddelta = error_gradient_vjp(e, delta, dg, BIAS, HUBER, P)
    store_rows(dv, -de, row, valid, columns, D)
    if DELTA:
        store_gate(d_threshold, ddelta, row, valid, columns, D, DELTA_CHANNEL)
    along_u = tl.sum(du * y_hat, 1, keep_dims=True) / D
    along_g = tl.sum(g * y_hat, 1, keep_dims=True) / D
    dy_hat = -rstd * (g * along_u + du * along_g)
    if BIAS != "dot":
        dy_hat += de
        dk_ += de
    d_log_std = tl.sum(du * u, 1, keep_dims=True) / D
    dy = layer_norm_vjp(dy_hat, y_hat, rstd, inside, D) - d_log_std * rstd * y_hat
    dy_t = exchange(tiles + 5 * TILE, dy.to(DOT), BC, BD)
    # Queries, keys and gates through S.
    dq_ = load_rows(d_o, row, valid, columns, D).to(tl.float32)
    if FROZEN:
        dq_ += dq_read
    else:
        q_ = load_rows(q, row, valid, columns, D)
        dq_read = tl.load(tiles + 3 * TILE + dense).to(tl.float32)
        if CHANNEL:
            dscores = tl.where(causal(BC), dscores, 0.0).to(DOT)
            dscores_t = exchange(tiles + 4 * TILE, dscores, BC, BC)
            gain = tl.exp(-b) * step
            dq_read += mm(dscores, k_ * gain, DOT, PRECISION)
            d_gained = mm(dscores_t, q_ * tl.exp(b), DOT, PRECISION)
            dk_ += d_gained * gain
            dgain = d_gained * k_
            dstep += dgain * tl.exp(-b)
            db -= dgain * gain
            dq_ += dq_read * tl.exp(b)
            db += dq_read * tl.exp(b) * q_
        else:
            raw = mm(q_, tl.trans(k_), DOT, PRECISION)
            dscores *= pairwise(b, BC)
            dscores_t = exchange(tiles + 4 * TILE, (dscores * as_row(step)).to(DOT), BC, BC)
            dq_read *= tl.exp(b)
            dq_ += dq_read + mm(dscores * as_row(step), k_, DOT, PRECISION)
            dk_ += mm(dscores_t, q_, DOT, PRECISION)
            per_key = tl.sum(dscores * raw, 0)[:, None]
            dstep += per_key
            db += tl.sum(dscores * raw * as_row(step), 1, keep_dims=True) - per_key * step
            db += tl.sum(dq_read * q_, 1, keep_dims=True)
    store_rows(dq, dq_, row, valid, columns, D)
    store_gate(d_step_size, dstep, row, valid, columns, D, CHANNEL)
    store_gate(d_log_decay, log_decay_gradient(db, db_end), row, valid, columns, D, CHANNEL)

    u = tl.load(tiles + dense)
    dp_t = u
    if not FROZEN:
        if CHANNEL:
            gained = u * (tl.exp(-b) * step)
            dp_t = -mm(gained, tl.trans(tl.load(tiles + TILE + dense)), DOT, PRECISION)
            dp_t = tl.where(causal_transposed(BC), dp_t, 0.0).to(DOT)
        else:
            d_near = tl.load(tiles + 2 * TILE + dense)
            dp_t = (-mm(u, tl.trans(d_near), DOT, PRECISION) * pairwise_transposed(b, BC) * step).to(DOT)
    dk_ += hidden_pass(
        tl.load(tiles + 5 * TILE + dense), (u * write).to(DOT), dp_t, source, d1, program, work, columns,
        BC, D, BD, N, BN, LINK, Q, MASS, SHRINK, FROZEN, DOT, PRECISION,
    )  # fmt: skip
    store_rows(dk, dk_, row, valid, columns, D)
    tl.debug_barrier()

    # The memory at the chunk's start.
    k_t = tl.trans(load_rows(k, row, valid, columns, D))
    q_read = load_rows(q, row, valid, columns, D)
    if not FROZEN:
        q_read = q_read * tl.exp(b)
    q_read_t = tl.trans(q_read.to(DOT))
    is_end = (j == num_chunks - 1) & ((last - origin) % C != 0)
    share1, share2 = start_pass(
        dy_t, tl.load(tiles + transposed_at(BC, BD)), tl.load(tiles + TILE + transposed_at(BC, BD)), k_t, q_read_t,
        tl.sum(tl.exp(sum_b), 0)[:, None], source, d1, d2, d_anchor1, d_anchor2, d_end_anchor1, d_end_anchor2,
        program, is_end, work, columns,
        BC, D, BD, N, BN, LINK, Q, MASS, SHRINK, FROZEN, SPLIT, HAS_D_ANCHOR, DOT, PRECISION,
    )  # fmt: skip
    tl.debug_barrier()
    if LINK == "lq" or LINK == "pnorm_dual" or LINK == "softmax":
        if LINK == "softmax":
            coef1, coef2 = share1 / MASS, share2 / MASS
        else:
            # A running read also sees the norm, through its scale.
            coef1 = (Q - 2.0) * norm_to(stats1[1], Q, 2.0 - 2.0 * Q) * (share1 + dscale1)
            coef2 = (Q - 2.0) * norm_to(stats2[1], Q, 2.0 - 2.0 * Q) * (share2 + dscale2)
        to1, to2 = d1, d2
        if SPLIT:
            to1, to2 = d_anchor1, d_anchor2
        coupling_pass(coef1, x1, index, stats1, to1, program, columns, D, N, BN, True, LINK, Q, MASS, SHRINK)
        coupling_pass(coef2, x2, index, stats2, to2, program, columns, D, N, BN, False, LINK, Q, MASS, SHRINK)
        tl.debug_barrier()


@triton.jit
def mlp_backward(
    q, k, v, log_decay, step_size, threshold, anchor1, anchor2, plan, position,
    checkpoint1, checkpoint2, y_saved, yq_saved, d_o, d_end1, d_end2, d_end_anchor1, d_end_anchor2,
    dq, dk, dv, d_log_decay, d_step_size, d_threshold, d_anchor1, d_anchor2, d_running1, d_running2,
    states1, states2, scratch, work, num_sequences, H,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    G: tl.constexpr, BIAS: tl.constexpr, HUBER: tl.constexpr, LINK: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
    FROZEN: tl.constexpr, CHANNEL: tl.constexpr, DELTA: tl.constexpr, DELTA_CHANNEL: tl.constexpr,
    HAS_STATE: tl.constexpr, HAS_D_END: tl.constexpr, HAS_D_ANCHOR: tl.constexpr,
    TILES: tl.constexpr, SLOTS: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """d_running1, d_running2 hold the gradient of the memory on the way back."""
    program, h, first, last, origin, num_chunks, checkpoint = walk(plan, position, num_sequences, H, C, HAS_STATE)
    columns = tl.arange(0, BD)
    tiles = scratch + program * TILES * BC * max(BC, BD)
    work += program * SLOTS * BC * N
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        d1 = tl.zeros((BD, BN), tl.float32)
        d2 = tl.zeros((BD, BN), tl.float32)
        if HAS_D_END:
            d1 += load_tile(d_end1, program, columns, hidden, D, N, True)
            d2 += load_tile(d_end2, program, columns, hidden, D, N, False)
        if HAS_D_ANCHOR:
            # An end on a chunk's boundary starts the next chunk from where it is.
            if (last - origin) % C == 0:
                d1 += load_tile(d_end_anchor1, program, columns, hidden, D, N, True)
                d2 += load_tile(d_end_anchor2, program, columns, hidden, D, N, False)
        store_tile(d_running1, d1, program, columns, hidden, D, N, True)
        store_tile(d_running2, d2, program, columns, hidden, D, N, False)
    num_groups = tl.cdiv(num_chunks, G)
    for back in range(num_groups):
        group = num_groups - 1 - back
        count = tl.minimum(G, num_chunks - group * G)
        tl.debug_barrier()
        for t in range(0, N, BN):
            hidden = t + tl.arange(0, BN)
            a1 = load_tile(checkpoint1, (checkpoint + group) * H + h, columns, hidden, D, N, True)
            store_tile(states1, a1, program * G, columns, hidden, D, N, True)
            a2 = load_tile(checkpoint2, (checkpoint + group) * H + h, columns, hidden, D, N, False)
            store_tile(states2, a2, program * G, columns, hidden, D, N, False)
        tl.debug_barrier()
        replayed = 0
        if HAS_STATE:
            if (group == 0) & (count > 1):
                replay_chunk(
                    0, h, H, program, first, last, origin, columns, k, v, log_decay, step_size, threshold,
                    anchor1, anchor2, program, states1, states2, program * G, program * G + 1, y_saved, tiles,
                    C, BC, D, BD, N, BN, BIAS, HUBER, LINK, P, Q, MASS, SHRINK, CHANNEL, DELTA, DELTA_CHANNEL,
                    DOT, PRECISION,
                )  # fmt: skip
            replayed = tl.where(group == 0, 1, 0)
        for i in range(replayed, count - 1):
            replay_chunk(
                group * G + i, h, H, program, first, last, origin, columns, k, v, log_decay, step_size, threshold,
                states1, states2, program * G + i, states1, states2, program * G + i, program * G + i + 1, y_saved,
                tiles, C, BC, D, BD, N, BN, BIAS, HUBER, LINK, P, Q, MASS, SHRINK, CHANNEL, DELTA, DELTA_CHANNEL,
                DOT, PRECISION,
            )  # fmt: skip
        for back_i in range(count - replayed):
            i = count - 1 - back_i
            backward_chunk(
                group * G + i, h, H, program, first, last, origin, num_chunks, columns,
                q, k, v, log_decay, step_size, threshold,
                states1, states2, program * G + i, states1, states2, program * G + i, y_saved, yq_saved,
                d_o, d_end_anchor1, d_end_anchor2, dq, dk, dv, d_log_decay, d_step_size, d_threshold,
                d_anchor1, d_anchor2, d_running1, d_running2, tiles, work,
                C, BC, D, BD, N, BN, BIAS, HUBER, LINK, P, Q, MASS, SHRINK, FROZEN, CHANNEL, DELTA, DELTA_CHANNEL,
                False, HAS_D_ANCHOR, DOT, PRECISION,
            )  # fmt: skip
    if HAS_STATE:
        backward_chunk(
            0, h, H, program, first, last, origin, num_chunks, columns,
            q, k, v, log_decay, step_size, threshold,
            anchor1, anchor2, program, states1, states2, program * G, y_saved, yq_saved,
            d_o, d_end_anchor1, d_end_anchor2, dq, dk, dv, d_log_decay, d_step_size, d_threshold,
            d_anchor1, d_anchor2, d_running1, d_running2, tiles, work,
            C, BC, D, BD, N, BN, BIAS, HUBER, LINK, P, Q, MASS, SHRINK, FROZEN, CHANNEL, DELTA, DELTA_CHANNEL,
            True, HAS_D_ANCHOR, DOT, PRECISION,
        )  # fmt: skip
