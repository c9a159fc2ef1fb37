"""What a Miras memory remembers between calls, and the checks every call makes before it changes anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ._miras_rule import MirasRule

Weights = tuple[Tensor, ...]


@dataclass(frozen=True)
class MirasState:
    """Memory of N sequences with H heads, complete at any token.

    Attributes:
        rule: the rule that wrote it.
        chunk_size: tokens in a chunk; part of the function (unless the rule takes gradients at every token).
        anchor: accumulator at the start of the current chunk, one `[N, H, ...]` tensor per weight: inner gradients are
            taken there.
        running: accumulator after the last token, same shapes.
        momentum: running sum of gradients, same shapes, or None for rules without momentum.
        position: `[N]` int64 on the CPU: tokens already seen of the current chunk, 0 to chunk_size - 1.
    """

    rule: MirasRule
    chunk_size: int
    anchor: Weights
    running: Weights
    momentum: Weights | None
    position: Tensor

    @property
    def batch_size(self) -> int:
        """Number of sequences N."""
        return self.running[0].shape[0]

    def _map(self, fn: Callable[[Tensor], Tensor], position: Tensor) -> MirasState:
        momentum = None if self.momentum is None else tuple(fn(m) for m in self.momentum)
        anchor, running = tuple(fn(a) for a in self.anchor), tuple(fn(r) for r in self.running)
        return replace(self, anchor=anchor, running=running, momentum=momentum, position=position)

    def detach(self) -> MirasState:
        """The same memory cut from the autograd graph (truncated backpropagation through time)."""
        return self._map(Tensor.detach, self.position)

    def select(self, rows: Sequence[int] | Tensor) -> MirasState:
        """The memories of the given sequences, in that order (beam search, finished rows)."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return self._map(lambda x: x.index_select(0, index.to(x.device)), self.position[index.cpu()])

    def concat(self, other: MirasState) -> MirasState:
        """The sequences of both memories, this one's first; rule and chunk size must agree."""
        if (self.rule, self.chunk_size) != (other.rule, other.chunk_size):
            raise ValueError(f"cannot join memories of {self.rule} and {other.rule}, or of different chunk sizes")

        def join(a: Weights, b: Weights) -> Weights:
            return tuple(torch.cat(pair) for pair in zip(a, b, strict=True))

        momentum = None if self.momentum is None or other.momentum is None else join(self.momentum, other.momentum)
        anchor, running = join(self.anchor, other.anchor), join(self.running, other.running)
        position = torch.cat([self.position, other.position])
        return replace(self, anchor=anchor, running=running, momentum=momentum, position=position)


def initial_state(rule: MirasRule, weights: Weights, num_sequences: int, chunk_size: int) -> MirasState:
    """An empty memory: every sequence starts from the learned `weights`."""
    start = tuple(w.expand(num_sequences, *w.shape) for w in weights)
    momentum = tuple(torch.zeros_like(s) for s in start) if rule.momentum else None
    return MirasState(rule, chunk_size, start, start, momentum, torch.zeros(num_sequences, dtype=torch.int64))


def _shape(x: Tensor) -> str:
    return str(list(x.shape))


def _check_float(name: str, x: object, like: Tensor | None = None) -> None:
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a tensor; got {type(x).__name__}")
    if not x.is_floating_point():
        raise ValueError(f"{name} must have a floating-point dtype; got {x.dtype}")
    if like is not None and x.device != like.device:
        raise ValueError(f"{name} must be on q's device {like.device}; got {x.device}: move it with .to(q.device)")


def _check_gate(name: str, gate: Tensor, q: Tensor, channels: bool) -> None:
    _check_float(name, gate, q)
    per_head, per_channel = list(q.shape[:3]), list(q.shape)
    if list(gate.shape) != per_head and not (channels and list(gate.shape) == per_channel):
        also = f" or, per channel, {per_channel}" if channels else ""
        raise ValueError(f"{name} must have shape [B, T, H] = {per_head}{also}; got {_shape(gate)}")


def check_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    step_size: Tensor,
    *,
    rule: MirasRule,
    weights: Weights,
    threshold: Tensor | None,
    log_momentum: Tensor | None,
    chunk_size: int,
    state: MirasState | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    """Refuse what the operator cannot mean; return the sequence boundaries `[N + 1]` int64 on the CPU.

    Signs of gates are looked at on CPU tensors only: on an accelerator the look would stall the queue.
    """
    if not isinstance(rule, MirasRule):
        raise ValueError(f"rule must be a MirasRule such as memarch.ops.YAAD; got {rule!r}")
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"chunk_size must be an integer of at least 1; got {chunk_size!r}")
    _check_float("q", q)
    if q.dim() != 4:
        raise ValueError(f"q must have shape [B, T, H, D]; got {_shape(q)}")
    for name, x in (("k", k), ("v", v)):
        _check_float(name, x, q)
        if x.shape != q.shape:
            raise ValueError(f"{name} must have q's shape [B, T, H, D] = {_shape(q)}; got {_shape(x)}")
        if x.dtype != q.dtype:
            raise ValueError(f"{name} must have q's dtype {q.dtype}; got {x.dtype}")
    if q.numel() == 0:
        raise ValueError(f"q, k, v must not be empty; got {_shape(q)}: skip the call when there are no tokens")
    _check_gate("log_decay", log_decay, q, channels=True)
    _check_gate("step_size", step_size, q, channels=True)
    _check_optional_gates(rule, q, threshold, log_momentum)
    if q.device.type == "cpu":
        _check_signs(log_decay, step_size, threshold, log_momentum)
    bounds = _check_boundaries(q, cu_seqlens)
    _check_weights(rule, weights, q)
    if state is not None:
        _check_state(rule, state, weights, bounds.numel() - 1, chunk_size, q)
    return bounds


def _check_optional_gates(rule: MirasRule, q: Tensor, threshold: Tensor | None, log_momentum: Tensor | None) -> None:
    if rule.needs_threshold:
        if threshold is None:
            raise ValueError(f"bias='huber' ({rule.huber}) needs threshold (delta) [B, T, H]; got None")
        _check_gate("threshold", threshold, q, channels=rule.huber in ("coordinate", "pseudo"))
    elif threshold is not None:
        raise ValueError(f"threshold is the delta of bias='huber', but bias={rule.bias!r}; pass threshold=None")
    if rule.momentum:
        if log_momentum is None:
            raise ValueError("momentum=True needs log_momentum [B, T, H] (log of the momentum factor); got None")
        _check_gate("log_momentum", log_momentum, q, channels=False)
    elif log_momentum is not None:
        raise ValueError("log_momentum given, but the rule has momentum=False; pass log_momentum=None")


def _check_signs(log_decay: Tensor, step_size: Tensor, threshold: Tensor | None, log_momentum: Tensor | None) -> None:
    for name, gate in (("log_decay", log_decay), ("log_momentum", log_momentum)):
        if gate is None:
            continue
        low, high = (x.item() for x in gate.detach().aminmax())
        if not (high <= 0 and low > -math.inf):
            raise ValueError(
                f"{name} is the log of a factor in (0, 1]: it must be finite and <= 0; got values from {low:g} to "
                f"{high:g}: pass logsigmoid(...), and about -80 to forget everything"
            )
    for name, gate in (("step_size", step_size), ("threshold", threshold)):
        if gate is None:
            continue
        low, high = (x.item() for x in gate.detach().aminmax())
        if not (low >= 0 and high < math.inf):
            raise ValueError(f"{name} must be finite and >= 0; got values from {low:g} to {high:g}: pass softplus(...)")


def _check_boundaries(q: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    batch, tokens = q.shape[:2]
    if cu_seqlens is None:
        return torch.arange(batch + 1, dtype=torch.int64) * tokens
    if (
        not isinstance(cu_seqlens, Tensor)
        or cu_seqlens.dim() != 1
        or cu_seqlens.dtype not in (torch.int32, torch.int64)
    ):
        raise ValueError(f"cu_seqlens must be a 1-d int32 or int64 tensor of boundaries; got {cu_seqlens!r}")
    if batch != 1:
        raise ValueError(f"cu_seqlens packs all sequences into one row: q must be [1, T, H, D]; got {_shape(q)}")
    bounds = cu_seqlens.detach().to("cpu", torch.int64)
    if bounds.numel() < 2 or bounds[0] != 0 or bounds[-1] != tokens:
        raise ValueError(f"cu_seqlens must run from 0 to T = {tokens}; got {bounds.tolist()}")
    if bool((bounds.diff() <= 0).any()):
        raise ValueError(f"cu_seqlens must grow: an empty sequence cannot be packed; got {bounds.tolist()}")
    return bounds


def _check_weights(rule: MirasRule, weights: Weights, q: Tensor) -> None:
    heads, dim = q.shape[2:]
    wanted = "(W1 [H, D, N], W2 [H, N, D])" if rule.memory == "mlp" else "(W [H, D, D],)"
    if not isinstance(weights, tuple | list) or len(weights) != rule.num_weights:
        got = f"{len(weights)} of them" if isinstance(weights, tuple | list) else type(weights).__name__
        raise ValueError(f"memory={rule.memory!r} takes weights = {wanted}; got {got}")
    for index, w in enumerate(weights):
        _check_float(f"weights[{index}]", w, q)
    shapes = [list(w.shape) for w in weights]
    hidden = weights[0].shape[-1] if rule.memory == "mlp" else dim
    expected = [[heads, dim, hidden], [heads, hidden, dim]][: rule.num_weights]
    if shapes != expected or hidden == 0:
        raise ValueError(f"weights must be {wanted} with H = {heads}, D = {dim}; got {shapes}")
    if rule.link in ("lq", "pnorm_dual") and q.device.type == "cpu":
        for index, w in enumerate(weights):
            if not bool((w.detach() != 0).flatten(1).any(1).all()):
                raise ValueError(
                    f"link={rule.link!r} divides by |A|_q: weights[{index}] must not be all zero in a head"
                )


def _check_state(rule: MirasRule, state: MirasState, weights: Weights, n: int, chunk_size: int, q: Tensor) -> None:
    if not isinstance(state, MirasState):
        raise ValueError(f"state must be the MirasState of an earlier call or None; got {type(state).__name__}")
    if state.rule != rule:
        raise ValueError(f"state was written under another rule: {state.rule}; this call has {rule}")
    if state.chunk_size != chunk_size:
        raise ValueError(
            f"state was written with chunk_size={state.chunk_size}; got chunk_size={chunk_size}: the chunk size is "
            "part of the function, keep it for the whole sequence"
        )
    if state.batch_size != n:
        raise ValueError(
            f"state holds {state.batch_size} sequences, the call has {n}; select rows with state.select(...)"
        )
    for part in (state.anchor, state.running, *(() if state.momentum is None else (state.momentum,))):
        shapes = [list(x.shape[1:]) for x in part]
        if shapes != [list(w.shape) for w in weights]:
            raise ValueError(f"state tensors must be [N, *weights] = {[_shape(w) for w in weights]}; got {shapes}")
        if part[0].device != q.device:
            raise ValueError(f"state must be on q's device {q.device}; got {part[0].device}")
