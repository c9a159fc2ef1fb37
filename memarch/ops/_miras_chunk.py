"""Miras chunk by chunk in matrix products, with its own backward (closed form, recomputing each chunk).

All inner gradients of a chunk are taken at its start (arXiv 2504.13173, Eqs. 28-32), so that the tokens of a chunk meet
only in the causal products S and P. Reads see either the running memory under the link scale of the chunk's start
("running") or the chunk's start itself ("frozen"). Saved for the backward: inputs and one state per chunk.

Notation, per chunk and row (rows are (sequence, head) pairs; C tokens, head width D, hidden width N):
  W = link(anchor); Z = K W2', H = gelu(Z), Y = H W1', E = K + LN(Y) - V, G = rho(E), U = dE/dY' G, R = gelu'(Z) (U W1)
  Zq = c2 (Qd A2' - S R), Hq = gelu(Zq), P = mix * Hq Hq-to-H products, Yq = c1 (decay * Hq A1' - P U), O = Q + LN(Yq)
  A1 <- decay_C A1 - (w U)' H,  A2 <- decay_C A2 - R' Kw
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _miras_math as fn
from ._miras_rule import MirasRule


class ChunkInputs(NamedTuple):
    """Everything a scan reads, `[NC, R, C, ...]`; `at(j, n)` cuts chunk j of the first n rows.

    q, k, v: tokens, `[.., D]`. q_read: q * decay. k_write: k * write. scores: `[.., C]` causal products of q and k with
    decay and step size. mix: see `Gates`. decay, write: `[.., G]`. key_gain: `[.., D]` or None. threshold: `[.., 1 or
    D]` or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    q_read: Tensor
    k_write: Tensor
    scores: Tensor
    mix: Tensor
    decay: Tensor
    write: Tensor
    key_gain: Tensor | None
    threshold: Tensor | None

    def at(self, j: int, n: int) -> ChunkInputs:
        """Chunk j of the first n rows."""
        return ChunkInputs(*(None if x is None else x[j, :n] for x in self))  # type: ignore[arg-type]


def inner_error(rule: MirasRule, prediction: Tensor, v: Tensor) -> Tensor:
    """What rho is applied to: M(k) - v, or -v for the dot-product bias."""
    return -v if rule.bias == "dot" else prediction - v


class _MlpWrite(NamedTuple):
    """Intermediates of the inner loss and its gradient."""

    z: Tensor
    gate: Tensor
    h: Tensor
    slope: Tensor
    y: Tensor
    y_hat: Tensor
    mean: Tensor
    rstd: Tensor
    e: Tensor
    g: Tensor
    u: Tensor
    x: Tensor
    r: Tensor


def _mlp_write(rule: MirasRule, c: ChunkInputs, z: Tensor, w1: Tensor) -> _MlpWrite:
    h, gate = fn.gelu_parts(z)
    y = torch.bmm(h, w1.mT)
    y_hat, mean, rstd = fn.layer_norm(y)
    e = inner_error(rule, c.k + y_hat, c.v)
    g = fn.error_gradient(rule, e, c.threshold)
    u = fn.layer_norm_vjp(g, y, mean, rstd)
    x = torch.bmm(u, w1)
    slope = fn.gelu_slope(z, gate)
    return _MlpWrite(z, gate, h, slope, y, y_hat, mean, rstd, e, g, u, x, x * slope)


def _gained(c: ChunkInputs, u: Tensor) -> Tensor:
    return u if c.key_gain is None else u * c.key_gain


def _decay_states(c: ChunkInputs, running: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> None:
    """out = decay_C * running: along the columns of W2 and of a matrix memory, the rows of W1."""
    last = c.decay[:, -1]
    torch.mul(running[-1], last.unsqueeze(1), out=out[-1])
    if len(running) == 2:
        torch.mul(running[0], last.unsqueeze(2), out=out[0])


def _mlp_forward(
    rule: MirasRule,
    c: ChunkInputs,
    anchor: tuple[Tensor, ...],
    running: tuple[Tensor, ...],
    shared: bool,
    out: tuple[Tensor, ...],
) -> Tensor:
    """One chunk: returns O and writes the state at its end to `out` (which may be `running` itself)."""
    scales = [fn.link_scale(rule, a) if rule.link == "lq" else None for a in anchor]
    w1 = anchor[0] if rule.link == "identity" else fn.link(rule, anchor[0], -1)
    width = c.q.shape[1]
    reads_running = rule.read_mode == "running"
    if reads_running and shared and rule.link in ("identity", "lq"):
        both = torch.bmm(torch.cat([c.k, c.q_read], 1), running[1].mT)
        if scales[1] is not None:
            both.mul_(scales[1])
        z, zq = both[:, :width], both[:, width:]
    else:
        w2 = fn.link(rule, anchor[1], -2)
        z = torch.bmm(c.k, w2.mT)
        zq = torch.bmm(c.q_read, running[1].mT) if reads_running else torch.bmm(c.q, w2.mT)
        if reads_running and scales[1] is not None:
            zq = zq * scales[1]
    m = _mlp_write(rule, c, z, w1)
    if reads_running:
        inside = torch.bmm(c.scores, m.r)
        zq = zq - (inside if scales[1] is None else inside * scales[1])
        hq, _ = fn.gelu_parts(zq)
        p = torch.bmm(hq, m.h.mT).mul_(c.mix)
        near = torch.bmm(p, _gained(c, m.u))
        yq = torch.bmm(hq, running[0].mT)
        yq = yq * c.decay - near if c.key_gain is None else (yq - near) * c.decay
        if scales[0] is not None:
            yq = yq * scales[0]
    else:
        hq, _ = fn.gelu_parts(zq)
        yq = torch.bmm(hq, w1.mT)
    _decay_states(c, running, out)
    out[1].baddbmm_(m.r.mT, c.k_write, alpha=-1)
    out[0].baddbmm_((m.u * c.write).mT, m.h, alpha=-1)
    return c.q + fn.layer_norm(yq)[0]


def _matrix_forward(
    rule: MirasRule,
    c: ChunkInputs,
    anchor: tuple[Tensor, ...],
    running: tuple[Tensor, ...],
    shared: bool,
    out: tuple[Tensor, ...],
) -> Tensor:
    """One chunk of a matrix memory; as `_mlp_forward`."""
    w = fn.link(rule, anchor[0], -2)
    prediction = c.k if rule.bias == "dot" else torch.bmm(c.k, w.mT)
    u = fn.error_gradient(rule, inner_error(rule, prediction, c.v), c.threshold)
    if rule.read_mode == "running":
        o = torch.baddbmm(torch.bmm(c.q_read, running[0].mT), c.scores, u, alpha=-1)
        if rule.link == "lq":
            o = o * fn.link_scale(rule, anchor[0])
    else:
        o = torch.bmm(c.q, w.mT)
    _decay_states(c, running, out)
    out[0].baddbmm_(u.mT, c.k_write, alpha=-1)
    return o


class ChunkScan(torch.autograd.Function):
    """All chunks in order. Outputs: O `[NC, R, C, D]`; states at each row's end, and at its last chunk's start."""

    @staticmethod
    def forward(ctx: Any, rule: MirasRule, num_active: list[int], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        size = len(ChunkInputs._fields)
        inputs = ChunkInputs(*tensors[:size])  # type: ignore[arg-type]
        num = rule.num_weights
        anchors, running = tensors[size : size + num], tensors[size + num :]
        keep = any(ctx.needs_input_grad)
        chunks = len(num_active)
        rows = running[0].shape[0]  # type: ignore[union-attr]
        slots = chunks + 1 if keep else 2
        states = tuple(r.new_empty(slots, *r.shape) for r in running)  # type: ignore[union-attr]
        for s, r in zip(states, running, strict=True):
            s[0].copy_(r)  # type: ignore[arg-type]
        final, last_anchor = _buffers(running), _buffers(running)
        step = _mlp_forward if rule.memory == "mlp" else _matrix_forward
        o = torch.zeros_like(inputs.q)
        for j, n in enumerate(num_active):
            here, there = (j, j + 1) if keep else (j % 2, (j + 1) % 2)
            now = tuple(s[here, :n] for s in states)
            out = tuple(s[there, :n] for s in states)
            anchor = tuple(a[:n] for a in anchors) if j == 0 else now  # type: ignore[index]
            o[j, :n] = step(rule, inputs.at(j, n), anchor, now, j > 0, out)
            ended = num_active[j + 1] if j + 1 < chunks else 0
            for i in range(num) if n > ended else ():
                final[i][ended:n] = out[i][ended:]
                last_anchor[i][ended:n] = anchor[i][ended:]
        if keep:
            starts = tuple(s[:chunks] for s in states)
            ctx.save_for_backward(*inputs, *anchors, *starts)
            ctx.rule, ctx.num_active, ctx.rows = rule, num_active, rows
        return (o, *final, *last_anchor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        from ._miras_chunk_backward import scan_backward

        if torch.is_grad_enabled():
            raise RuntimeError(
                "miras_memory has first derivatives only, but create_graph=True asked for its gradient's graph; "
                "use miras_memory_reference, which autograd differentiates any number of times"
            )
        with torch.autocast(grads[0].device.type, enabled=False):
            return (None, None, *scan_backward(ctx.rule, ctx.num_active, ctx.saved_tensors, grads))


def _buffers(like: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x) for x in like)  # type: ignore[arg-type]
