"""The passes over tiles of the hidden width that the backward of the MLP memory is made of.

They hand each other `[C, hidden]` rows through `work`, one slot a quantity: holding all of them, and the matrices, in
registers at once would spill. d<name> is the gradient of <name>; names follow _miras_mlp:
  Z = K W2', H = gelu(Z), X = U W1, R = gelu'(Z) X;  Zq = Qd A2' - S R, Hq = gelu(Zq), Yq = decay Hq A1' - P U
`source` is where W is the link of, and how: (W1's, W2's, index, statistics of W1's, of W2's); `state` the memory that
reads meet: (A1's, A2's, index).
"""

import triton
import triton.language as tl

from ._miras_math import (
    gelu_curvature,
    gelu_gate,
    gelu_slope,
    link,
    link_direction,
    link_share,
    link_vjp,
    mm,
)
from ._miras_mlp import load_hidden, load_tile, store_hidden, store_tile

H_, SLOPE, R_, BEND, HQ, DZQ, DR, DX, DZ = (tl.constexpr(i) for i in (0, 1, 2, 3, 4, 5, 6, 7, 2))
"""Slots of `work`: H, gelu', R, X gelu'', Hq, dZq, dR, dX, and dZ once R is no longer needed."""
NUM_SLOTS = 8


@triton.jit
def load_first(
    source, columns, hidden, D: tl.constexpr, N: tl.constexpr,
    LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
):  # fmt: skip
    """Tile of W1 = link(A1), `[D, hidden]`."""
    present = (columns < D)[:, None] & (hidden < N)[None, :]
    a, stats = load_tile(source[0], source[2], columns, hidden, D, N, True), source[3]
    return link(a, stats[0], stats[2], stats[3], present, LINK, Q, MASS, SHRINK)


@triton.jit
def load_second(
    source, columns, hidden, D: tl.constexpr, N: tl.constexpr,
    LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
):  # fmt: skip
    """Tile of W2' = link(A2)', `[D, hidden]`."""
    present = (columns < D)[:, None] & (hidden < N)[None, :]
    a, stats = load_tile(source[1], source[2], columns, hidden, D, N, False), source[4]
    return link(a, stats[0], stats[2], stats[3], present, LINK, Q, MASS, SHRINK)


@triton.jit
def inner_pass(
    u, k, source, work, columns,
    BC: tl.constexpr, D: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The inner gradient again: keeps H, gelu', R and X gelu''."""
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        z = mm(k, load_second(source, columns, hidden, D, N, LINK, Q, MASS, SHRINK), DOT, PRECISION)
        gate = gelu_gate(z)
        slope = gelu_slope(z, gate)
        store_hidden(work + H_ * BC * N, z * gate, hidden, BC, N)
        store_hidden(work + SLOPE * BC * N, slope, hidden, BC, N)
        x = mm(u, load_first(source, columns, hidden, D, N, LINK, Q, MASS, SHRINK), DOT, PRECISION)
        store_hidden(work + R_ * BC * N, slope * x, hidden, BC, N)
        store_hidden(work + BEND * BC * N, gelu_curvature(z, gate) * x, hidden, BC, N)


@triton.jit
def frozen_read_pass(
    q, dyq, source, work, columns,
    BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Reads of the chunk's start: keeps Hq and dZq; returns dQ."""
    dq = tl.zeros((BC, BD), tl.float32)
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        w2 = load_second(source, columns, hidden, D, N, LINK, Q, MASS, SHRINK)
        zq = mm(q, w2, DOT, PRECISION)
        gate = gelu_gate(zq)
        store_hidden(work + HQ * BC * N, zq * gate, hidden, BC, N)
        w1 = load_first(source, columns, hidden, D, N, LINK, Q, MASS, SHRINK)
        dzq = (mm(dyq, w1, DOT, PRECISION) * gelu_slope(zq, gate)).to(DOT)
        store_hidden(work + DZQ * BC * N, dzq, hidden, BC, N)
        dq += mm(dzq, tl.trans(w2), DOT, PRECISION)
    return dq


@triton.jit
def running_read_pass(
    q_read, scores, d_read, dp, scale, state, work, columns,
    BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    LINK: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Reads of the running memory under the link's `scale`: keeps Hq and dZq.

    d_read is the gradient of Hq A1'. Returns H Hq' `[i, t]`, the gradient of Qd, and that of the scale ("lq").
    """
    products_t = tl.zeros((BC, BC), tl.float32)
    dq_read = tl.zeros((BC, BD), tl.float32)
    dscale = 0.0
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        a2 = load_tile(state[1], state[2], columns, hidden, D, N, False)
        zq = mm(q_read, a2, DOT, PRECISION)
        zq -= mm(scores, load_hidden(work + R_ * BC * N, hidden, BC, N, False), DOT, PRECISION)
        if LINK == "lq":
            zq *= scale
        gate = gelu_gate(zq)
        hq = (zq * gate).to(DOT)
        store_hidden(work + HQ * BC * N, hq, hidden, BC, N)
        h = load_hidden(work + H_ * BC * N, hidden, BC, N, False)
        products_t += mm(h, tl.trans(hq), DOT, PRECISION)
        a1 = load_tile(state[0], state[2], columns, hidden, D, N, True)
        dzq = (mm(d_read, a1, DOT, PRECISION) + mm(dp, h, DOT, PRECISION)) * gelu_slope(zq, gate)
        if LINK == "lq":
            dscale += tl.sum(dzq * zq) / scale
            dzq *= scale
        dzq = dzq.to(DOT)
        store_hidden(work + DZQ * BC * N, dzq, hidden, BC, N)
        dq_read += mm(dzq, tl.trans(a2), DOT, PRECISION)
    return products_t, dq_read, dscale


@triton.jit
def gradient_pass(
    k_write, scores_t, source, d2, program, work, columns,
    BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr, FROZEN: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dR from the memory's end (gradient at d2) and from the reads: keeps dR and dX.

    Returns the gradient of U through X = U W1, and of S.
    """
    du = tl.zeros((BC, BD), tl.float32)
    dscores = tl.zeros((BC, BC), tl.float32)
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        dr = -mm(k_write, load_tile(d2, program, columns, hidden, D, N, False), DOT, PRECISION)
        if not FROZEN:
            dzq = load_hidden(work + DZQ * BC * N, hidden, BC, N, False)
            dr -= mm(scores_t, dzq, DOT, PRECISION)
            dscores -= mm(dzq, load_hidden(work + R_ * BC * N, hidden, BC, N, True), DOT, PRECISION)
        store_hidden(work + DR * BC * N, dr, hidden, BC, N)
        dx = (dr * load_hidden(work + SLOPE * BC * N, hidden, BC, N, False)).to(DOT)
        store_hidden(work + DX * BC * N, dx, hidden, BC, N)
        w1 = load_first(source, columns, hidden, D, N, LINK, Q, MASS, SHRINK)
        du += mm(dx, tl.trans(w1), DOT, PRECISION)
    return du, dscores


@triton.jit
def write_pass(
    state, d1, d2, program, work, columns,
    BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Through A1' = decay_C A1 - (write U)' H and A2' = decay_C A2 - R' (write K), gradients at d1, d2.

    Returns the gradients of write U and of write K, and `[BD]` that of decay_C by channel.
    """
    du_write = tl.zeros((BC, BD), tl.float32)
    dk_write = tl.zeros((BC, BD), tl.float32)
    kept = tl.zeros((BD,), tl.float32)
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        d = load_tile(d1, program, columns, hidden, D, N, True)
        du_write -= mm(load_hidden(work + H_ * BC * N, hidden, BC, N, False), tl.trans(d), DOT, PRECISION)
        kept += tl.sum(d * load_tile(state[0], state[2], columns, hidden, D, N, True), 1)
        d = load_tile(d2, program, columns, hidden, D, N, False)
        dk_write -= mm(load_hidden(work + R_ * BC * N, hidden, BC, N, False), tl.trans(d), DOT, PRECISION)
        kept += tl.sum(d * load_tile(state[1], state[2], columns, hidden, D, N, False), 1)
    return du_write, dk_write, kept


@triton.jit
def hidden_pass(
    dy, u_write, dp_t, source, d1, program, work, columns,
    BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr, FROZEN: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dH and from it dZ, kept in the place of R; returns what dZ gives to the keys."""
    dk = tl.zeros((BC, BD), tl.float32)
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        dh = mm(dy, load_first(source, columns, hidden, D, N, LINK, Q, MASS, SHRINK), DOT, PRECISION)
        dh -= mm(u_write, load_tile(d1, program, columns, hidden, D, N, True), DOT, PRECISION)
        if not FROZEN:
            dh += mm(dp_t, load_hidden(work + HQ * BC * N, hidden, BC, N, False), DOT, PRECISION)
        dz = dh * load_hidden(work + SLOPE * BC * N, hidden, BC, N, False)
        dr = load_hidden(work + DR * BC * N, hidden, BC, N, False).to(tl.float32)
        dz = (dz + dr * load_hidden(work + BEND * BC * N, hidden, BC, N, False)).to(DOT)
        store_hidden(work + DZ * BC * N, dz, hidden, BC, N)
        w2 = load_second(source, columns, hidden, D, N, LINK, Q, MASS, SHRINK)
        dk += mm(dz, tl.trans(w2), DOT, PRECISION)
    return dk


@triton.jit
def start_pass(
    dy_t, u_t, d_read_t, k_t, q_read_t, decay_end, source, d1, d2, d_anchor1, d_anchor2, d_end_anchor1, d_end_anchor2,
    program, is_end, work, columns,
    BC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr, FROZEN: tl.constexpr,
    SPLIT: tl.constexpr, HAS_D_ANCHOR: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the memory at the chunk's start; returns the sums that couple the entries of W1 and of W2."""
    share1, share2 = 0.0, 0.0
    if LINK == "softmax":
        share1, share2 = tl.zeros((BD, 1), tl.float32), tl.zeros((BD, 1), tl.float32)
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        dw = mm(dy_t, load_hidden(work + H_ * BC * N, hidden, BC, N, False), DOT, PRECISION)
        dw += mm(u_t, load_hidden(work + DX * BC * N, hidden, BC, N, False), DOT, PRECISION)
        read = mm(d_read_t, load_hidden(work + HQ * BC * N, hidden, BC, N, False), DOT, PRECISION)
        share1 += store_start(
            dw, read, decay_end, source[0], source[2], source[3], d1, d_anchor1, d_end_anchor1, program, is_end,
            columns, hidden, D, N, True, LINK, Q, MASS, SHRINK, FROZEN, SPLIT, HAS_D_ANCHOR,
        )  # fmt: skip
        dw = mm(k_t, load_hidden(work + DZ * BC * N, hidden, BC, N, False), DOT, PRECISION)
        read = mm(q_read_t, load_hidden(work + DZQ * BC * N, hidden, BC, N, False), DOT, PRECISION)
        share2 += store_start(
            dw, read, decay_end, source[1], source[2], source[4], d2, d_anchor2, d_end_anchor2, program, is_end,
            columns, hidden, D, N, False, LINK, Q, MASS, SHRINK, FROZEN, SPLIT, HAS_D_ANCHOR,
        )  # fmt: skip
    return share1, share2


@triton.jit
def store_start(
    dw, read, decay_end, x, index, stats, d, d_anchor, d_end_anchor, program, is_end, columns, hidden,
    D: tl.constexpr, N: tl.constexpr, FIRST: tl.constexpr,
    LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr, FROZEN: tl.constexpr,
    SPLIT: tl.constexpr, HAS_D_ANCHOR: tl.constexpr,
):  # fmt: skip
    """One tile: dW and the reads' share pulled back to the accumulators; is_end: an end's anchor adds its gradient."""
    present = (columns < D)[:, None] & (hidden < N)[None, :]
    running = load_tile(d, program, columns, hidden, D, N, FIRST) * decay_end
    if FROZEN:
        dw += read
    else:
        running += read
    a = load_tile(x, index, columns, hidden, D, N, FIRST)
    w = link(a, stats[0], stats[2], stats[3], present, LINK, Q, MASS, SHRINK)
    da = link_vjp(a, w, dw, stats[0], LINK, Q)
    if HAS_D_ANCHOR:
        if is_end:
            da += load_tile(d_end_anchor, program, columns, hidden, D, N, FIRST)
    if SPLIT:
        store_tile(d_anchor, da, program, columns, hidden, D, N, FIRST)
        store_tile(d, running, program, columns, hidden, D, N, FIRST)
    else:
        store_tile(d, running + da, program, columns, hidden, D, N, FIRST)
    share = 0.0
    if LINK == "lq" or LINK == "pnorm_dual":
        share = tl.sum(link_share(a, w, dw, LINK, Q))
    if LINK == "softmax":
        share = tl.sum(link_share(a, w, dw, LINK, Q), 1, keep_dims=True)
    return share


@triton.jit
def coupling_pass(
    coef, x, index, stats, d, program, columns,
    D: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, FIRST: tl.constexpr,
    LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr,
):  # fmt: skip
    """Subtract from the gradient at d what couples the entries of the matrix or of a softmax slice."""
    for t in range(0, N, BN):
        hidden = t + tl.arange(0, BN)
        present = (columns < D)[:, None] & (hidden < N)[None, :]
        a = load_tile(x, index, columns, hidden, D, N, FIRST)
        w = link(a, stats[0], stats[2], stats[3], present, LINK, Q, MASS, SHRINK)
        da = load_tile(d, program, columns, hidden, D, N, FIRST) - coef * link_direction(a, w, LINK, Q)
        store_tile(d, da, program, columns, hidden, D, N, FIRST)
