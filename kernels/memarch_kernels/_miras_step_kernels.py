"""One token of Miras memory: one program per (sequence, head), for the matrix memory and a slice of values.

The state is read once more than it is written, and nothing else of size moves: a tile is updated and read with q while
it is in registers. There is one row of tokens, so products with the memory are sums over a tile in float32. A program
overwrites memory that its own threads still read, and threads may hold copies of an entry: hence the barriers.
"""

import triton
import triton.language as tl

from ._miras_math import error_gradient, gelu_gate, gelu_slope, layer_norm, layer_norm_vjp, link, norm_to, power


@triton.jit
def arrive(position, n, visitors, C: tl.constexpr, IN_PLACE: tl.constexpr):
    """Tokens that sequence n has seen of its chunk; in place, the position moves on.

    Every program of the sequence adds one to the upper half of the word. The last of the `visitors` writes the new
    position: by then all have read the old one.
    """
    if IN_PLACE:
        word = tl.atomic_add(position + n, tl.full((), 1 << 32, tl.int64))
        seen = word & 0xFFFFFFFF
        if (word >> 32) == visitors - 1:
            tl.store(position + n, (seen + 1) % C)
    else:
        seen = tl.load(position + n)
    return seen


@triton.jit
def load_row(x, program, columns, D: tl.constexpr):
    """`[1, BD]` float32 of this head's token."""
    return tl.load(x + program * D + columns, mask=columns < D, other=0.0).to(tl.float32)[None, :]


@triton.jit
def load_gate(x, program, columns, D: tl.constexpr, CHANNEL: tl.constexpr):
    """A gate in float32: `[BD]` per channel, `[1]` per head."""
    if CHANNEL:
        gate = tl.load(x + program * D + columns, mask=columns < D, other=0.0)
    else:
        gate = tl.load(x + program + tl.arange(0, 1))
    return gate.to(tl.float32)


@triton.jit
def matrix_step(
    q, k, v, log_decay, step_size, threshold, position, anchor, running, o, end, H,
    C: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    BIAS: tl.constexpr, HUBER: tl.constexpr, LINK: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr, FROZEN: tl.constexpr,
    DECAY_CHANNEL: tl.constexpr, STEP_CHANNEL: tl.constexpr, DELTA: tl.constexpr, DELTA_CHANNEL: tl.constexpr,
    IN_PLACE: tl.constexpr,
):  # fmt: skip
    """W `[value, key]`: u = rho(W k - v);  A <- a A - u (eta k)';  o = A q. `end` is `running` in place."""
    program = tl.program_id(0).to(tl.int64)
    seen = arrive(position, program // H, H * tl.num_programs(1), C, IN_PLACE)
    keys = tl.arange(0, BD)
    values = tl.program_id(1) * BV + tl.arange(0, BV)
    present = (values < D)[:, None] & (keys < D)[None, :]
    at = program * D * D + values[:, None] * D + keys[None, :]
    a = tl.load(running + at, mask=present, other=0.0)
    # At a chunk's start the anchor is the running memory: it is not read again.
    start = tl.where(seen == 0, a, tl.load(anchor + at, mask=present & (seen != 0), other=0.0))
    q_ = load_row(q, program, keys, D)
    k_ = load_row(k, program, keys, D)
    e = -load_row(v, program, values, D)
    delta = 0.0
    if DELTA:
        delta = load_gate(threshold, program, values, D, DELTA_CHANNEL)[None, :]
    decay = tl.exp(load_gate(log_decay, program, keys, D, DECAY_CHANNEL))[None, :]
    step = load_gate(step_size, program, keys, D, STEP_CHANNEL)[None, :]

    scale = 1.0
    top, mass = tl.zeros((1, BD), tl.float32), tl.zeros((1, BD), tl.float32) + 1.0
    if LINK == "lq" or LINK == "pnorm_dual":
        scale = norm_to(tl.sum(power(tl.abs(start), Q)), Q, 2.0 - Q)
    if LINK == "softmax":
        logits = tl.where((values < D)[:, None], start, float("-inf"))
        top = tl.max(logits, 0, keep_dims=True)
        mass = tl.sum(tl.exp(logits - top), 0, keep_dims=True)
    w = link(start, scale, top, mass, present, LINK, Q, MASS, SHRINK)
    if BIAS != "dot":
        e += tl.sum(w * k_, 1)[None, :]
    u = tl.sum(error_gradient(e, delta, BIAS, HUBER, P), 0)[:, None]
    a = a * decay - u * (step * k_)
    if FROZEN:
        out = tl.sum(w * q_, 1)
    elif LINK == "lq":
        out = tl.sum(a * q_, 1) * scale
    else:
        out = tl.sum(a * q_, 1)
    tl.store(o + program * D + values, out, mask=values < D)
    tl.debug_barrier()
    tl.store(end + at, a, mask=present)
    if IN_PLACE:
        tl.store(anchor + at, a, mask=present & (seen == C - 1))


@triton.jit
def hidden_tile(t, columns, D: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, FIRST: tl.constexpr):
    """Hidden units t to t + BN of W1 `[D, N]` if FIRST, else of W2 `[N, D]`: where they lie, and which exist."""
    hidden = t + tl.arange(0, BN)
    if FIRST:
        at = columns[:, None] * N + hidden[None, :]
        present = (columns < D)[:, None] & (hidden < N)[None, :]
    else:
        at = hidden[:, None] * D + columns[None, :]
        present = (hidden < N)[:, None] & (columns < D)[None, :]
    return at, present


@triton.jit
def link_stats(
    x, columns, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    FIRST: tl.constexpr, LINK: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """What the link needs of a whole matrix: (|A|_q^(2-q), largest logit and sum of exponentials of every channel)."""
    scale = 1.0
    axis: tl.constexpr = 1 if FIRST else 0
    top = tl.expand_dims(tl.full((BD,), float("-inf"), tl.float32), axis)
    mass = tl.expand_dims(tl.zeros((BD,), tl.float32), axis)
    if LINK == "lq" or LINK == "pnorm_dual":
        total = 0.0
        for t in range(0, N, BN):
            at, present = hidden_tile(t, columns, D, N, BN, FIRST)
            total += tl.sum(power(tl.abs(tl.load(x + at, mask=present, other=0.0)), Q))
        scale = norm_to(total, Q, 2.0 - Q)
    if LINK == "softmax":
        for t in range(0, N, BN):
            at, present = hidden_tile(t, columns, D, N, BN, FIRST)
            a = tl.load(x + at, mask=present, other=0.0)
            exists = tl.expand_dims(t + tl.arange(0, BN) < N, 1 - axis)
            a = tl.where(exists, a, float("-inf"))
            higher = tl.maximum(top, tl.max(a, axis, keep_dims=True))
            mass = mass * tl.exp(top - higher) + tl.sum(tl.exp(a - higher), axis, keep_dims=True)
            top = higher
    return scale, top, mass


@triton.jit
def mlp_step(
    q, k, v, log_decay, step_size, threshold, position, anchor1, anchor2, running1, running2, o, end1, end2, H,
    C: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    BIAS: tl.constexpr, HUBER: tl.constexpr, LINK: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr, FROZEN: tl.constexpr,
    DECAY_CHANNEL: tl.constexpr, STEP_CHANNEL: tl.constexpr, DELTA: tl.constexpr, DELTA_CHANNEL: tl.constexpr,
    IN_PLACE: tl.constexpr,
):  # fmt: skip
    """x + LN(W1 gelu(W2 x)); tiles lie as in memory. `end1`, `end2` are `running1`, `running2` in place."""
    program = tl.program_id(0).to(tl.int64)
    seen = arrive(position, program // H, H, C, IN_PLACE)
    base = program * D * N
    anchor1, anchor2, running1, running2 = anchor1 + base, anchor2 + base, running1 + base, running2 + base
    end1, end2 = end1 + base, end2 + base
    start1, start2 = anchor1, anchor2
    if seen == 0:
        start1, start2 = running1, running2
    columns = tl.arange(0, BD)
    inside = (columns < D)[None, :]
    k_, q_ = load_row(k, program, columns, D), load_row(q, program, columns, D)
    scale1, top1, mass1 = link_stats(start1, columns, D, BD, N, BN, True, LINK, Q)
    scale2, top2, mass2 = link_stats(start2, columns, D, BD, N, BN, False, LINK, Q)

    sums = tl.zeros((BD, BN), tl.float32)
    read_sums = tl.zeros((BD, BN), tl.float32)
    for t in range(0, N, BN):
        at1, present1 = hidden_tile(t, columns, D, N, BN, True)
        at2, present2 = hidden_tile(t, columns, D, N, BN, False)
        s2 = tl.load(start2 + at2, mask=present2, other=0.0)
        s1 = tl.load(start1 + at1, mask=present1, other=0.0)
        w2 = link(s2, scale2, top2, mass2, present2, LINK, Q, MASS, SHRINK)
        w1 = link(s1, scale1, top1, mass1, present1, LINK, Q, MASS, SHRINK)
        z = tl.sum(w2 * k_, 1)
        sums += w1 * (z * gelu_gate(z))[None, :]
        if FROZEN:
            zq = tl.sum(w2 * q_, 1)
            read_sums += w1 * (zq * gelu_gate(zq))[None, :]
    y_hat, rstd = layer_norm(tl.sum(sums, 1)[None, :], inside, D)
    e = -load_row(v, program, columns, D)
    if BIAS != "dot":
        e += k_ + y_hat
    delta = 0.0
    if DELTA:
        delta = load_gate(threshold, program, columns, D, DELTA_CHANNEL)[None, :]
    g = error_gradient(e, delta, BIAS, HUBER, P)
    u = tl.sum(layer_norm_vjp(g, y_hat, rstd, inside, D), 0)
    decay = tl.exp(load_gate(log_decay, program, columns, D, DECAY_CHANNEL))
    step = load_gate(step_size, program, columns, D, STEP_CHANNEL)
    u_write, k_write = (step * u)[:, None], step[None, :] * k_

    for t in range(0, N, BN):
        at1, present1 = hidden_tile(t, columns, D, N, BN, True)
        at2, present2 = hidden_tile(t, columns, D, N, BN, False)
        a1 = tl.load(running1 + at1, mask=present1, other=0.0)
        a2 = tl.load(running2 + at2, mask=present2, other=0.0)
        # At a chunk's start the anchor is the running memory: it is not read again.
        s1 = tl.where(seen == 0, a1, tl.load(anchor1 + at1, mask=present1 & (seen != 0), other=0.0))
        s2 = tl.where(seen == 0, a2, tl.load(anchor2 + at2, mask=present2 & (seen != 0), other=0.0))
        w1 = link(s1, scale1, top1, mass1, present1, LINK, Q, MASS, SHRINK)
        w2 = link(s2, scale2, top2, mass2, present2, LINK, Q, MASS, SHRINK)
        z = tl.sum(w2 * k_, 1)
        gate = gelu_gate(z)
        r = gelu_slope(z, gate) * tl.sum(w1 * u[:, None], 0)
        a1 = a1 * decay[:, None] - u_write * (z * gate)[None, :]
        a2 = a2 * decay[None, :] - r[:, None] * k_write
        if not FROZEN:
            zq = tl.sum(a2 * q_, 1)
            if LINK == "lq":
                zq *= scale2
            read_sums += a1 * (zq * gelu_gate(zq))[None, :]
        tl.debug_barrier()
        tl.store(end1 + at1, a1, mask=present1)
        tl.store(end2 + at2, a2, mask=present2)
        if IN_PLACE:
            tl.store(anchor1 + at1, a1, mask=present1 & (seen == C - 1))
            tl.store(anchor2 + at2, a2, mask=present2 & (seen == C - 1))
    yq = tl.sum(read_sums, 1)[None, :]
    if not FROZEN and LINK == "lq":
        yq *= scale1
    read, _ = layer_norm(yq, inside, D)
    tl.store(o + program * D + columns[None, :], q_ + read, mask=inside)
