"""MLP memory x + LN(W1 gelu(W2 x)), forward: one program per (sequence, head).

The state (D = 64: 128 KB in float32) stays in global memory, in practice in the L2 cache, and passes through the
registers in tiles of the hidden width, three times per chunk: to predict, to read, to update. Tiles lie
`[D, hidden]`, W2 transposed, so that no product of matrices is transposed. Names as in memarch.ops._miras_chunk.
"""

import triton
import triton.language as tl

from ._miras_gates import as_row, causal, chunk_rows, load_gate, load_rows, pairwise, store_rows, walk
from ._miras_math import error_gradient, gelu_gate, gelu_slope, layer_norm, link, mm, norm_to, power


@triton.jit
def load_tile(x, index, columns, hidden, D: tl.constexpr, N: tl.constexpr, FIRST: tl.constexpr):
    """`[D, hidden]` float32 tile of matrix `index`: of W1 `[.., D, N]` if FIRST, else of W2 `[.., N, D]`."""
    mask = (columns < D)[:, None] & (hidden < N)[None, :]
    if FIRST:
        at = columns[:, None] * N + hidden[None, :]
    else:
        at = columns[:, None] + hidden[None, :] * D
    return tl.load(x + index * D * N + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_tile(x, value, index, columns, hidden, D: tl.constexpr, N: tl.constexpr, FIRST: tl.constexpr):
    mask = (columns < D)[:, None] & (hidden < N)[None, :]
    if FIRST:
        at = columns[:, None] * N + hidden[None, :]
    else:
        at = columns[:, None] + hidden[None, :] * D
    tl.store(x + index * D * N + at, value, mask=mask)


@triton.jit
def link_stats(
    x, index, columns, D: tl.constexpr, N: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
    FIRST: tl.constexpr, LINK: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """What the link needs of a whole matrix: (|A|_q^(2-q), sum of |a|^q, largest logit, sum of exponentials)."""
    scale, total = 1.0, 1.0
    top = tl.full((BD, 1), float("-inf"), tl.float32)
    mass = tl.zeros((BD, 1), tl.float32)
    if LINK == "lq" or LINK == "pnorm_dual":
        total = 0.0
        for t in range(0, N, BN):
            a = load_tile(x, index, columns, t + tl.arange(0, BN), D, N, FIRST)
            total += tl.sum(power(tl.abs(a), Q))
        scale = norm_to(total, Q, 2.0 - Q)
    if LINK == "softmax":
        for t in range(0, N, BN):
            hidden = t + tl.arange(0, BN)
            a = load_tile(x, index, columns, hidden, D, N, FIRST)
            a = tl.where((hidden < N)[None, :], a, float("-inf"))
            higher = tl.maximum(top, tl.max(a, 1, keep_dims=True))
            mass = mass * tl.exp(top - higher) + tl.sum(tl.exp(a - higher), 1, keep_dims=True)
            top = higher
    return scale, total, top, mass


@triton.jit
def load_hidden(x, hidden, BC: tl.constexpr, N: tl.constexpr, TRANSPOSED: tl.constexpr):
    """`[BC, hidden]` tile of the rows kept at x, or its transpose."""
    rows = tl.arange(0, BC)
    if TRANSPOSED:
        tile = tl.load(x + hidden[:, None] + rows[None, :] * N, mask=(hidden < N)[:, None], other=0.0)
    else:
        tile = tl.load(x + rows[:, None] * N + hidden[None, :], mask=(hidden < N)[None, :], other=0.0)
    return tile


@triton.jit
def store_hidden(x, value, hidden, BC: tl.constexpr, N: tl.constexpr):
    tl.store(x + tl.arange(0, BC)[:, None] * N + hidden[None, :], value, mask=(hidden < N)[None, :])


@triton.jit
def predict(
    k, x1, x2, index, stats1, stats2, columns, keep_hidden, keep_slope,
    BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Y = gelu(K W2') W1' before LayerNorm, `[BC, BD]`, W the link of the matrices at x1, x2; keeps H and gelu'."""
    y = tl.zeros((BC, BD), tl.float32)
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        present = (columns < D)[:, None] & (hidden < N)[None, :]
        a2 = load_tile(x2, index, columns, hidden, D, N, False)
        z = mm(k, link(a2, stats2[0], stats2[2], stats2[3], present, LINK, Q, MASS, SHRINK), DOT, PRECISION)
        gate = gelu_gate(z)
        h = (z * gate).to(DOT)
        store_hidden(keep_hidden, h, hidden, BC, N)
        store_hidden(keep_slope, gelu_slope(z, gate), hidden, BC, N)
        a1 = load_tile(x1, index, columns, hidden, D, N, True)
        w1 = link(a1, stats1[0], stats1[2], stats1[3], present, LINK, Q, MASS, SHRINK)
        y += mm(h, tl.trans(w1), DOT, PRECISION)
    return y


@triton.jit
def inner_error(y, k, v, delta, inside, D: tl.constexpr, BIAS: tl.constexpr, HUBER: tl.constexpr, P: tl.constexpr):
    """(E, LN(Y), 1 / standard deviation, G = rho(E), U = gradient of the loss with respect to Y)."""
    y_hat, rstd = layer_norm(y, inside, D)
    e = -v.to(tl.float32)
    if BIAS != "dot":
        e += k + y_hat
    g = error_gradient(e, delta, BIAS, HUBER, P)
    mean = tl.sum(g, 1, keep_dims=True) / D
    along = tl.sum(g * y_hat, 1, keep_dims=True) / D
    u = tl.where(inside, (g - mean - y_hat * along) * rstd, 0.0)
    return e, y_hat, rstd, g, u


@triton.jit
def tile_at(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Offsets of a dense `[ROWS, COLUMNS]` tile."""
    return tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]


@triton.jit
def transposed_at(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Offsets that read a dense `[ROWS, COLUMNS]` tile as `[COLUMNS, ROWS]`."""
    return tl.arange(0, ROWS)[None, :] * COLUMNS + tl.arange(0, COLUMNS)[:, None]


@triton.jit
def exchange(x, value, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Transpose through memory at x: see _miras_matrix_backward for why not in registers. Contains a barrier."""
    tl.store(x + tile_at(ROWS, COLUMNS), value)
    tl.debug_barrier()
    return tl.load(x + transposed_at(ROWS, COLUMNS))


@triton.jit
def forward_chunk(
    j, h, H, program, first, last, origin, num_chunks, checkpoint, columns,
    q, k, v, log_decay, step_size, threshold, anchor1, anchor2, source,
    o, end1, end2, end_anchor1, end_anchor2, checkpoint1, checkpoint2, y_saved, yq_saved, scratch, work,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    G: tl.constexpr, BIAS: tl.constexpr, HUBER: tl.constexpr, LINK: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
    FROZEN: tl.constexpr, CHANNEL: tl.constexpr, DELTA: tl.constexpr, DELTA_CHANNEL: tl.constexpr,
    SPLIT: tl.constexpr, SAVE: tl.constexpr, STORE_ANCHOR: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk. SPLIT: its gradients are taken at `anchor1`, `anchor2` instead of the running memory."""
    row, valid = chunk_rows(j, h, H, first, last, origin, C, BC)
    inside = (columns < D)[None, :]
    x1, x2, index = end1, end2, program
    if SPLIT:
        x1, x2, index = anchor1, anchor2, source
    stats1 = link_stats(x1, index, columns, D, N, BD, BN, True, LINK, Q)
    stats2 = link_stats(x2, index, columns, D, N, BD, BN, False, LINK, Q)
    work += program * 3 * BC * N
    # Rows are loaded again where they are needed again: holding them across the loops would cost registers.
    y = predict(
        load_rows(k, row, valid, columns, D), x1, x2, index, stats1, stats2, columns, work, work + BC * N,
        BC, D, BD, N, BN, LINK, Q, MASS, SHRINK, DOT, PRECISION,
    )  # fmt: skip
    if SAVE:
        store_rows(y_saved, y, row, valid, columns, D)
    delta = 0.0
    if DELTA:
        delta = load_gate(threshold, row, valid, columns, D, DELTA_CHANNEL)
    k_, v_ = load_rows(k, row, valid, columns, D), load_rows(v, row, valid, columns, D)
    _, _, _, _, u = inner_error(y, k_, v_, delta, inside, D, BIAS, HUBER, P)
    tiles = scratch + program * 2 * BC * max(BC, BD)
    tl.store(tiles + tile_at(BC, BD), u)
    tl.debug_barrier()

    if not FROZEN:
        log_a = load_gate(log_decay, row, valid, columns, D, CHANNEL)
        step = load_gate(step_size, row, valid, columns, D, CHANNEL)
        b = tl.cumsum(log_a, 0)
        q_ = load_rows(q, row, valid, columns, D)
        k_ = load_rows(k, row, valid, columns, D)
        q_read = (q_ * tl.exp(b)).to(DOT)
        if CHANNEL:
            k_gained = k_ * (tl.exp(-b) * step)
            scores = tl.where(causal(BC), mm(q_read, tl.trans(k_gained), DOT, PRECISION), 0.0).to(DOT)
        else:
            scores = (pairwise(b, BC) * as_row(step) * mm(q_, tl.trans(k_), DOT, PRECISION)).to(DOT)
    else:
        q_read = load_rows(q, row, valid, columns, D)
    u = tl.load(tiles + tile_at(BC, BD))
    yq = tl.zeros((BC, BD), tl.float32)
    products = tl.zeros((BC, BC), tl.float32)
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        present = (columns < D)[:, None] & (hidden < N)[None, :]
        start1 = load_tile(x1, index, columns, hidden, D, N, True)
        w1 = link(start1, stats1[0], stats1[2], stats1[3], present, LINK, Q, MASS, SHRINK)
        r = (load_hidden(work + BC * N, hidden, BC, N, False) * mm(u, w1, DOT, PRECISION)).to(DOT)
        store_hidden(work + 2 * BC * N, r, hidden, BC, N)
        if FROZEN:
            start2 = load_tile(x2, index, columns, hidden, D, N, False)
            w2 = link(start2, stats2[0], stats2[2], stats2[3], present, LINK, Q, MASS, SHRINK)
            zq = mm(q_read, w2, DOT, PRECISION)
            yq += mm(zq * gelu_gate(zq), tl.trans(w1), DOT, PRECISION)
        else:
            zq = mm(q_read, load_tile(end2, program, columns, hidden, D, N, False), DOT, PRECISION)
            zq -= mm(scores, r, DOT, PRECISION)
            if LINK == "lq":
                zq *= stats2[0]
            hq = (zq * gelu_gate(zq)).to(DOT)
            products += mm(hq, load_hidden(work, hidden, BC, N, True), DOT, PRECISION)
            a1 = load_tile(end1, program, columns, hidden, D, N, True)
            yq += mm(hq, tl.trans(a1), DOT, PRECISION)
    log_a = load_gate(log_decay, row, valid, columns, D, CHANNEL)
    step = load_gate(step_size, row, valid, columns, D, CHANNEL)
    b = tl.cumsum(log_a, 0)
    u = tl.load(tiles + tile_at(BC, BD))
    if not FROZEN:
        if CHANNEL:
            near = mm(tl.where(causal(BC), products, 0.0), u * (tl.exp(-b) * step), DOT, PRECISION)
            yq = (yq - near) * tl.exp(b)
        else:
            yq = yq * tl.exp(b) - mm(products * pairwise(b, BC) * as_row(step), u, DOT, PRECISION)
        if LINK == "lq":
            yq *= stats1[0]
    if SAVE:
        store_rows(yq_saved, yq, row, valid, columns, D)
    read, _ = layer_norm(yq, inside, D)
    store_rows(o, load_rows(q, row, valid, columns, D) + read, row, valid, columns, D)

    # The memory at the chunk's end; the barrier within `exchange` also waits for the tiles of R.
    sum_b = tl.sum(log_a, 0, keep_dims=True)
    write = tl.exp(sum_b - b) * step
    decay_end = tl.sum(tl.exp(sum_b), 0)[:, None]
    u_write_t = exchange(tiles + BC * max(BC, BD), (u * write).to(DOT), BC, BD)
    k_write_t = tl.trans((load_rows(k, row, valid, columns, D) * write).to(DOT))
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        a1 = load_tile(end1, program, columns, hidden, D, N, True)
        a2 = load_tile(end2, program, columns, hidden, D, N, False)
        if SAVE:
            if j % G == 0:
                store_tile(checkpoint1, a1, (checkpoint + j // G) * H + h, columns, hidden, D, N, True)
                store_tile(checkpoint2, a2, (checkpoint + j // G) * H + h, columns, hidden, D, N, False)
        end_a1 = a1 * decay_end - mm(u_write_t, load_hidden(work, hidden, BC, N, False), DOT, PRECISION)
        end_a2 = a2 * decay_end - mm(k_write_t, load_hidden(work + 2 * BC * N, hidden, BC, N, False), DOT, PRECISION)
        store_tile(end1, end_a1, program, columns, hidden, D, N, True)
        store_tile(end2, end_a2, program, columns, hidden, D, N, False)
        if STORE_ANCHOR:
            if j == num_chunks - 1:
                # An end on a chunk's boundary starts the next chunk from where it is.
                renewed = (last - origin) % C == 0
                start1, start2 = a1, a2
                if SPLIT:
                    start1 = load_tile(anchor1, source, columns, hidden, D, N, True)
                    start2 = load_tile(anchor2, source, columns, hidden, D, N, False)
                store_tile(end_anchor1, tl.where(renewed, end_a1, start1), program, columns, hidden, D, N, True)
                store_tile(end_anchor2, tl.where(renewed, end_a2, start2), program, columns, hidden, D, N, False)
    tl.debug_barrier()


@triton.jit
def mlp_forward(
    q, k, v, log_decay, step_size, threshold, anchor1, anchor2, plan, position,
    o, end1, end2, end_anchor1, end_anchor2, checkpoint1, checkpoint2, y_saved, yq_saved, scratch, work,
    num_sequences, H,
    C: tl.constexpr, BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    G: tl.constexpr, BIAS: tl.constexpr, HUBER: tl.constexpr, LINK: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
    FROZEN: tl.constexpr, CHANNEL: tl.constexpr, DELTA: tl.constexpr, DELTA_CHANNEL: tl.constexpr,
    HAS_STATE: tl.constexpr, SAVE: tl.constexpr, STORE_ANCHOR: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """end1, end2 hold the running memory on entry and at every chunk's end."""
    program, h, first, last, origin, num_chunks, checkpoint = walk(plan, position, num_sequences, H, C, HAS_STATE)
    columns = tl.arange(0, BD)
    done = 0
    if HAS_STATE:
        forward_chunk(
            0, h, H, program, first, last, origin, num_chunks, checkpoint, columns,
            q, k, v, log_decay, step_size, threshold, anchor1, anchor2, program,
            o, end1, end2, end_anchor1, end_anchor2, checkpoint1, checkpoint2, y_saved, yq_saved, scratch, work,
            C, BC, D, BD, N, BN, G, BIAS, HUBER, LINK, P, Q, MASS, SHRINK, FROZEN, CHANNEL, DELTA, DELTA_CHANNEL,
            True, SAVE, STORE_ANCHOR, DOT, PRECISION,
        )  # fmt: skip
        done = 1
    for j in range(done, num_chunks):
        forward_chunk(
            j, h, H, program, first, last, origin, num_chunks, checkpoint, columns,
            q, k, v, log_decay, step_size, threshold, anchor1, anchor2, program,
            o, end1, end2, end_anchor1, end_anchor2, checkpoint1, checkpoint2, y_saved, yq_saved, scratch, work,
            C, BC, D, BD, N, BN, G, BIAS, HUBER, LINK, P, Q, MASS, SHRINK, FROZEN, CHANNEL, DELTA, DELTA_CHANNEL,
            False, SAVE, STORE_ANCHOR, DOT, PRECISION,
        )  # fmt: skip
