"""Backward of the Miras chunk scan: each chunk's forward is computed again, then differentiated in closed form.

Beyond ordinary backpropagation it needs three second-order terms, because the forward already contains a gradient: of
LayerNorm (through its statistics), gelu'' and rho'. Names follow _miras_chunk; d<name> is the gradient of <name>.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import _miras_math as fn
from ._miras_chunk import ChunkInputs, _gained, _mlp_write, inner_error
from ._miras_rule import MirasRule


class _StateGrads(NamedTuple):
    """Gradients of one chunk's starting states: where inner gradients are taken, and what accumulates.

    anchor is None where both are one tensor (identity link, after the first chunk): running then holds the sum.
    """

    anchor: tuple[Tensor, ...] | None
    running: tuple[Tensor, ...]


def scan_backward(
    rule: MirasRule, num_active: list[int], saved: tuple[Tensor, ...], grads: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of all inputs of `ChunkScan`, in their order."""
    size, num = len(ChunkInputs._fields), rule.num_weights
    inputs = ChunkInputs(*saved[:size])
    anchors, starts = saved[size : size + num], saved[size + num :]
    d_out = grads[0]
    d_running = [g.clone() for g in grads[1 : 1 + num]]
    d_last_anchor = grads[1 + num :]
    d_inputs = ChunkInputs(*(None if x is None else torch.zeros_like(x) for x in inputs))  # type: ignore[arg-type]
    step = _mlp_backward if rule.memory == "mlp" else _matrix_backward
    d_anchor: tuple[Tensor, ...] = ()
    rows = inputs.q.shape[1]
    for j in reversed(range(len(num_active))):
        n = num_active[j]
        ended = num_active[j + 1] if j + 1 < len(num_active) else 0
        now = tuple(s[j, :n] for s in starts)
        anchor = tuple(a[:n] for a in anchors) if j == 0 else now
        merge = j > 0 and rule.link == "identity"
        d_end = [g[:n] for g in d_running]
        d = step(rule, inputs.at(j, n), anchor, now, d_out[j, :n], d_end, d_inputs.at(j, n), merge)
        for i in range(num):
            d_start = d.running[i] if d.anchor is None else d.anchor[i]
            if n > ended:
                d_start[ended:] += d_last_anchor[i][ended:n]
            if j > 0 and d.anchor is not None:
                d.running[i].add_(d.anchor[i])
            if n == rows:
                d_running[i] = d.running[i]
            else:
                d_running[i][:n] = d.running[i]
        d_anchor = d.anchor or ()
    return (*d_inputs, *d_anchor, *d_running)


def _decay_backward(
    c: ChunkInputs, d: ChunkInputs, running: tuple[Tensor, ...], d_end: list[Tensor]
) -> tuple[Tensor, ...]:
    """Through the state's decay to the chunk's end; adds to d.decay, returns gradients of the running states."""
    last = c.decay[:, -1]
    if last.shape[-1] == 1:
        pairs = zip(d_end, running, strict=True)
        d.decay[:, -1].add_(sum(torch.linalg.vecdot(g.flatten(1), a.flatten(1)) for g, a in pairs).unsqueeze(-1))
        return tuple(g * last.unsqueeze(2) for g in d_end)
    d_last = torch.einsum("rij,rij->rj", d_end[-1], running[-1])
    d_running: tuple[Tensor, ...] = (d_end[-1] * last.unsqueeze(1),)
    if len(running) == 2:
        d_last = d_last + torch.einsum("rij,rij->ri", d_end[0], running[0])
        d_running = (d_end[0] * last.unsqueeze(2), *d_running)
    d.decay[:, -1].add_(d_last)
    return d_running


def _fit(x: Tensor, like: Tensor) -> Tensor:
    """Sum a per-channel gradient where the gate is per head."""
    return x.sum(-1, keepdim=True) if like.shape[-1] == 1 and x.shape[-1] != 1 else x


def _threshold_backward(rule: MirasRule, c: ChunkInputs, d: ChunkInputs, e: Tensor, dg: Tensor) -> Tensor:
    de, d_threshold = fn.error_gradient_vjp(rule, e, c.threshold, dg)
    if d_threshold is not None and d.threshold is not None:
        d.threshold.add_(d_threshold)
    return de


def _mlp_backward(
    rule: MirasRule,
    c: ChunkInputs,
    anchor: tuple[Tensor, ...],
    running: tuple[Tensor, ...],
    do: Tensor,
    d_end: list[Tensor],
    d: ChunkInputs,
    merge: bool,
) -> _StateGrads:
    lq, reads_running = rule.link == "lq", rule.read_mode == "running"
    scales = [fn.link_scale(rule, a) if lq else None for a in anchor]
    w1, w2 = fn.link(rule, anchor[0], -1), fn.link(rule, anchor[1], -2)
    m = _mlp_write(rule, c, torch.bmm(c.k, w2.mT), w1)
    gained_u = _gained(c, m.u)

    # End state: A1' = decay_C A1 - (w U)' H, A2' = decay_C A2 - R' Kw.
    da1, da2 = _decay_backward(c, d, running, d_end)
    d_written = torch.bmm(m.h, d_end[0].mT).neg_()
    du = d_written * c.write
    d.write.add_(_fit(d_written * m.u, c.write))
    dh = torch.bmm(m.u * c.write, d_end[0]).neg_()
    dr = torch.bmm(c.k_write, d_end[1].mT).neg_()
    d.k_write.baddbmm_(m.r, d_end[1], alpha=-1)

    # Reads.
    d.q.copy_(do)
    dscale: list[Tensor | None] = [None, None]
    if reads_running:
        n2 = torch.baddbmm(torch.bmm(c.q_read, running[1].mT), c.scores, m.r, alpha=-1)
        zq = n2 if scales[1] is None else n2 * scales[1]
        hq, gate_q = fn.gelu_parts(zq)
        raw_p = torch.bmm(hq, m.h.mT)
        p = raw_p * c.mix
        far, near = torch.bmm(hq, running[0].mT), torch.bmm(p, gained_u)
        n1 = far * c.decay - near if c.key_gain is None else (far - near) * c.decay
        yq = n1 if scales[0] is None else n1 * scales[0]
        dn1 = fn.layer_norm_vjp(do, yq, *fn.layer_norm(yq)[1:])
        if scales[0] is not None:
            dscale[0] = (dn1 * n1).sum((-2, -1), keepdim=True)
            dn1 = dn1 * scales[0]
        decayed = dn1 * c.decay
        d_near = dn1 if c.key_gain is None else decayed
        d.decay.add_(_fit(dn1 * (far if c.key_gain is None else far - near), c.decay))
        dhq = torch.bmm(decayed, running[0])
        da1.baddbmm_(decayed.mT, hq)
        d_gained = torch.bmm(p.mT, d_near).neg_()
        if c.key_gain is None:
            du += d_gained
        else:
            du += d_gained * c.key_gain
            assert d.key_gain is not None
            d.key_gain.add_(d_gained * m.u)
        dp = torch.bmm(d_near, gained_u.mT).neg_()
        if c.key_gain is None:
            d.mix.copy_(dp * raw_p)
        dp.mul_(c.mix)
        dhq.baddbmm_(dp, m.h)
        dh.baddbmm_(dp.mT, hq)
        dn2 = dhq.mul_(fn.gelu_slope(zq, gate_q))
        if scales[1] is not None:
            dscale[1] = (dn2 * n2).sum((-2, -1), keepdim=True)
            dn2 = dn2 * scales[1]
        d.q_read.copy_(torch.bmm(dn2, running[1]))
        da2.baddbmm_(dn2.mT, c.q_read)
        d.scores.copy_(torch.bmm(dn2, m.r.mT).neg_())
        dr.baddbmm_(c.scores.mT, dn2, alpha=-1)
        dw1, dw2 = (da1, da2) if merge else (torch.zeros_like(w1), torch.zeros_like(w2))
    else:
        zq = torch.bmm(c.q, w2.mT)
        hq, gate_q = fn.gelu_parts(zq)
        yq = torch.bmm(hq, w1.mT)
        dyq = fn.layer_norm_vjp(do, yq, *fn.layer_norm(yq)[1:])
        dzq = torch.bmm(dyq, w1).mul_(fn.gelu_slope(zq, gate_q))
        d.q.baddbmm_(dzq, w2)
        dw1, dw2 = (da1, da2) if merge else (torch.zeros_like(w1), torch.zeros_like(w2))
        dw1.baddbmm_(dyq.mT, hq)
        dw2.baddbmm_(dzq.mT, c.q)

    # Inner gradient: R = gelu'(Z) X, X = U W1, U = LN' G, G = rho(E).
    dx = dr * m.slope
    dz = dr.mul_(m.x).mul_(fn.gelu_curvature(m.z, m.gate))
    du.baddbmm_(dx, w1.mT)
    dw1.baddbmm_(m.u.mT, dx)
    dg = fn.layer_norm_vjp(du, m.y, m.mean, m.rstd)
    de = _threshold_backward(rule, c, d, m.e, dg)
    d.v.copy_(de.neg())
    dy_hat = (m.g * (du * m.y_hat).mean(-1, keepdim=True) + du * (m.g * m.y_hat).mean(-1, keepdim=True)) * -m.rstd
    if rule.bias != "dot":
        d.k.copy_(de)
        dy_hat += de
    d_log_std = (du * m.u).mean(-1, keepdim=True)
    dy = fn.layer_norm_vjp(dy_hat, m.y, m.mean, m.rstd) - d_log_std * m.rstd * m.y_hat
    dh.baddbmm_(dy, w1)
    dw1.baddbmm_(dy.mT, m.h)
    dz.addcmul_(dh, m.slope)
    d.k.baddbmm_(dz, w2)
    dw2.baddbmm_(dz.mT, c.k)
    if merge:
        return _StateGrads(None, (da1, da2))
    d_anchor = (
        fn.link_vjp(rule, anchor[0], w1, dw1, -1, dscale[0]),
        fn.link_vjp(rule, anchor[1], w2, dw2, -2, dscale[1]),
    )
    return _StateGrads(d_anchor, (da1, da2))


def _matrix_backward(
    rule: MirasRule,
    c: ChunkInputs,
    anchor: tuple[Tensor, ...],
    running: tuple[Tensor, ...],
    do: Tensor,
    d_end: list[Tensor],
    d: ChunkInputs,
    merge: bool,
) -> _StateGrads:
    w = fn.link(rule, anchor[0], -2)
    prediction = c.k if rule.bias == "dot" else torch.bmm(c.k, w.mT)
    e = inner_error(rule, prediction, c.v)
    u = fn.error_gradient(rule, e, c.threshold)

    (da,) = _decay_backward(c, d, running, d_end)
    du = torch.bmm(c.k_write, d_end[0].mT).neg_()
    d.k_write.baddbmm_(u, d_end[0], alpha=-1)
    dscale, dw = None, da if merge else torch.zeros_like(w)
    if rule.read_mode == "running":
        dn = do
        if rule.link == "lq":
            n = torch.baddbmm(torch.bmm(c.q_read, running[0].mT), c.scores, u, alpha=-1)
            dscale = (do * n).sum((-2, -1), keepdim=True)
            dn = do * fn.link_scale(rule, anchor[0])
        d.q_read.copy_(torch.bmm(dn, running[0]))
        da.baddbmm_(dn.mT, c.q_read)
        d.scores.copy_(torch.bmm(dn, u.mT).neg_())
        du.baddbmm_(c.scores.mT, dn, alpha=-1)
    else:
        d.q.copy_(torch.bmm(do, w))
        dw.baddbmm_(do.mT, c.q)
    de = _threshold_backward(rule, c, d, e, du)
    d.v.copy_(de.neg())
    if rule.bias != "dot":
        d.k.copy_(torch.bmm(de, w))
        dw.baddbmm_(de.mT, c.k)
    if merge:
        return _StateGrads(None, (da,))
    return _StateGrads((fn.link_vjp(rule, anchor[0], w, dw, -2, dscale),), (da,))
