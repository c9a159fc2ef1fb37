"""Miras layers: Moneta, Yaad, Memora and every other point of the framework (arXiv 2504.13173, Section 5).

B batch, T time, H heads, D head width. Block around the memory: short causal depthwise convolution on q, k and v,
l2-normalised q and k, low-rank data-dependent gates, learned initial memory, normalised and gated output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memarch.ops import MEMORA, MONETA, YAAD, MirasRule, MirasState, miras_memory

from ._miras_init import (
    initial_decays,
    initial_memory,
    initial_step,
    initial_threshold,
    inverse_softplus,
    step_unit,
    threshold_unit,
)

Gates = Literal["channel", "head"]
Decay = Literal["data", "fixed", "none"]
Step = Literal["data", "one"]


@dataclass(frozen=True)
class MirasLayerState:
    """What a Miras layer carries between calls, for B sequences.

    conv: `[B, conv_size - 1, 3 H D]` last inputs of the convolution. memory: see `MirasState`.
    """

    conv: Tensor
    memory: MirasState

    def detach(self) -> MirasLayerState:
        """The same state cut from the autograd graph."""
        return MirasLayerState(self.conv.detach(), self.memory.detach())

    def select(self, rows: list[int] | Tensor) -> MirasLayerState:
        """The states of the given sequences, in that order."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return MirasLayerState(self.conv[index.to(self.conv.device)], self.memory.select(index))


class Miras(nn.Module):
    """Test-time memory under any rule of the framework, as a drop-in sequence mixer.

    Shapes: x `[B, T, d_model]` -> `[B, T, d_model]`; mask `[B, T]` bool, True at real tokens; state `MirasLayerState`.

    Args:
        d_model: width of the residual stream.
        num_heads: H; each head has its own memory.
        rule: bias, retention link, memory: see `memarch.ops.MirasRule`.
        head_dim: D; default d_model / num_heads.
        chunk_size: tokens that share a gradient point; part of the function, so keep it between training and use.
        conv_size: taps of the causal convolution; 1 leaves it out.
        gates: "channel" (the paper's) or "head": one decay and one step size for each channel, or for each head.
        gate_rank: rank of the gates' projections.
        decay: "data" a_t = sigmoid(...), starting from `initial_decays`; "fixed" RetNet's 1 - 2^(-5-h); "none" a = 1.
        step: "data", in units of the step that corrects a fresh memory's error at once to first order; "one" for "dot".

    Paper: alpha_t is exp(`log_decay`), eta_t `step_size`, delta_t `threshold` of `gates(x)`.
    Raises: ValueError for sizes that do not fit, an unknown option, a mask or state of another batch.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        rule: MirasRule,
        head_dim: int | None = None,
        chunk_size: int = 16,
        conv_size: int = 4,
        gates: Gates = "channel",
        gate_rank: int = 32,
        decay: Decay = "data",
        step: Step = "data",
    ):
        super().__init__()
        _check_sizes(
            d_model=d_model, num_heads=num_heads, chunk_size=chunk_size, conv_size=conv_size, gate_rank=gate_rank
        )
        if head_dim is None and d_model % num_heads:
            raise ValueError(
                f"d_model={d_model} is not divisible by num_heads={num_heads}: choose another, or give head_dim"
            )
        for name, value, allowed in (
            ("gates", gates, ("channel", "head")),
            ("decay", decay, ("data", "fixed", "none")),
            ("step", step, ("data", "one")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
        self.d_model, self.num_heads, self.rule, self.chunk_size = d_model, num_heads, rule, chunk_size
        self.head_dim = d_model // num_heads if head_dim is None else head_dim
        _check_sizes(head_dim=self.head_dim)
        self.conv_size, self.gate_kind, self.decay, self.step = conv_size, gates, decay, step
        inner = num_heads * self.head_dim
        self.qkv = nn.Linear(d_model, 3 * inner, bias=False)
        self.conv = nn.Parameter(torch.empty(3 * inner, conv_size).uniform_(-1, 1) * conv_size**-0.5)
        self.gate_sizes = self._gate_sizes()
        self.gate_down = nn.Linear(d_model, gate_rank, bias=False) if self.gate_sizes else None
        self.gate_up = nn.Linear(gate_rank, sum(self.gate_sizes.values())) if self.gate_sizes else None
        self.memory = nn.ParameterList(initial_memory(rule, num_heads, self.head_dim))
        self.step_unit: Tensor
        self.register_buffer("step_unit", torch.tensor(step_unit(rule, self.head_dim)))
        self.output_norm = nn.RMSNorm(self.head_dim, eps=1e-6)
        self.output_gate = nn.Linear(d_model, inner, bias=False)
        self.output = nn.Linear(inner, d_model, bias=False)
        self._init_gates()

    def _gate_sizes(self) -> dict[str, int]:
        """Width of every data-dependent gate, in the order of `gate_up`'s rows."""
        heads, inner = self.num_heads, self.num_heads * self.head_dim
        wide = inner if self.gate_kind == "channel" else heads
        sizes = {}
        if self.decay == "data":
            sizes["log_decay"] = wide
        if self.step == "data":
            sizes["step_size"] = wide
        if self.rule.needs_threshold:
            sizes["threshold"] = wide if self.rule.huber in ("coordinate", "pseudo") else heads
        if self.rule.momentum:
            sizes["log_momentum"] = heads
        return sizes

    @torch.no_grad()
    def _init_gates(self) -> None:
        """Gates start the same for all data, where gradients through long sequences stay near one."""
        if self.gate_up is None:
            return
        nn.init.zeros_(self.gate_up.weight)
        biases = dict(zip(self.gate_sizes, self.gate_up.bias.split(list(self.gate_sizes.values())), strict=True))
        for name, bias in biases.items():
            if name == "log_decay":
                decays = initial_decays(self.rule, self.num_heads)
                bias.copy_(torch.logit(decays.double()).repeat_interleave(bias.numel() // self.num_heads))
            elif name == "step_size":
                bias.fill_(torch.logit(torch.tensor(initial_step(self.rule))))
            elif name == "threshold":
                bias.fill_(inverse_softplus(initial_threshold(self.rule)))
            else:
                bias.zero_()

    def gates(self, x: Tensor) -> dict[str, Tensor | None]:
        """Gates of tokens x `[B, T, d_model]` as `miras_memory` takes them, `[B, T, H]` or `[B, T, H, D]`."""
        shaped: dict[str, Tensor] = {}
        if self.gate_down is not None and self.gate_up is not None:
            raw = self.gate_up(self.gate_down(x)).split(list(self.gate_sizes.values()), dim=-1)
            shaped = {name: self._to_heads(y) for name, y in zip(self.gate_sizes, raw, strict=True)}
        per_head = x.new_ones(*x.shape[:2], self.num_heads)
        out: dict[str, Tensor | None] = {"threshold": None, "log_momentum": None}
        if "log_decay" in shaped:
            log_decay = F.logsigmoid(shaped["log_decay"])
            # Keeps a chunk's exp(-sum) in float32's range, so that channels stay matrix products.
            floor = -56.0 / self.chunk_size
            out["log_decay"] = log_decay.clamp_min(floor) if self.gate_kind == "channel" else log_decay
        elif self.decay == "fixed":
            out["log_decay"] = per_head * torch.log1p(-(2.0 ** (-5 - torch.arange(self.num_heads, device=x.device))))
        else:
            out["log_decay"] = torch.zeros_like(per_head)
        out["step_size"] = torch.sigmoid(shaped["step_size"]) * self.step_unit if "step_size" in shaped else per_head
        if "threshold" in shaped:
            out["threshold"] = F.softplus(shaped["threshold"]) * threshold_unit(self.rule, self.head_dim)
        if "log_momentum" in shaped:
            out["log_momentum"] = F.logsigmoid(shaped["log_momentum"])
        return out

    def _to_heads(self, x: Tensor) -> Tensor:
        return x if x.shape[-1] == self.num_heads else x.unflatten(-1, (self.num_heads, -1))

    def initial_weights(self) -> tuple[Tensor, ...]:
        """Accumulators that every sequence starts from; of unit q-norm under the q-norm links, so that W_0 = A_0."""
        if self.rule.link not in ("lq", "pnorm_dual"):
            return tuple(self.memory)
        return tuple(w / torch.linalg.vector_norm(w, self.rule.q, dim=(1, 2), keepdim=True) for w in self.memory)

    def forward(
        self, x: Tensor, state: MirasLayerState | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, MirasLayerState]:
        """Mix x `[B, T, d_model]`; tokens where mask is False are skipped: they get zeros and leave no trace."""
        self._check(x, state, mask)
        if mask is None or bool(mask.all()):
            return self._mix(x, state, None)
        state = self._empty_state(x) if state is None else state
        lengths = mask.sum(1).cpu()
        rows = torch.nonzero(lengths).flatten()
        y = torch.zeros_like(x)
        if not rows.numel():
            return y, state
        bounds = F.pad(lengths[rows].cumsum(0), (1, 0))
        packed, ended = self._mix(x[mask].unsqueeze(0), state.select(rows), bounds)
        y[mask] = packed[0].to(y.dtype)
        return y, ended if rows.numel() == x.shape[0] else _put_rows(state, rows, ended)

    def _mix(self, x: Tensor, state: MirasLayerState | None, bounds: Tensor | None) -> tuple[Tensor, MirasLayerState]:
        qkv, tail = self._convolve(self.qkv(x), None if state is None else state.conv, bounds)
        q, k, v = (self._to_heads(y) for y in qkv.chunk(3, dim=-1))
        gates = self.gates(x)
        o, memory = miras_memory(
            F.normalize(q, dim=-1),
            F.normalize(k, dim=-1),
            v.contiguous(),
            rule=self.rule,
            weights=self.initial_weights(),
            chunk_size=self.chunk_size,
            state=None if state is None else state.memory,
            cu_seqlens=bounds,
            **gates,  # type: ignore[arg-type]
        )
        y = (
            self.output_norm(o.to(self.output_norm.weight.dtype)) * F.silu(self._to_heads(self.output_gate(x)))
        ).flatten(-2)
        return self.output(y), MirasLayerState(tail, memory)

    def _convolve(self, x: Tensor, tail: Tensor | None, bounds: Tensor | None) -> tuple[Tensor, Tensor]:
        """SiLU of a causal depthwise convolution, and the inputs that the next call still needs."""
        keep = self.conv_size - 1
        rows = x.shape[0] if bounds is None else bounds.numel() - 1
        tail = x.new_zeros(rows, keep, x.shape[-1]) if tail is None else tail.to(x.dtype)
        if bounds is None:
            padded = torch.cat([tail, x], dim=1)
            return F.silu(self._taps(padded)), padded[:, padded.shape[1] - keep :]
        parts = [torch.cat([t, part]) for t, part in zip(tail, x[0].split(bounds.diff().tolist()), strict=True)]
        mixed = torch.cat([self._taps(p.unsqueeze(0)) for p in parts], dim=1)
        return F.silu(mixed), torch.stack([p[p.shape[0] - keep :] for p in parts])

    def _taps(self, padded: Tensor) -> Tensor:
        return F.conv1d(padded.mT, self.conv.unsqueeze(1), groups=padded.shape[-1]).mT

    def _empty_state(self, x: Tensor) -> MirasLayerState:
        from memarch.ops._miras_state import initial_state

        conv = x.new_zeros(x.shape[0], self.conv_size - 1, 3 * self.num_heads * self.head_dim)
        return MirasLayerState(conv, initial_state(self.rule, self.initial_weights(), x.shape[0], self.chunk_size))

    def _check(self, x: Tensor, state: MirasLayerState | None, mask: Tensor | None) -> None:
        if x.dim() != 3 or x.shape[-1] != self.d_model or not x.shape[0] * x.shape[1]:
            raise ValueError(f"x must be [B, T, d_model={self.d_model}] with tokens in it; got {list(x.shape)}")
        if mask is not None and (mask.shape != x.shape[:2] or mask.dtype != torch.bool):
            raise ValueError(f"mask must be bool [B, T] = {list(x.shape[:2])}; got {mask.dtype} {list(mask.shape)}")
        if state is not None and not isinstance(state, MirasLayerState):
            raise ValueError(f"state must be this layer's MirasLayerState or None; got {type(state).__name__}")
        if state is not None and state.conv.shape[0] != x.shape[0]:
            raise ValueError(f"state holds {state.conv.shape[0]} sequences, x has {x.shape[0]}: use state.select(rows)")

    def extra_repr(self) -> str:
        """The choices that no submodule shows."""
        return f"d_model={self.d_model}, num_heads={self.num_heads}, chunk_size={self.chunk_size}, rule={self.rule}"


def _put_rows(state: MirasLayerState, rows: Tensor, part: MirasLayerState) -> MirasLayerState:
    """`state` with the given sequences replaced by `part`."""
    order = torch.arange(state.conv.shape[0])
    order[rows] = torch.arange(rows.numel()) + state.conv.shape[0]
    conv = torch.cat([state.conv.to(part.conv.dtype), part.conv])[order.to(part.conv.device)]
    return MirasLayerState(conv, state.memory.concat(part.memory).select(order))


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1; got {value!r}")


class Moneta(Miras):
    """l_p bias with q-norm retention, (p, q) = (3, 4) (Eqs. 24-25): outlying weights are damped, large errors stressed.

    Shapes, state and other arguments: see `Miras`. q = 4 is an inversion (W has degree -1 in A), so the memory starts
    at |A|_4 = 1, and decay by itself makes W grow until new gradients renew it.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        memory: Literal["mlp", "matrix"] = "mlp",
        p: float = 3.0,
        q: float = 4.0,
        head_dim: int | None = None,
        chunk_size: int = 16,
        conv_size: int = 4,
        gates: Gates = "channel",
        gate_rank: int = 32,
    ):
        super().__init__(
            d_model,
            num_heads,
            rule=MONETA.replace(memory=memory, p=p, q=q),
            head_dim=head_dim,
            chunk_size=chunk_size,
            conv_size=conv_size,
            gates=gates,
            gate_rank=gate_rank,
        )


class Yaad(Miras):
    """Huber bias with l2 retention (Eq. 26): large errors take a bounded step, so one outlier cannot erase the rest.

    Shapes, state and other arguments: see `Miras`. `huber` is "norm" (Eq. 15): errors longer than delta are shortened
    to delta. The paper's model is "mixture" (Eq. 26), whose step jumps by sqrt(D) at the threshold: among 10x
    outliers its recall was lower (benchmarks.recall --op), and with a threshold that typical errors meet its
    gradients explode.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        memory: Literal["mlp", "matrix"] = "mlp",
        huber: Literal["mixture", "coordinate", "norm", "pseudo"] = "norm",
        head_dim: int | None = None,
        chunk_size: int = 16,
        conv_size: int = 4,
        gates: Gates = "channel",
        gate_rank: int = 32,
    ):
        super().__init__(
            d_model,
            num_heads,
            rule=YAAD.replace(memory=memory, huber=huber),
            head_dim=head_dim,
            chunk_size=chunk_size,
            conv_size=conv_size,
            gates=gates,
            gate_rank=gate_rank,
        )


class Memora(Miras):
    """l2 bias with KL retention (Eq. 27): weights live on scaled simplices, kept as logits so that nothing underflows.

    Shapes, state and other arguments: see `Miras`. `read` says which memory tokens inside a chunk see: see `MirasRule`.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        memory: Literal["mlp", "matrix"] = "mlp",
        read: Literal["frozen", "exact"] | None = None,
        head_dim: int | None = None,
        chunk_size: int = 16,
        conv_size: int = 4,
        gates: Gates = "channel",
        gate_rank: int = 32,
    ):
        super().__init__(
            d_model,
            num_heads,
            rule=MEMORA.replace(memory=memory, read=read),
            head_dim=head_dim,
            chunk_size=chunk_size,
            conv_size=conv_size,
            gates=gates,
            gate_rank=gate_rank,
        )
