"""One token of Miras memory, the state overwritten: decoding (arXiv 2504.13173).

`miras_step_reference` is the definition; `miras_step` is one launch on a GPU. B sequences, H heads, D head width.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from ._dispatch import choose_backend, kernels, outside_graphs
from ._miras_rule import MirasRule
from ._miras_state import MirasState, Weights, check_inputs
from ._miras_triton import _kernel_rule
from .miras import miras_memory, miras_memory_reference


def decoding_state(state: MirasState) -> MirasState:
    """An own copy of `state` that `miras_step` may overwrite; `state` itself stays as it is.

    Anchor and running memory are separate (after a prefill that ends with a chunk they can be one), contiguous, cut
    from the autograd graph, in float32 (float64 stays); position lies on the memory's device. For `miras_memory`, take
    the position back: `dataclasses.replace(state, position=state.position.cpu())`.
    """

    def own(x: Tensor) -> Tensor:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return x.detach().to(dtype).clone(memory_format=torch.contiguous_format)

    return state._map(own, state.position.to(state.running[0].device, copy=True))


@torch.no_grad()
def miras_step_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    step_size: Tensor,
    *,
    rule: MirasRule,
    state: MirasState,
    threshold: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """`miras_step` by its definition: `miras_memory_reference` on one token. Slow and obvious; `backend` is ignored."""
    weights = _check(q, k, v, log_decay, step_size, rule, state, threshold)
    o, end = miras_memory_reference(
        q,
        k,
        v,
        log_decay,
        step_size,
        rule=rule,
        weights=weights,
        threshold=threshold,
        chunk_size=state.chunk_size,
        state=replace(state, position=state.position.cpu()),
    )
    _overwrite(state, end)
    return o


@outside_graphs
def miras_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    step_size: Tensor,
    *,
    rule: MirasRule,
    state: MirasState,
    threshold: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Write one token of every sequence into the memory and read it: `miras_memory` for T = 1, without a new state.

    On a GPU one launch, which a CUDA graph can capture: nothing waits for the device. The state is read and written
    once (read twice inside a chunk: its anchor and its running memory), and that is the cost. No gradients.

    Args:
        q, k, v: `[B, 1, H, D]`; float64 and rules that have no kernel take the torch path.
        log_decay, step_size: `[B, 1, H]`, or `[B, 1, H, D]` per channel.
        rule: the rule of the state; without momentum, which needs `miras_memory`.
        state: memory of the B sequences, from `decoding_state`. OVERWRITTEN: anchor, running and position.
        threshold: delta of Huber losses, `[B, 1, H]`, or `[B, 1, H, D]` for "coordinate" and "pseudo".
        backend: "auto", "torch", "triton"; None reads MEMARCH_BACKEND. The torch path of a CUDA call waits for the
            position.

    Returns:
        o `[B, 1, H, D]` in q's dtype.

    Raises:
        ValueError: what `miras_memory` refuses; T other than 1; a state that cannot be overwritten (anchor and running
            share memory, a tensor is expanded or not contiguous, the position is on another device); an input that
            requires grad while grad is enabled; momentum. The state is then as it was.
    """
    if torch.is_grad_enabled():
        _check_grad(state, q=q, k=k, v=v, log_decay=log_decay, step_size=step_size, threshold=threshold)
    weights = _check(q, k, v, log_decay, step_size, rule, state, threshold)
    running = state.running
    with torch.no_grad():
        if choose_backend("miras_step", backend, q, partial(_no_kernel_for, rule, q, state)) == "triton":
            module = kernels("miras_step")
            o: Tensor = module.step_in_place(
                _kernel_rule(module, rule, running[0].shape[-1]),
                state.chunk_size,
                state.position,
                q,
                k,
                v,
                log_decay,
                step_size,
                threshold,
                state.anchor,
                running,
            )
            return o
        o, end = miras_memory(
            q,
            k,
            v,
            log_decay,
            step_size,
            rule=rule,
            weights=weights,
            threshold=threshold,
            chunk_size=state.chunk_size,
            state=replace(state, position=state.position.cpu()),
            backend="torch",
        )
        _overwrite(state, end)
    return o


def _no_kernel_for(rule: MirasRule, q: Tensor, state: MirasState, module: ModuleType) -> str:
    """Why the kernels in `module` cannot serve this call; empty if they can."""
    if rule.gradient_at == "token":
        return "there is no kernel for gradient_at='token' (the exact delta rule)"
    if rule.read_mode == "exact":
        return "there is no kernel for read='exact'; the kernels have 'running' and 'frozen'"
    dtypes = {x.dtype for x in (*state.anchor, *state.running)}
    memory = state.anchor[0] if len(dtypes) == 1 else None
    if memory is None:
        return f"the state mixes {' and '.join(sorted(map(str, dtypes)))}"
    reason: str = module.unsupported(q, memory)
    return reason


def _overwrite(state: MirasState, end: MirasState) -> None:
    for old, new in zip((*state.anchor, *state.running), (*end.anchor, *end.running), strict=True):
        old.copy_(new)
    state.position.copy_(end.position)


def _check_grad(state: MirasState, **inputs: Tensor | None) -> None:
    parts = (*state.anchor, *state.running) if isinstance(state, MirasState) else ()
    for name, x in (*inputs.items(), *(("state", part) for part in parts)):
        if isinstance(x, Tensor) and x.requires_grad:
            raise ValueError(
                f"{name} requires grad, but decoding has no gradient; use miras_memory, or call miras_step under "
                "torch.no_grad()"
            )


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    step_size: Tensor,
    rule: MirasRule,
    state: MirasState,
    threshold: Tensor | None,
) -> Weights:
    """Refuse what the operator cannot mean, before anything changes; a memory in the shape of `weights`."""
    if not isinstance(state, MirasState):
        raise ValueError(f"state must be a MirasState, see decoding_state; got {type(state).__name__}")
    if isinstance(rule, MirasRule) and rule.momentum:
        raise ValueError("miras_step has no momentum, but the rule has momentum=True; use miras_memory token by token")
    weights = tuple(x[0] for x in state.running)
    check_inputs(
        q,
        k,
        v,
        log_decay,
        step_size,
        rule=rule,
        weights=weights,
        threshold=threshold,
        log_momentum=None,
        chunk_size=state.chunk_size,
        state=state,
        cu_seqlens=None,
    )
    if q.shape[1] != 1:
        raise ValueError(f"miras_step takes one token per sequence, q [B, 1, H, D]; got {list(q.shape)}: prefill with "
                         "miras_memory")  # fmt: skip
    _check_own(state)
    return weights


def _check_own(state: MirasState) -> None:
    """Refuse a state whose tensors cannot be overwritten one by one."""
    tensors = (*state.anchor, *state.running)
    if state.position.device != tensors[0].device:
        raise ValueError(
            f"state.position must be on the memory's device {tensors[0].device}; got {state.position.device}: call "
            "decoding_state(state) once, before the first step"
        )
    if state.position.dtype != torch.int64 or list(state.position.shape) != [state.batch_size]:
        raise ValueError(
            f"state.position must be [{state.batch_size}] int64; got {list(state.position.shape)} "
            f"{state.position.dtype}"
        )
    if not all(x.is_contiguous() for x in (*tensors, state.position)):
        raise ValueError(
            "state has expanded or non-contiguous tensors, which cannot be overwritten in place: call "
            "decoding_state(state) once, before the first step"
        )
    spans = sorted((x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()) for x in tensors)
    if any(end > start for (_, end), (start, _) in zip(spans, spans[1:], strict=False)):
        raise ValueError(
            "state's anchor and running share memory, so a step cannot overwrite one of them: call "
            "decoding_state(state) once, before the first step"
        )
