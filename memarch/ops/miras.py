"""Miras associative memory: test-time memorisation with any bias, retention link and memory (arXiv 2504.13173).

`miras_memory_reference` is the definition, one token at a time. `miras_memory` computes the same function chunk by
chunk. B batch, T tokens, H heads, D head width, N hidden width of the MLP memory (the paper's 4 D).
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ._dispatch import choose_backend, outside_graphs
from ._miras_chunk import ChunkInputs, ChunkScan
from ._miras_general import GeneralInputs, delta_scan, general_scan
from ._miras_grid import Grid, chunk_gates, overflows
from ._miras_math import ABS_EPS, LN_EPS, SIGN_SHARPNESS
from ._miras_rule import MirasRule
from ._miras_state import MirasState, Weights, check_inputs, initial_state
from ._miras_triton import no_kernel_for, triton_scan


def miras_memory_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    step_size: Tensor,
    *,
    rule: MirasRule,
    weights: Weights,
    threshold: Tensor | None = None,
    log_momentum: Tensor | None = None,
    chunk_size: int = 16,
    state: MirasState | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, MirasState]:
    """`miras_memory` by its definition: a loop over tokens, inner gradients by autograd of the loss. Slow and obvious.

    Computes in the widest dtype given (use float64 to judge other paths); differentiable; `backend` is ignored.
    """
    bounds = check_inputs(
        q,
        k,
        v,
        log_decay,
        step_size,
        rule=rule,
        weights=weights,
        threshold=threshold,
        log_momentum=log_momentum,
        chunk_size=chunk_size,
        state=state,
        cu_seqlens=cu_seqlens,
    )
    dtype = _compute_dtype(q, log_decay, step_size, *weights)
    state = initial_state(rule, weights, bounds.numel() - 1, chunk_size) if state is None else state
    q_, k_, v_, log_a, eta = (x.to(dtype).flatten(0, 1) for x in (q, k, v, log_decay, step_size))
    delta = None if threshold is None else threshold.to(dtype).flatten(0, 1)
    log_m = None if log_momentum is None else log_momentum.to(dtype).flatten(0, 1)
    outputs, anchors, runnings, momenta, positions = [], [], [], [], []
    for n in range(bounds.numel() - 1):
        anchor = tuple(a[n].to(dtype) for a in state.anchor)
        running = tuple(a[n].to(dtype) for a in state.running)
        momentum = None if state.momentum is None else tuple(m[n].to(dtype) for m in state.momentum)
        position = int(state.position[n])
        for t in range(int(bounds[n]), int(bounds[n + 1])):
            if position == 0:
                anchor = running
            start = running if rule.gradient_at == "token" else anchor
            grads = _inner_gradient(rule, start, k_[t], v_[t], None if delta is None else delta[t])
            change = [-_along(eta[t], g, rule, i) * g for i, g in enumerate(grads)]
            if momentum is not None and log_m is not None:
                momentum = tuple(log_m[t].exp()[:, None, None] * m + c for m, c in zip(momentum, change, strict=True))
                change = list(momentum)
            decay = log_a[t].exp()
            running = tuple(
                _along(decay, a, rule, i) * a + c for i, (a, c) in enumerate(zip(running, change, strict=True))
            )
            if rule.read_mode == "frozen":
                read = _reference_link(rule, anchor)
            elif rule.read_mode == "running" and rule.link == "lq":
                read = tuple(a / _norm(rule, s) ** (rule.q - 2) for a, s in zip(running, anchor, strict=True))
            else:
                read = _reference_link(rule, running)
            outputs.append(_value(rule, read, q_[t]))
            position = (position + 1) % chunk_size
        anchors.append(running if position == 0 or rule.gradient_at == "token" else anchor)
        runnings.append(running)
        momenta.append(momentum)
        positions.append(position)
    end = MirasState(
        rule,
        chunk_size,
        _stack(anchors),
        _stack(runnings),
        _stack([m for m in momenta if m is not None]) if rule.momentum else None,
        torch.tensor(positions, dtype=torch.int64),
    )
    return torch.stack(outputs).view(q.shape).to(q.dtype), end


def _value(rule: MirasRule, weights: Weights, x: Tensor) -> Tensor:
    """M(x; W) for one token of every head, `[H, D]`."""
    if rule.memory == "matrix":
        return (weights[0] @ x[:, :, None])[:, :, 0]
    hidden = F.gelu(weights[1] @ x[:, :, None], approximate="tanh")
    return x + F.layer_norm((weights[0] @ hidden)[:, :, 0], x.shape[-1:], eps=LN_EPS)


def _inner_gradient(rule: MirasRule, start: Weights, k: Tensor, v: Tensor, delta: Tensor | None) -> tuple[Tensor, ...]:
    """Gradient of the attentional bias with respect to W = link(A), by autograd."""
    outer = torch.is_grad_enabled()
    with torch.enable_grad():
        w = tuple(x if x.requires_grad else x.detach().requires_grad_() for x in _reference_link(rule, start))
        prediction = _value(rule, w, k)
        if rule.bias == "dot":
            loss = -(prediction * v).sum()
        elif rule.bias == "lp":
            # The smoothed gradient of |e|^p has no closed antiderivative: hand rho to the chain rule itself.
            e = prediction - v
            rho = rule.p * torch.tanh(SIGN_SHARPNESS * e) * (e * e + ABS_EPS) ** ((rule.p - 1) / 2)
            return torch.autograd.grad(prediction, w, rho, create_graph=outer)
        elif rule.bias == "l2":
            loss = 0.5 * (prediction - v).square().sum()
        else:
            loss = _huber_loss(rule, prediction - v, delta if delta is not None else torch.zeros(()))
        return torch.autograd.grad(loss, w, create_graph=outer)


def _huber_loss(rule: MirasRule, e: Tensor, delta: Tensor) -> Tensor:
    delta = delta if delta.dim() == 2 else delta[:, None]
    if rule.huber == "coordinate":
        return torch.where(e.abs() <= delta, 0.5 * e * e, delta * e.abs() - 0.5 * delta * delta).sum()
    if rule.huber == "pseudo":
        return (delta * delta * ((1 + (e / delta) ** 2).sqrt() - 1)).sum()
    norm = torch.linalg.vector_norm(e, dim=-1, keepdim=True)
    if rule.huber == "norm":
        return torch.where(norm <= delta, 0.5 * norm * norm, delta * norm - 0.5 * delta * delta).sum()
    # log cosh(s e) / s, whose slope is tanh(s e), in the form that cannot overflow.
    sharp = 2 * SIGN_SHARPNESS * e.abs()
    smooth_l1 = (0.5 * sharp + torch.log1p(torch.exp(-sharp))) / SIGN_SHARPNESS
    return torch.where(norm <= delta, 0.5 * e * e, delta * smooth_l1).sum()


def _norm(rule: MirasRule, a: Tensor) -> Tensor:
    return (a.abs() ** rule.q).sum((-2, -1), keepdim=True) ** (1 / rule.q)


def _reference_link(rule: MirasRule, accumulator: Weights) -> Weights:
    """W = link(A) from the definitions; the softmax slice is the hidden axis (the value axis of a matrix memory)."""
    axes = (-1, -2) if rule.memory == "mlp" else (-2,)
    weights = []
    for a, axis in zip(accumulator, axes, strict=True):
        if rule.link == "identity":
            w = a
        elif rule.link == "lq":
            w = a / _norm(rule, a) ** (rule.q - 2)
        elif rule.link == "pnorm_dual":
            w = torch.sign(a) * a.abs() ** (rule.q - 1) / _norm(rule, a) ** (rule.q - 2)
        elif rule.link == "softmax":
            w = torch.softmax(a, axis) * (a.shape[axis] if rule.scale is None else rule.scale)
        elif rule.link == "soft_threshold":
            w = torch.sign(a) * (a.abs() - rule.shrinkage).clamp(min=0)
        elif rule.link == "sigmoid":
            w = 1 / (1 + torch.exp(-a))
        elif rule.divergence == "kl":
            w = torch.exp(a)
        else:
            w = (1 + a).clamp(min=0)
        weights.append(w)
    return tuple(weights)


def _along(gate: Tensor, weight: Tensor, rule: MirasRule, index: int) -> Tensor:
    """A gate `[H]` or `[H, D]` against `[H, ., .]`: channels are the rows of W1 and the columns of W2 and W."""
    if gate.dim() == 1:
        return gate[:, None, None]
    return gate[:, :, None] if rule.memory == "mlp" and index == 0 else gate[:, None, :]


def _stack(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(xs) for xs in zip(*parts, strict=True))


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any input is, else float32: the state is never held in half precision."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


@outside_graphs
def miras_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    step_size: Tensor,
    *,
    rule: MirasRule,
    weights: Weights,
    threshold: Tensor | None = None,
    log_momentum: Tensor | None = None,
    chunk_size: int = 16,
    state: MirasState | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, MirasState]:
    """Write every (k, v) into an associative memory by a gradient step, let it decay, read it with every q.

    A_t = a_t A_{t-1} - eta_t grad l(link(A at the chunk's start); k_t, v_t);  o_t = M(q_t; W_t)  (arXiv 2504.13173).

    Args:
        q, k, v: `[B, T, H, D]`, float64, float32, bfloat16 or float16 (computed in float32). l2-normalised q and k are
            what the step sizes of the paper assume.
        log_decay: log a_t <= 0, `[B, T, H]`, or `[B, T, H, D]`: one gate for each row of W1 and column of W2 or W.
        step_size: eta_t >= 0, same choices.
        rule: which memory, loss and retention; presets MONETA, YAAD, MEMORA and others.
        weights: accumulator A_0 that sequences start from: `(W1 [H, D, N], W2 [H, N, D])` for "mlp", `(W [H, D, D],)`
            for "matrix". For "lq" links give it unit q-norm, so that W_0 = A_0; for "softmax" these are logits.
        threshold: delta_t >= 0 of Huber losses, `[B, T, H]`; or `[B, T, H, D]` for "coordinate" and "pseudo".
        log_momentum: log of the momentum factor, `[B, T, H]`, for rules with momentum.
        chunk_size: tokens that share one gradient point. It changes the function (unless rule.gradient_at ==
            "token"), so it belongs to a model's configuration.
        state: memory of earlier tokens; None starts from `weights`. Splitting a sequence at any token changes nothing.
        cu_seqlens: `[N + 1]` boundaries of N sequences packed into q `[1, T, H, D]`.
        backend: "auto", "torch", "triton"; None reads MEMARCH_BACKEND.

    Returns:
        o `[B, T, H, D]` in q's dtype, and the state (of B, or N packed, sequences) in float32 (float64 for such
        inputs).

    Raises:
        ValueError: wrong shapes, dtypes, devices or signs, empty sequences, a missing threshold, a state of another
            rule, batch or chunk size.
    """
    bounds = check_inputs(
        q,
        k,
        v,
        log_decay,
        step_size,
        rule=rule,
        weights=weights,
        threshold=threshold,
        log_momentum=log_momentum,
        chunk_size=chunk_size,
        state=state,
        cu_seqlens=cu_seqlens,
    )
    unsupported = partial(no_kernel_for, rule, q, log_decay, step_size, chunk_size)
    if choose_backend("miras", backend, q, unsupported) == "triton":
        return triton_scan(rule, chunk_size, bounds, state, weights, q, k, v, log_decay, step_size, threshold)
    dtype = _compute_dtype(q, log_decay, step_size, *weights)
    state = initial_state(rule, weights, bounds.numel() - 1, chunk_size) if state is None else state
    with torch.autocast(q.device.type, enabled=False):
        tokens = (q, k, v, log_decay, step_size, threshold, log_momentum)
        return _chunked(rule, chunk_size, state, bounds, dtype, *tokens)


def _chunked(
    rule: MirasRule,
    chunk_size: int,
    state: MirasState,
    bounds: Tensor,
    dtype: torch.dtype,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    step_size: Tensor,
    threshold: Tensor | None,
    log_momentum: Tensor | None,
) -> tuple[Tensor, MirasState]:
    """Lay tokens out by chunks, take the path that the rule has, lay the result back."""
    grid = Grid(bounds, state.position, chunk_size, q.shape[2])
    qc, kc, vc, log_a, eta = (grid.to_chunks(x).to(dtype) for x in (q, k, v, log_decay, step_size))
    delta = None if threshold is None else grid.to_chunks(threshold).to(dtype)
    anchor = tuple(grid.rows(a.to(dtype)) for a in state.anchor)
    running = tuple(grid.rows(a.to(dtype)) for a in state.running)
    momentum = None
    if delta is not None and delta.dim() == 3:
        delta = delta.unsqueeze(-1)
    if rule.gradient_at == "token":
        o, last = _delta_path(rule, grid, chunk_size, qc, kc, vc, log_a, eta, running)
        running = anchor = (last,)
    elif rule.momentum or overflows(log_a, eta) or (rule.read_mode == "exact"):
        log_m = None if log_momentum is None else grid.to_chunks(log_momentum).to(dtype)
        momentum = None if state.momentum is None else tuple(grid.rows(m.to(dtype)) for m in state.momentum)
        real = grid.to_chunks(torch.ones_like(log_decay[..., 0] if log_decay.dim() == 4 else log_decay)).to(dtype)
        inputs = GeneralInputs(qc, kc, vc, log_a, eta, delta, log_m, real)
        o, running, anchor, momentum = general_scan(rule, grid.num_active, inputs, anchor, running, momentum)
    else:
        gates = chunk_gates(log_a, eta)
        q_read, k_write = qc * gates.decay, kc * gates.write
        keys = kc if gates.key_gain is None else kc * gates.key_gain
        scores = gates.mix * ((qc if gates.key_gain is None else q_read) @ keys.mT)
        scan = ChunkInputs(
            qc, kc, vc, q_read, k_write, scores, gates.mix, gates.decay, gates.write, gates.key_gain, delta
        )
        o, *ends = ChunkScan.apply(rule, grid.num_active, *scan, *anchor, *running)
        running, anchor = tuple(ends[: rule.num_weights]), tuple(ends[rule.num_weights :])
    end = _end_state(rule, chunk_size, grid, anchor, running, momentum)
    return grid.to_tokens(o, q).to(q.dtype), end


def _delta_path(
    rule: MirasRule,
    grid: Grid,
    chunk_size: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    step_size: Tensor,
    running: Weights,
) -> tuple[Tensor, Tensor]:
    if rule.memory != "matrix" or rule.bias != "l2" or rule.link != "identity" or rule.momentum:
        raise ValueError(
            "gradient_at='token' has a chunk form only for memory='matrix', bias='l2', link='identity' without "
            "momentum; for the same function use gradient_at='chunk' with chunk_size=1"
        )
    if overflows(log_decay, step_size):
        raise ValueError(
            f"channel-wise log_decay falls by more than the range of {log_decay.dtype} within chunk_size={chunk_size} "
            "tokens; use a smaller chunk_size (the delta rule does not depend on it) or float64"
        )
    return delta_scan(grid.num_active, q, k, v, log_decay, chunk_gates(log_decay, step_size), running[0])


def _end_state(
    rule: MirasRule, chunk_size: int, grid: Grid, anchor: Weights, running: Weights, momentum: Weights | None
) -> MirasState:
    """A sequence that ended on a chunk's boundary starts its next chunk from where it is."""
    now = tuple(grid.unrows(r) for r in running)
    if bool((grid.end_position == 0).all()) or rule.gradient_at == "token":
        at = now
    else:
        at = tuple(grid.unrows(a) for a in anchor)
        if bool((grid.end_position == 0).any()):
            fresh = (grid.end_position == 0).to(now[0].device).view(-1, 1, 1, 1)
            at = tuple(torch.where(fresh, n, a) for n, a in zip(now, at, strict=True))
    ended = None if momentum is None else tuple(grid.unrows(m) for m in momentum)
    return MirasState(rule, chunk_size, at, now, ended, grid.end_position)
