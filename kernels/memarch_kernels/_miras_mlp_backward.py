"""MLP memory, backward: one program per (sequence, head) walks its chunks in reverse.

States are recomputed from the checkpoints, G chunks at a time, into `states1`, `states2`. A chunk is differentiated in
short passes over tiles of the hidden width, which hand each other `[C, hidden]` rows through `work`: holding them, and
the matrices, in registers at once would spill. d<name> is the gradient of <name>; names follow _miras_mlp. S is the
causal product of queries and keys with decay and step size, P that of hidden units, so that
  Zq = Qd A2' - S R,  Yq = decay Hq A1' - P U.
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
    error_gradient_vjp,
    gelu_curvature,
    gelu_gate,
    gelu_slope,
    layer_norm,
    layer_norm_vjp,
    link,
    link_direction,
    link_share,
    link_vjp,
    mm,
    norm_to,
)
from ._miras_mlp import (
    exchange,
    inner_error,
    link_stats,
    load_hidden,
    load_tile,
    store_hidden,
    store_tile,
    tile_at,
)


@triton.jit
def load_weight(
    x, index, columns, hidden, stats, D: tl.constexpr, N: tl.constexpr, FIRST: tl.constexpr,
    LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
):  # fmt: skip
    """Tile of W = link(A), `[D, hidden]`."""
    present = (columns < D)[:, None] & (hidden < N)[None, :]
    a = load_tile(x, index, columns, hidden, D, N, FIRST)
    return link(a, stats[0], stats[2], stats[3], present, LINK, Q, MASS, SHRINK)


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
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        z = mm(
            load_rows(k, row, valid, columns, D),
            load_weight(x2, index, columns, hidden, stats2, D, N, False, LINK, Q, MASS, SHRINK), DOT, PRECISION,
        )  # fmt: skip
        gate = gelu_gate(z)
        w1 = load_weight(x1, index, columns, hidden, stats1, D, N, True, LINK, Q, MASS, SHRINK)
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
    keep_h, keep_slope, keep_r, keep_bend = work, work + BC * N, work + 2 * BC * N, work + 3 * BC * N
    keep_hq, keep_dzq, keep_dr, keep_dx = work + 4 * BC * N, work + 5 * BC * N, work + 6 * BC * N, work + 7 * BC * N
    stats1 = link_stats(x1, index, columns, D, N, BD, BN, True, LINK, Q)
    stats2 = link_stats(x2, index, columns, D, N, BD, BN, False, LINK, Q)
    delta = 0.0
    if DELTA:
        delta = load_gate(threshold, row, valid, columns, D, DELTA_CHANNEL)

    # The inner gradient again: U, and by tiles H, gelu', R and X gelu''.
    k_, v_ = load_rows(k, row, valid, columns, D), load_rows(v, row, valid, columns, D)
    y = load_rows(y_saved, row, valid, columns, D)
    _, _, _, _, u = inner_error(y, k_, v_, delta, inside, D, BIAS, HUBER, P)
    tl.store(tiles + tile_at(BC, BD), u)
    tl.debug_barrier()
    u = tl.load(tiles + tile_at(BC, BD))
    k_ = load_rows(k, row, valid, columns, D)
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        w2 = load_weight(x2, index, columns, hidden, stats2, D, N, False, LINK, Q, MASS, SHRINK)
        z = mm(k_, w2, DOT, PRECISION)
        gate = gelu_gate(z)
        slope = gelu_slope(z, gate)
        store_hidden(keep_h, z * gate, hidden, BC, N)
        store_hidden(keep_slope, slope, hidden, BC, N)
        w1 = load_weight(x1, index, columns, hidden, stats1, D, N, True, LINK, Q, MASS, SHRINK)
        x = mm(u, w1, DOT, PRECISION)
        store_hidden(keep_r, slope * x, hidden, BC, N)
        store_hidden(keep_bend, gelu_curvature(z, gate) * x, hidden, BC, N)

    # The reads' LayerNorm.
    yq = load_rows(yq_saved, row, valid, columns, D)
    do = load_rows(d_o, row, valid, columns, D).to(tl.float32)
    read, read_rstd = layer_norm(yq, inside, D)
    dyq = layer_norm_vjp(do, read, read_rstd, inside, D)
    log_a = load_gate(log_decay, row, valid, columns, D, CHANNEL)
    step = load_gate(step_size, row, valid, columns, D, CHANNEL)
    b = tl.cumsum(log_a, 0)
    db = tl.zeros_like(log_a)
    dscale1, dscale2 = 0.0, 0.0
    if FROZEN:
        tl.store(tiles + TILE + tile_at(BC, BD), dyq)
    else:
        # Yq is exp(b_t) times what does not depend on b_t, so its share of b's gradient is <dYq, Yq>.
        if CHANNEL:
            db += dyq * yq
        else:
            db += tl.sum(dyq * yq, 1, keep_dims=True)
        if LINK == "lq":
            dscale1 = tl.sum(dyq * yq) / stats1[0]
            dyq *= stats1[0]
        tl.store(tiles + TILE + tile_at(BC, BD), dyq * tl.exp(b))
        tl.store(tiles + 2 * TILE + tile_at(BC, BD), dyq)
    tl.debug_barrier()
    d_read = tl.load(tiles + TILE + tile_at(BC, BD))
    dstep = tl.zeros_like(log_a)
    dq_read = tl.zeros((BC, BD), tl.float32)
    du = tl.zeros((BC, BD), tl.float32)
    if FROZEN:
        q_ = load_rows(q, row, valid, columns, D)
        for t in range(0, N, BN):
            hidden = t + tl.arange(0, BN)
            w2 = load_weight(x2, index, columns, hidden, stats2, D, N, False, LINK, Q, MASS, SHRINK)
            zq = mm(q_, w2, DOT, PRECISION)
            gate = gelu_gate(zq)
            store_hidden(keep_hq, zq * gate, hidden, BC, N)
            w1 = load_weight(x1, index, columns, hidden, stats1, D, N, True, LINK, Q, MASS, SHRINK)
            dzq = (mm(d_read, w1, DOT, PRECISION) * gelu_slope(zq, gate)).to(DOT)
            store_hidden(keep_dzq, dzq, hidden, BC, N)
            dq_read += mm(dzq, tl.trans(w2), DOT, PRECISION)
    else:
        # dP = -dN U' with N = Yq before its decay (per channel) or as it is (per head).
        q_read = (load_rows(q, row, valid, columns, D) * tl.exp(b)).to(DOT)
        if CHANNEL:
            gain = tl.exp(-b) * step
            scores = tl.where(causal(BC), mm(q_read, tl.trans(k_ * gain), DOT, PRECISION), 0.0).to(DOT)
            dp = tl.where(causal(BC), -mm(d_read, tl.trans(u * gain), DOT, PRECISION), 0.0).to(DOT)
        else:
            mix = pairwise(b, BC) * as_row(step)
            q_ = load_rows(q, row, valid, columns, D)
            d_near = tl.load(tiles + 2 * TILE + tile_at(BC, BD))
            scores = (mix * mm(q_, tl.trans(k_), DOT, PRECISION)).to(DOT)
            dp = (-mix * mm(d_near, tl.trans(u), DOT, PRECISION)).to(DOT)
        products_t = tl.zeros((BC, BC), tl.float32)
        for t in range(0, N, BN):
            hidden = t + tl.arange(0, BN)
            a2 = load_tile(states2, slot, columns, hidden, D, N, False)
            zq = mm(q_read, a2, DOT, PRECISION)
            zq -= mm(scores, load_hidden(keep_r, hidden, BC, N, False), DOT, PRECISION)
            if LINK == "lq":
                zq *= stats2[0]
            gate = gelu_gate(zq)
            hq = (zq * gate).to(DOT)
            store_hidden(keep_hq, hq, hidden, BC, N)
            h_ = load_hidden(keep_h, hidden, BC, N, False)
            products_t += mm(h_, tl.trans(hq), DOT, PRECISION)
            a1 = load_tile(states1, slot, columns, hidden, D, N, True)
            dhq = mm(d_read, a1, DOT, PRECISION) + mm(dp, h_, DOT, PRECISION)
            dzq = dhq * gelu_slope(zq, gate)
            if LINK == "lq":
                dscale2 += tl.sum(dzq * zq) / stats2[0]
                dzq *= stats2[0]
            dzq = dzq.to(DOT)
            store_hidden(keep_dzq, dzq, hidden, BC, N)
            dq_read += mm(dzq, tl.trans(a2), DOT, PRECISION)
        if CHANNEL:
            d_gained = -mm(tl.where(causal_transposed(BC), products_t, 0.0), d_read, DOT, PRECISION)
            du += d_gained * (tl.exp(-b) * step)
            dgain = d_gained * u
            dstep += dgain * tl.exp(-b)
            db -= dgain * (tl.exp(-b) * step)
        else:
            fall_t = pairwise_transposed(b, BC)
            d_near = tl.load(tiles + 2 * TILE + tile_at(BC, BD))
            dp_t = -mm(u, tl.trans(d_near), DOT, PRECISION) * fall_t
            du -= mm(products_t * fall_t * step, d_near, DOT, PRECISION)
            per_key = tl.sum(dp_t * products_t, 1, keep_dims=True)
            dstep += per_key
            db -= per_key * step
        tl.store(tiles + 3 * TILE + tile_at(BC, BD), dq_read)
    tl.debug_barrier()

    # dR from the memory's end and from the reads; with it, what U is given through X = U W1.
    sum_b = tl.sum(log_a, 0, keep_dims=True)
    fall_end = tl.exp(sum_b - b)
    k_write = (load_rows(k, row, valid, columns, D) * (fall_end * step)).to(DOT)
    if not FROZEN:
        k_ = load_rows(k, row, valid, columns, D)
        if CHANNEL:
            q_read = (load_rows(q, row, valid, columns, D) * tl.exp(b)).to(DOT)
            scores_t = mm(k_ * (tl.exp(-b) * step), tl.trans(q_read), DOT, PRECISION)
            scores_t = tl.where(causal_transposed(BC), scores_t, 0.0).to(DOT)
        else:
            q_ = load_rows(q, row, valid, columns, D)
            scores_t = mm(k_, tl.trans(q_), DOT, PRECISION) * pairwise_transposed(b, BC)
            scores_t = (scores_t * step).to(DOT)
    dscores = tl.zeros((BC, BC), tl.float32)
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        dr = -mm(k_write, load_tile(d2, program, columns, hidden, D, N, False), DOT, PRECISION)
        if not FROZEN:
            dzq = load_hidden(keep_dzq, hidden, BC, N, False)
            dr -= mm(scores_t, dzq, DOT, PRECISION)
            dscores -= mm(dzq, load_hidden(keep_r, hidden, BC, N, True), DOT, PRECISION)
        store_hidden(keep_dr, dr, hidden, BC, N)
        dx = (dr * load_hidden(keep_slope, hidden, BC, N, False)).to(DOT)
        store_hidden(keep_dx, dx, hidden, BC, N)
        w1 = load_weight(x1, index, columns, hidden, stats1, D, N, True, LINK, Q, MASS, SHRINK)
        du += mm(dx, tl.trans(w1), DOT, PRECISION)

    # What the memory's end gives to the written rows: A1' = decay_C A1 - (write U)' H, A2' = decay_C A2 - R' (write K).
    du_write = tl.zeros((BC, BD), tl.float32)
    dk_write = tl.zeros((BC, BD), tl.float32)
    kept = tl.zeros((BD,), tl.float32)
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        d1_ = load_tile(d1, program, columns, hidden, D, N, True)
        du_write -= mm(load_hidden(keep_h, hidden, BC, N, False), tl.trans(d1_), DOT, PRECISION)
        kept += tl.sum(d1_ * load_tile(states1, slot, columns, hidden, D, N, True), 1)
        d2_ = load_tile(d2, program, columns, hidden, D, N, False)
        dk_write -= mm(load_hidden(keep_r, hidden, BC, N, False), tl.trans(d2_), DOT, PRECISION)
        kept += tl.sum(d2_ * load_tile(states2, slot, columns, hidden, D, N, False), 1)
    write = fall_end * step
    du += du_write * write
    k_, v_ = load_rows(k, row, valid, columns, D), load_rows(v, row, valid, columns, D)
    dwrite = du_write * tl.load(tiles + tile_at(BC, BD)) + dk_write * k_
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

    # Queries, keys and gates through S.
    dq_ = do
    if FROZEN:
        dq_ += dq_read
    else:
        q_ = load_rows(q, row, valid, columns, D)
        dq_read = tl.load(tiles + 3 * TILE + tile_at(BC, BD)).to(tl.float32)
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

    # dZ by tiles (in the place of R), and what it gives to the keys.
    dy_t = exchange(tiles + 5 * TILE, dy.to(DOT), BC, BD)
    dy = tl.load(tiles + 5 * TILE + tile_at(BC, BD))
    u_write = (u * write).to(DOT)
    if not FROZEN:
        if CHANNEL:
            gained = u * (tl.exp(-b) * step)
            dp_t = -mm(gained, tl.trans(d_read), DOT, PRECISION)
            dp_t = tl.where(causal_transposed(BC), dp_t, 0.0).to(DOT)
        else:
            d_near = tl.load(tiles + 2 * TILE + tile_at(BC, BD))
            dp_t = (-mm(u, tl.trans(d_near), DOT, PRECISION) * pairwise_transposed(b, BC) * step).to(DOT)
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        w1 = load_weight(x1, index, columns, hidden, stats1, D, N, True, LINK, Q, MASS, SHRINK)
        dh = mm(dy, w1, DOT, PRECISION)
        dh -= mm(u_write, load_tile(d1, program, columns, hidden, D, N, True), DOT, PRECISION)
        if not FROZEN:
            dh += mm(dp_t, load_hidden(keep_hq, hidden, BC, N, False), DOT, PRECISION)
        dz = dh * load_hidden(keep_slope, hidden, BC, N, False)
        dr = load_hidden(keep_dr, hidden, BC, N, False).to(tl.float32)
        dz = (dz + dr * load_hidden(keep_bend, hidden, BC, N, False)).to(DOT)
        store_hidden(keep_r, dz, hidden, BC, N)
        w2 = load_weight(x2, index, columns, hidden, stats2, D, N, False, LINK, Q, MASS, SHRINK)
        dk_ += mm(dz, tl.trans(w2), DOT, PRECISION)
    store_rows(dk, dk_, row, valid, columns, D)
    tl.debug_barrier()

    # The memory at the chunk's start.
    decay_end = tl.sum(tl.exp(sum_b), 0)[:, None]
    at_t = tl.arange(0, BC)[None, :] * BD + tl.arange(0, BD)[:, None]
    u_t = tl.load(tiles + at_t)
    d_read_t = tl.load(tiles + TILE + at_t)
    k_t = tl.trans(load_rows(k, row, valid, columns, D))
    q_read = load_rows(q, row, valid, columns, D)
    if not FROZEN:
        q_read = q_read * tl.exp(b)
    q_read_t = tl.trans(q_read.to(DOT))
    share1, share2 = 0.0, 0.0
    if LINK == "softmax":
        share1, share2 = tl.zeros((BD, 1), tl.float32), tl.zeros((BD, 1), tl.float32)
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        h_ = load_hidden(keep_h, hidden, BC, N, False)
        dw1 = mm(dy_t, h_, DOT, PRECISION) + mm(u_t, load_hidden(keep_dx, hidden, BC, N, False), DOT, PRECISION)
        through = mm(d_read_t, load_hidden(keep_hq, hidden, BC, N, False), DOT, PRECISION)
        d1_ = load_tile(d1, program, columns, hidden, D, N, True) * decay_end
        if FROZEN:
            dw1 += through
        else:
            d1_ += through
        share1 += pull_start(
            d1_, dw1, x1, index, stats1, columns, hidden, d1, d_anchor1, d_end_anchor1, program, j, last, origin,
            num_chunks, C, D, N, True, LINK, Q, MASS, SHRINK, SPLIT, HAS_D_ANCHOR,
        )  # fmt: skip
        dw2 = mm(k_t, load_hidden(keep_r, hidden, BC, N, False), DOT, PRECISION)
        through = mm(q_read_t, load_hidden(keep_dzq, hidden, BC, N, False), DOT, PRECISION)
        d2_ = load_tile(d2, program, columns, hidden, D, N, False) * decay_end
        if FROZEN:
            dw2 += through
        else:
            d2_ += through
        share2 += pull_start(
            d2_, dw2, x2, index, stats2, columns, hidden, d2, d_anchor2, d_end_anchor2, program, j, last, origin,
            num_chunks, C, D, N, False, LINK, Q, MASS, SHRINK, SPLIT, HAS_D_ANCHOR,
        )  # fmt: skip
    tl.debug_barrier()
    if LINK == "lq" or LINK == "pnorm_dual":
        # A running read also sees the norm through its scale.
        coef1 = (Q - 2.0) * norm_to(stats1[1], Q, 2.0 - 2.0 * Q) * (share1 + dscale1)
        coef2 = (Q - 2.0) * norm_to(stats2[1], Q, 2.0 - 2.0 * Q) * (share2 + dscale2)
    else:
        coef1, coef2 = share1 / MASS, share2 / MASS
    if LINK == "lq" or LINK == "pnorm_dual" or LINK == "softmax":
        to1, to2 = d1, d2
        if SPLIT:
            to1, to2 = d_anchor1, d_anchor2
        for t in range(0, N, BN):
            hidden = t + tl.arange(0, BN)
            pull_coupled(to1, coef1, x1, index, stats1, columns, hidden, program, D, N, True, LINK, Q, MASS, SHRINK)
            pull_coupled(to2, coef2, x2, index, stats2, columns, hidden, program, D, N, False, LINK, Q, MASS, SHRINK)
        tl.debug_barrier()


@triton.jit
def pull_start(
    d, dw, x, index, stats, columns, hidden, d_running, d_anchor, d_end_anchor, program, j, last, origin, num_chunks,
    C: tl.constexpr, D: tl.constexpr, N: tl.constexpr, FIRST: tl.constexpr,
    LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
    SPLIT: tl.constexpr, HAS_D_ANCHOR: tl.constexpr,
):  # fmt: skip
    """Store the gradient of a tile at the chunk's start; returns its share of the link's coupling."""
    present = (columns < D)[:, None] & (hidden < N)[None, :]
    a = load_tile(x, index, columns, hidden, D, N, FIRST)
    w = link(a, stats[0], stats[2], stats[3], present, LINK, Q, MASS, SHRINK)
    da = link_vjp(a, w, dw, stats[0], LINK, Q)
    if HAS_D_ANCHOR:
        if (j == num_chunks - 1) & ((last - origin) % C != 0):
            da += load_tile(d_end_anchor, program, columns, hidden, D, N, FIRST)
    if SPLIT:
        store_tile(d_anchor, da, program, columns, hidden, D, N, FIRST)
        store_tile(d_running, d, program, columns, hidden, D, N, FIRST)
    else:
        store_tile(d_running, d + da, program, columns, hidden, D, N, FIRST)
    share = 0.0
    if LINK == "lq" or LINK == "pnorm_dual":
        share = tl.sum(link_share(a, w, dw, LINK, Q))
    if LINK == "softmax":
        share = tl.sum(link_share(a, w, dw, LINK, Q), 1, keep_dims=True)
    return share


@triton.jit
def pull_coupled(
    d, coef, x, index, stats, columns, hidden, program, D: tl.constexpr, N: tl.constexpr, FIRST: tl.constexpr,
    LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
):  # fmt: skip
    """Subtract the coupling of the link from a tile of the gradient at d."""
    present = (columns < D)[:, None] & (hidden < N)[None, :]
    a = load_tile(x, index, columns, hidden, D, N, FIRST)
    w = link(a, stats[0], stats[2], stats[3], present, LINK, Q, MASS, SHRINK)
    da = load_tile(d, program, columns, hidden, D, N, FIRST) - coef * link_direction(a, w, LINK, Q)
    store_tile(d, da, program, columns, hidden, D, N, FIRST)


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
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """d_running1, d_running2 hold the gradient of the memory on the way back."""
    program, h, first, last, origin, num_chunks, checkpoint = walk(plan, position, num_sequences, H, C, HAS_STATE)
    columns = tl.arange(0, BD)
    tiles = scratch + program * 6 * BC * max(BC, BD)
    work += program * 8 * BC * N
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
