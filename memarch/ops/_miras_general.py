"""Miras paths that autograd differentiates: every token's memory written out, and the exact delta rule.

`general_scan` forms link(A_t) for every token of a chunk. It serves what has no form in matrix products: read="exact"
under links that are not scalars, momentum, and channel-wise decays too strong to factor. Each chunk is recomputed in
the backward. `delta_scan` takes each gradient at the memory just before its token (DeltaNet, Gated DeltaNet, KDA) by
the WY form (arXiv 2406.06484): all tokens of a chunk at once through one triangular inverse.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import _miras_math as fn
from ._miras_chunk import inner_error
from ._miras_grid import Gates, causal_mask, pairwise_decay
from ._miras_rule import MirasRule


class GeneralInputs(NamedTuple):
    """Chunk layout `[NC, R, C, ...]`; gates per head `[.., C]` or per channel `[.., C, D]`.

    real: `[.., C]` ones at tokens, zeros at padding, where a memory with momentum must stand still.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    step_size: Tensor
    threshold: Tensor | None
    log_momentum: Tensor | None
    real: Tensor


def general_scan(
    rule: MirasRule,
    num_active: list[int],
    inputs: GeneralInputs,
    anchor: tuple[Tensor, ...],
    running: tuple[Tensor, ...],
    momentum: tuple[Tensor, ...] | None,
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...] | None]:
    """O `[NC, R, C, D]` and, at each row's end, the running memory, its last anchor and the momentum."""
    num = rule.num_weights
    tensors = [*running, *(momentum or ())]
    outputs, ended = [], []
    for j, n in enumerate(num_active):
        cut = GeneralInputs(*(None if x is None else x[j, :n] for x in inputs))  # type: ignore[arg-type]
        tensors = [x[:n] for x in tensors]
        anchor = tuple(a[:n] for a in anchor) if j == 0 else tuple(tensors[:num])
        args = (rule, cut, anchor, tuple(tensors[:num]), tuple(tensors[num:]))
        o, tensors = checkpoint(_chunk, *args, use_reentrant=False) if torch.is_grad_enabled() else _chunk(*args)
        outputs.append(torch.cat([o, o.new_zeros(inputs.q.shape[1] - n, *o.shape[1:])]))
        stay = num_active[j + 1] if j + 1 < len(num_active) else 0
        ended.append([x[stay:] for x in (*tensors, *anchor)])
    finals = tuple(torch.cat(parts[::-1]) for parts in zip(*ended, strict=True))
    size = len(tensors)
    return torch.stack(outputs), finals[:num], finals[size:], (finals[num:size] if momentum is not None else None)


def _chunk(
    rule: MirasRule,
    c: GeneralInputs,
    anchor: tuple[Tensor, ...],
    running: tuple[Tensor, ...],
    momentum: tuple[Tensor, ...],
) -> tuple[Tensor, list[Tensor]]:
    factors = _gradient_factors(rule, c, anchor)
    total = c.log_decay.cumsum(1)
    fall = pairwise_decay(total.unsqueeze(0))[0]
    decay, step = total.exp(), c.step_size
    channels = max(total.dim(), step.dim()) == 3
    if channels:
        fall, decay = (x if total.dim() == 3 else x.unsqueeze(-1) for x in (fall, decay))
        step = step if step.dim() == 3 else step.unsqueeze(-1)
    mix, drift, momentum_end = fall, None, None
    if rule.momentum:
        assert c.log_momentum is not None
        speed = c.log_momentum.cumsum(1)
        keep = pairwise_decay(speed)
        fall = fall * (c.real.unsqueeze(1) if fall.dim() == 3 else c.real[:, None, :, None])
        mix = torch.einsum("rtjc,rji->rtic" if fall.dim() == 4 else "rtj,rji->rti", fall, keep)
        drift = torch.einsum("rtjc,rj->rtc" if fall.dim() == 4 else "rtj,rj->rt", fall, speed.exp())
        last = keep[:, -1] * step if not channels else keep[:, -1].unsqueeze(-1) * step
        momentum_end = [
            speed[:, -1].exp()[:, None, None] * s - _weighted(last.unsqueeze(1), f, axis)[:, 0]
            for s, f, axis in zip(momentum, factors, _axes(rule), strict=True)
        ]
    mix = mix * step.unsqueeze(1)
    tokens = slice(-1, None) if rule.read_mode == "frozen" else slice(None)
    path = []
    for i, (a, f, axis) in enumerate(zip(running, factors, _axes(rule), strict=True)):
        memory = _gate(decay[:, tokens], axis, channels) * a.unsqueeze(1) - _weighted(mix[:, tokens], f, axis)
        if drift is not None:
            memory = memory + _gate(drift[:, tokens], axis, drift.dim() == 3) * momentum[i].unsqueeze(1)
        path.append(memory)
    end = [memory[:, -1] for memory in path]
    weights = [_read_weights(rule, memory, a, axis) for memory, a, axis in zip(path, anchor, _axes(rule), strict=True)]
    return _read(rule, c.q, weights), [*end, *(momentum_end or ())]


def _axes(rule: MirasRule) -> tuple[int, ...]:
    """Slice axis of each weight; its gate runs along the other one."""
    return (-1, -2) if rule.memory == "mlp" else (-2,)


def _gradient_factors(rule: MirasRule, c: GeneralInputs, anchor: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    """Each weight's gradient as rows times columns: (U, H) and (R, K), or (U, K)."""
    weights = [fn.link(rule, a, axis) for a, axis in zip(anchor, _axes(rule), strict=True)]
    if rule.memory == "matrix":
        e = inner_error(rule, torch.bmm(c.k, weights[0].mT), c.v)
        return [(fn.error_gradient(rule, e, c.threshold), c.k)]
    w1, w2 = weights
    z = torch.bmm(c.k, w2.mT)
    h = torch.nn.functional.gelu(z, approximate="tanh")
    y = torch.bmm(h, w1.mT)
    centred = y - y.mean(-1, keepdim=True)
    rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + fn.LN_EPS)
    y_hat = centred * rstd
    g = fn.error_gradient(rule, inner_error(rule, c.k + y_hat, c.v), c.threshold)
    u = rstd * (g - g.mean(-1, keepdim=True) - y_hat * (g * y_hat).mean(-1, keepdim=True))
    r = torch.bmm(u, w1) * fn.gelu_slope(*_z_and_gate(z))
    return [(u, h), (r, c.k)]


def _z_and_gate(z: Tensor) -> tuple[Tensor, Tensor]:
    return z, fn.gelu_parts(z)[1]


def _weighted(mix: Tensor, factors: tuple[Tensor, Tensor], axis: int) -> Tensor:
    """sum_i mix[t, i] rows_i columns_i', `[R, t, rows, columns]`; channel-wise gates run along the axis not `axis`."""
    rows, columns = factors
    if mix.dim() == 3:
        return torch.einsum("rti,ria,rib->rtab", mix, rows, columns)
    return torch.einsum("rtia,ria,rib->rtab" if axis == -1 else "rtib,ria,rib->rtab", mix, rows, columns)


def _gate(gate: Tensor, axis: int, channels: bool) -> Tensor:
    """A gate `[R, t]` or `[R, t, D]` shaped to multiply memories `[R, t, ., .]`."""
    return gate.unsqueeze(axis) if channels else gate[..., None, None]


def _read_weights(rule: MirasRule, memory: Tensor, anchor: Tensor, axis: int) -> Tensor:
    if rule.read_mode == "frozen":
        return fn.link(rule, anchor, axis).unsqueeze(1)
    if rule.read_mode == "exact":
        return fn.link(rule, memory, axis)
    return memory if rule.link == "identity" else memory * fn.link_scale(rule, anchor).unsqueeze(1)


def _read(rule: MirasRule, q: Tensor, weights: list[Tensor]) -> Tensor:
    if rule.memory == "matrix":
        return (weights[0] @ q.unsqueeze(-1)).squeeze(-1)
    w1, w2 = weights
    h = torch.nn.functional.gelu(w2 @ q.unsqueeze(-1), approximate="tanh")
    y = (w1 @ h).squeeze(-1)
    return q + torch.nn.functional.layer_norm(y, y.shape[-1:], eps=fn.LN_EPS)


def delta_scan(
    num_active: list[int], q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, gates: Gates, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """The delta rule A_t = a_t A_{t-1} - eta_t (A_{t-1} k_t - v_t) k_t', exact for any chunk size.

    Shapes: q, k, v `[NC, R, C, D]`; log_decay `[NC, R, C]` or `[.., D]`; memory `[R, D, D]`. Returns O and the final
        memory.
    """
    strict = causal_mask(q.shape[2], q).tril(-1)
    if gates.key_gain is None:
        before = log_decay.cumsum(2) - log_decay
        gap = (before.unsqueeze(-1) - log_decay.cumsum(2).unsqueeze(-2)).masked_fill(strict == 0, float("-inf"))
        step = gates.mix.diagonal(dim1=-2, dim2=-1)
        lower = gap.exp() * step.unsqueeze(-2) * (k @ k.mT)
        k_before, scores = k * before.exp().unsqueeze(-1), gates.mix * (q @ k.mT)
    else:
        per_channel = log_decay if log_decay.dim() == 4 else log_decay.unsqueeze(-1)
        k_before = k * (per_channel.cumsum(2) - per_channel).exp()
        k_gained = k * gates.key_gain
        lower, scores = strict * (k_before @ k_gained.mT), gates.mix * ((q * gates.decay) @ k_gained.mT)
    eye = torch.eye(q.shape[2], dtype=q.dtype, device=q.device)
    inverse = torch.linalg.solve_triangular(eye + lower, eye.expand_as(lower), upper=False, unitriangular=True)
    reach, pull = inverse @ k_before, inverse @ v
    q_read, k_write, end = q * gates.decay, k * gates.write, gates.decay[:, :, -1]
    outputs, ended = [], []
    for j, n in enumerate(num_active):
        memory = memory[:n]
        u = torch.baddbmm(pull[j, :n], reach[j, :n], memory.mT, beta=-1)
        o = torch.baddbmm(torch.bmm(q_read[j, :n], memory.mT), scores[j, :n], u, alpha=-1)
        memory = torch.baddbmm(memory * end[j, :n].unsqueeze(1), u.mT, k_write[j, :n], alpha=-1)
        outputs.append(torch.cat([o, o.new_zeros(q.shape[1] - n, *o.shape[1:])]) if n < q.shape[1] else o)
        stay = num_active[j + 1] if j + 1 < len(num_active) else 0
        ended.append(memory[stay:])
    return torch.stack(outputs), torch.cat(ended[::-1])
