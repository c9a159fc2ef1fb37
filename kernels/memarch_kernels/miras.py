"""Miras associative memory in Triton: what `memarch.ops.miras_memory` runs on a GPU. See that function for the meaning.

One program per (sequence, head) walks its chunks in order; a second kernel walks them back, with states recomputed from
checkpoints. Every output is written by one program in a fixed order: no atomics, so results are the same in every run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from ._miras_launch import (
    MAX_CHUNK_SIZE,
    MAX_HEAD_DIM,
    OPERANDS,
    Plan,
    Rule,
    Sizes,
    make_plan,
    matrix_launch,
    mlp_launch,
)
from ._miras_matrix import matrix_forward
from ._miras_matrix_backward import matrix_backward
from ._miras_mlp import mlp_forward
from ._miras_mlp_backward import NUM_TILES, mlp_backward
from ._miras_mlp_passes import NUM_SLOTS

INTERPRETED = isinstance(matrix_forward, InterpretedFunction)
"""Whether these kernels run in Triton's interpreter, on CPU tensors (TRITON_INTERPRET=1 before triton's import)."""


def unsupported(q: Tensor, chunk_size: int) -> str:
    """Why these kernels cannot take tensors like q with this chunk size; empty if they can."""
    if q.device.type != "cuda" and not INTERPRETED:
        return (
            f"q is on {q.device}: the kernels need CUDA tensors (on a CPU they run only in Triton's interpreter, "
            "switched on by TRITON_INTERPRET=1 before the first import, for tests)"
        )
    if q.dtype not in OPERANDS:
        return f"the kernels take float32, bfloat16 and float16, not {q.dtype}"
    if q.shape[-1] > MAX_HEAD_DIM:
        return f"the kernels hold head widths up to {MAX_HEAD_DIM}; got {q.shape[-1]}"
    if chunk_size > MAX_CHUNK_SIZE:
        return f"the kernels hold chunks up to {MAX_CHUNK_SIZE} tokens; got chunk_size={chunk_size}"
    return ""


def scan(
    rule: Rule,
    chunk_size: int,
    bounds: Tensor,
    position: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    step_size: Tensor,
    threshold: Tensor | None,
    anchor: tuple[Tensor, ...] | None,
    running: tuple[Tensor, ...],
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """O `[B, T, H, D]`, and per weight the running memory `[N, H, ...]` at each sequence's end and its last anchor.

    bounds, position: see `make_plan`. anchor: None where sequences start from the shared weights `running` `[H, ...]`;
    else the states of earlier tokens, `[N, H, ...]` each.
    """
    if log_decay.dim() != step_size.dim():
        log_decay, step_size = (x if x.dim() == 4 else x.unsqueeze(-1).expand_as(q) for x in (log_decay, step_size))
    plan = make_plan(bounds, position, chunk_size, q.device)
    tensors = [x.contiguous() for x in (q, k, v, log_decay, step_size)]
    delta = None if threshold is None else threshold.contiguous()
    states = [x.float().contiguous() for x in (*(anchor or ()), *running)]
    o, *ends = MirasScan.apply(rule, chunk_size, plan, *tensors, delta, *states)
    num = len(running)
    end = tuple(ends[:num])
    return o, end, end if plan.aligned else tuple(ends[num:])


class MirasScan(torch.autograd.Function):
    """Outputs: O; the memory at each sequence's end; unless all end with a chunk, also their last anchors."""

    @staticmethod
    def forward(
        ctx: Any,
        rule: Rule,
        chunk_size: int,
        plan: Plan,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor,
        step_size: Tensor,
        threshold: Tensor | None,
        *states: Tensor,
    ) -> tuple[Tensor, ...]:
        call = Call(rule, chunk_size, plan, q, k, v, log_decay, step_size, threshold, states=states)
        save = any(ctx.needs_input_grad)
        o, end, end_anchor, saved = call.forward(save)
        if save:
            ctx.save_for_backward(q, k, v, log_decay, step_size, threshold, *states, *saved)
            ctx.call = rule, chunk_size, plan, len(states)
            ctx.set_materialize_grads(False)
        return (o, *end, *end_anchor)

    @staticmethod
    def backward(ctx: Any, d_o: Tensor | None, *d_ends: Tensor | None) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "miras_memory has first derivatives only, but create_graph=True asked for its gradient's graph; "
                "use miras_memory_reference, which autograd differentiates any number of times"
            )
        rule, chunk_size, plan, num_states = ctx.call
        inputs, rest = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        call = Call(rule, chunk_size, plan, *inputs, states=rest[:num_states])
        d_o = torch.zeros_like(call.q) if d_o is None else d_o.contiguous()
        num = call.num_weights
        d_end, d_anchor = (_all_or_none(d, call.ends()) for d in (d_ends[:num], d_ends[num:]))
        return (None, None, None, *call.backward(d_o, d_end, d_anchor, rest[num_states:]))


def _all_or_none(grads: tuple[Tensor | None, ...], like: list[Tensor]) -> tuple[Tensor, ...] | None:
    """Gradients with zeros for missing ones; None if all are missing."""
    if all(g is None for g in grads):
        return None
    return tuple(torch.zeros_like(e) if g is None else g.contiguous() for g, e in zip(grads, like, strict=True))


class Call:
    """One call of the operator with everything its kernels are launched with."""

    def __init__(
        self,
        rule: Rule,
        chunk_size: int,
        plan: Plan,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor,
        step_size: Tensor,
        threshold: Tensor | None,
        *,
        states: tuple[Tensor, ...],
    ):
        self.rule, self.plan = rule, plan
        self.q, self.k, self.v, self.log_decay, self.step_size, self.threshold = (
            q,
            k,
            v,
            log_decay,
            step_size,
            threshold,
        )
        self.num_weights = 2 if rule.memory == "mlp" else 1
        self.has_state = plan.position is not None
        self.anchor, self.running = states[: -self.num_weights] or states, states[-self.num_weights :]
        self.num_heads, head_dim = q.shape[2:]
        hidden = self.running[0].shape[-1] if rule.memory == "mlp" else 0
        self.sizes = Sizes(chunk_size, head_dim, hidden, q.dtype)
        self.programs = plan.num_sequences * self.num_heads
        self.options = {
            **self.sizes.options, **rule.options, "G": plan.group, "CHANNEL": log_decay.dim() == 4,
            "DELTA": rule.needs_threshold, "DELTA_CHANNEL": threshold is not None and threshold.dim() == 4,
            "HAS_STATE": self.has_state,
        }  # fmt: skip

    def ends(self) -> list[Tensor]:
        """Fresh memory for one state per sequence, in the weights' shapes."""
        shape = (self.plan.num_sequences, self.num_heads)
        return [w.new_empty(*shape, *w.shape[-2:]) for w in self.running]

    def checkpoints(self) -> list[Tensor]:
        """Fresh memory for the states that the backward starts from."""
        shape = (self.plan.num_checkpoints, self.num_heads)
        return [w.new_empty(*shape, *w.shape[-2:]) for w in self.running]

    @property
    def tokens(self) -> tuple[Tensor, ...]:
        """The kernels' first arguments; a missing threshold is any pointer."""
        delta = self.q if self.threshold is None else self.threshold
        return self.q, self.k, self.v, self.log_decay, self.step_size, delta

    @property
    def counts(self) -> tuple[int, int]:
        """Number of sequences and of heads."""
        return self.plan.num_sequences, self.num_heads

    @property
    def where(self) -> tuple[Tensor, Tensor]:
        """Plan and positions; missing positions are any pointer."""
        table = self.plan.table
        return table, table if self.plan.position is None else self.plan.position

    def forward(self, save: bool) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
        """O, the memory at the ends, the last anchors (empty where aligned), and what the backward needs."""
        o, end = torch.empty_like(self.q), self.ends()
        anchors = [] if self.plan.aligned else self.ends()
        saved = self.checkpoints() if save else []
        flags = {"SAVE": save, "STORE_ANCHOR": bool(anchors)}
        if self.rule.memory == "matrix":
            launch = matrix_launch(self.sizes, self.rule, backward=False)
            matrix_forward[self.programs, triton.cdiv(self.sizes.block_dim, launch["BV"])](
                *self.tokens, *self.anchor, *self.running, *self.where, o, *end, *(anchors or end), *(saved or end),
                *self.counts, **flags, **self.options, **launch,
            )  # fmt: skip
            return o, end, anchors, saved
        for e, r in zip(end, self.running, strict=True):
            e.copy_(r)
        saved += [self.q.new_empty(self.q.shape, dtype=torch.float32) for _ in range(2 * save)]
        mlp_forward[(self.programs,)](
            *self.tokens, *self.anchor, *self.where, o, *end, *(anchors or end), *(saved or (*end, o, o)),
            *self.scratch(2, 3), *self.counts, N=self.sizes.hidden_dim, **flags, **self.options,
            **mlp_launch(self.sizes, self.rule, backward=False),
        )  # fmt: skip
        return o, end, anchors, saved

    def scratch(self, num_tiles: int, num_hidden: int) -> tuple[Tensor, Tensor]:
        """Memory of each program: tiles of tokens to transpose, and rows of hidden units; as operands of products."""
        dtype = torch.bfloat16 if self.q.dtype == torch.bfloat16 else torch.float32
        rows = self.sizes.block_chunk
        tiles = self.q.new_empty(self.programs, num_tiles, rows * max(rows, self.sizes.block_dim), dtype=dtype)
        return tiles, self.q.new_empty(self.programs, num_hidden, rows, self.sizes.hidden_dim, dtype=dtype)

    def backward(
        self,
        d_o: Tensor,
        d_end: tuple[Tensor, ...] | None,
        d_end_anchor: tuple[Tensor, ...] | None,
        saved: tuple[Tensor, ...],
    ) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v, log_decay, step_size, threshold and the states."""
        d_tokens = [None if x is None else torch.empty_like(x) for x in (*self.tokens[:5], self.threshold)]
        d_running, d_anchor = self.ends(), self.ends() if self.has_state else []
        flags = {"HAS_D_END": d_end is not None, "HAS_D_ANCHOR": d_end_anchor is not None}
        given = (d_o, *(d_end or d_running), *(d_end_anchor or d_running))
        wanted = (*(self.q if d is None else d for d in d_tokens), *(d_anchor or d_running), *d_running)
        states = [w.new_empty(self.programs * self.plan.group, *w.shape[-2:]) for w in self.running]
        if self.rule.memory == "matrix":
            tile = self.q.new_empty(self.programs, self.sizes.block_chunk, self.sizes.block_dim, dtype=torch.float32)
            matrix_backward[(self.programs,)](
                *self.tokens, *self.anchor, *self.where, *saved, *given, *wanted, *states, tile, *self.counts,
                **flags, **self.options, **matrix_launch(self.sizes, self.rule, backward=True),
            )  # fmt: skip
        else:
            mlp_backward[(self.programs,)](
                *self.tokens, *self.anchor, *self.where, *saved, *given, *wanted, *states,
                *self.scratch(NUM_TILES, NUM_SLOTS), *self.counts,
                N=self.sizes.hidden_dim, TILES=NUM_TILES, SLOTS=NUM_SLOTS, **flags, **self.options,
                **mlp_launch(self.sizes, self.rule, backward=True),
            )  # fmt: skip
        if not self.has_state:
            return (*d_tokens, *(d.sum(0) for d in d_running))
        return (*d_tokens, *d_anchor, *d_running)
