"""Between `miras_memory` and its Triton kernels: which calls they serve, how a rule and a state are handed over."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ._dispatch import kernels
from ._miras_grid import MAX_LOG_RANGE
from ._miras_rule import MirasRule
from ._miras_state import MirasState, Weights


def no_kernel_for(
    rule: MirasRule, q: Tensor, log_decay: Tensor, step_size: Tensor, chunk_size: int, module: ModuleType
) -> str:
    """Why the kernels in `module` cannot serve this call; empty if they can."""
    if rule.momentum:
        return "there is no kernel for momentum=True"
    if rule.gradient_at == "token":
        return "there is no kernel for gradient_at='token' (the exact delta rule)"
    if rule.read_mode == "exact":
        return "read='exact' has no form in matrix products; the kernels have 'running' and 'frozen'"
    reason: str = module.unsupported(q, chunk_size)
    if not reason and _falls_too_far(log_decay, step_size, chunk_size):
        reason = "channel-wise log_decay falls beyond float32's range within a chunk; use a smaller chunk_size"
    return reason


def _falls_too_far(log_decay: Tensor, step_size: Tensor, chunk_size: int) -> bool:
    """Whether any chunk_size tokens in a row fall by more than exp(-b) can represent.

    The look stalls the device's queue, and a CUDA graph cannot capture it: there the caller answers for the range (the
    layers keep within it; beyond it the outputs are NaN).
    """
    if max(log_decay.dim(), step_size.dim()) < 4:
        return False
    if log_decay.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    limit = -MAX_LOG_RANGE[torch.float32]
    low = log_decay.detach().float()
    if low.amin().item() * chunk_size >= limit:
        return False
    total = torch.nn.functional.pad(low.cumsum(1), (0, 0) * (low.dim() - 2) + (1, 0))
    width = min(chunk_size, low.shape[1])
    return bool((total[:, width:] - total[:, :-width]).amin() < limit)


def _kernel_rule(module: ModuleType, rule: MirasRule, slice_length: int) -> tuple[object, ...]:
    """The rule as the kernels spell it: a softmax's mass in figures, a divergence by its own name."""
    fields: tuple[object, ...] = module.Rule(
        memory=rule.memory,
        bias=rule.bias,
        huber=rule.huber,
        link=rule.divergence if rule.link == "f_divergence" else rule.link,
        p=float(rule.p),
        q=float(rule.q),
        mass=float(slice_length if rule.scale is None else rule.scale),
        shrinkage=float(rule.shrinkage),
        frozen=rule.read_mode == "frozen",
    )
    return fields


def triton_scan(
    rule: MirasRule,
    chunk_size: int,
    bounds: Tensor,
    state: MirasState | None,
    weights: Weights,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    step_size: Tensor,
    threshold: Tensor | None,
) -> tuple[Tensor, MirasState]:
    """`miras_memory` on the kernels; arguments are checked already."""
    if state is not None and q.shape[1] == 1 and not _needs_grad(state, q, k, v, log_decay, step_size, threshold):
        return _decode(rule, chunk_size, state, q, k, v, log_decay, step_size, threshold)
    module = kernels("miras")
    position = None if state is None else state.position
    o, running, anchor = module.scan(
        _kernel_rule(module, rule, weights[0].shape[-1]),
        chunk_size,
        bounds,
        position,
        q,
        k,
        v,
        log_decay,
        step_size,
        threshold,
        None if state is None else state.anchor,
        tuple(weights) if state is None else state.running,
    )
    start = torch.zeros_like(bounds[1:]) if position is None else position
    return o, MirasState(rule, chunk_size, anchor, running, None, (start + bounds.diff()) % chunk_size)


def _decode(
    rule: MirasRule,
    chunk_size: int,
    state: MirasState,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    step_size: Tensor,
    threshold: Tensor | None,
) -> tuple[Tensor, MirasState]:
    """One token per sequence: each state is read and written once instead of once a pass of `scan`."""
    module = kernels("miras_step")
    o, running, anchor = module.step(
        _kernel_rule(module, rule, state.running[0].shape[-1]),
        chunk_size,
        state.position,
        q,
        k,
        v,
        log_decay,
        step_size,
        threshold,
        state.anchor,
        state.running,
    )
    return o, MirasState(rule, chunk_size, anchor, running, None, (state.position + 1) % chunk_size)


def _needs_grad(state: MirasState, *tokens: Tensor | None) -> bool:
    tensors = (*tokens, *state.anchor, *state.running)
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
