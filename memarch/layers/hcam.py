"""HCAM: a memory of past chunks of experience, read by chunk first and in detail second (arXiv 2105.14039).

B batch, T time, C steps of a chunk, M chunks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memarch.ops import ChunkAttentionWeights, chunk_attention
from memarch.ops._chunk_attention_forms import select_chunks

from ._episodes import Episodes, check_call, check_sizes, episodes
from ._hcam_memory import Candidates, HCAMState, collect, empty_state, keep_newest
from .local_attention import LocalAttention
from .swiglu import SwiGLU

AGE_BUCKETS = 32
"""Ages of chunks that the embedding tells apart, in chunk lengths; older ones share the last."""


class ChunkReads(NamedTuple):
    """Chunks that each step read. k of them, most relevant first.

    first, last: `[B, T, k]` int64, how many steps ago the chunk's first and last step were.
    weight: `[B, T, k]`, 0 where there was nothing to read.
    """

    first: Tensor
    last: Tensor
    weight: Tensor


class HCAM(nn.Module):
    """Transformer layer with three steps: attention over the last steps, over remembered chunks, an MLP.

    h = x + Local(LN x);  h = h + Chunks(LN h);  y = h + MLP(LN h). The layer's own inputs, normalised, are cut into
    chunks of `chunk_size` steps counted from the episode's start; a step sees the chunks that ended before it. When
    the memory is full the newest chunk takes the oldest one's place. Acting step by step gives what the whole window
    gives, wherever resets and cuts lie.

    Shapes: x `[B, T, d_model]` -> `[B, T, d_model]`; reset `[B, T]` bool, True where a new episode begins; state
    `HCAMState`.

    Args:
        d_model: width of the residual stream.
        num_heads: heads, of the attention inside a chunk and of the local one; their width must be even.
        chunk_size: C, steps of a chunk.
        top_k: chunks that a step reads.
        num_chunks: M, chunks kept, at least `top_k`.
        local_window: steps that the local attention sees, at least `chunk_size`: the chunk in progress is in no memory.
        reset_memory: "episode": a reset empties the memory, and drops the chunk in progress; "never": chunks of
            earlier episodes stay readable, and a reset stores the chunk in progress as it is.
        summary: what the router sees of a chunk: "mean", or "learned": a weight for each row and channel, so that
            chunks of the same mean differ; it starts as the mean.
        chunk_age: add an embedding of the chunk's age to the router's keys: contents cannot say "31 steps ago".
        gradient_window: let gradients reach, through chunks, the steps that wrote them in the same call (and in
            earlier ones if their state was not detached). Off: what is stored is cut from the graph.
        start: "recall": keys' projections start as the queries', value and output as the identity, so that from the
            first step on a query reads what is most like it, as it was stored (after arXiv 2305.09828, which starts
            transformers' attention from such products); "random": the released module's, all independent.
        mlp: "swiglu", whose products compare what was read with what is seen, or "gelu", as wide as costs the same.

    Paper: s_i `summaries`, m_ij `contents`; what is stored has no gain of its own, for it could not learn one.
    Raises: ValueError for sizes below 1 or that do not fit each other, an unknown option, a wrong x, reset or state.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        chunk_size: int,
        top_k: int,
        num_chunks: int,
        local_window: int,
        reset_memory: Literal["episode", "never"] = "episode",
        summary: Literal["mean", "learned"] = "mean",
        chunk_age: bool = False,
        gradient_window: bool = False,
        start: Literal["recall", "random"] = "recall",
        mlp: Literal["swiglu", "gelu"] = "swiglu",
    ) -> None:
        super().__init__()
        check_sizes(chunk_size=chunk_size, top_k=top_k, num_chunks=num_chunks, local_window=local_window)
        if num_chunks < top_k:
            raise ValueError(f"num_chunks must be at least top_k={top_k}; got {num_chunks}: keep more or read fewer")
        if local_window < chunk_size:
            raise ValueError(
                f"local_window must be at least chunk_size={chunk_size}, or steps of the chunk in progress are seen by "
                f"nothing; got {local_window}"
            )
        for name, value, allowed in (
            ("reset_memory", reset_memory, ("episode", "never")),
            ("summary", summary, ("mean", "learned")),
            ("start", start, ("recall", "random")),
            ("mlp", mlp, ("swiglu", "gelu")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
        self.local = LocalAttention(d_model, num_heads, window_tokens=local_window)
        self.d_model, self.num_heads, self.chunk_size, self.top_k = d_model, num_heads, chunk_size, top_k
        self.num_chunks, self.within_episode, self.gradient_window = (
            num_chunks,
            reset_memory == "episode",
            gradient_window,
        )
        self.local_norm, self.chunk_norm, self.mlp_norm = (nn.LayerNorm(d_model) for _ in range(3))
        projections = {name: _projection(d_model) for name in ChunkAttentionWeights._fields}
        if start == "recall":
            with torch.no_grad():
                projections["router_key"].copy_(projections["router_query"])
                projections["key"].copy_(projections["query"])
                nn.init.eye_(projections["value"])
                nn.init.eye_(projections["output"])
        self.chunk_weights = nn.ParameterDict(projections)
        pooling = torch.full((chunk_size, d_model), 1 / chunk_size)
        self.pooling = nn.Parameter(pooling) if summary == "learned" else None
        self.age_keys = nn.Parameter(torch.zeros(AGE_BUCKETS, d_model)) if chunk_age else None
        self.mlp = SwiGLU(d_model) if mlp == "swiglu" else _gelu_mlp(d_model)

    def forward(
        self, x: Tensor, state: HCAMState | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, HCAMState]:
        """Steps x `[B, T, d_model]` after those in `state`; None is an empty memory at an episode's start."""
        h, memory, steps, state, stored = self._remember(x, state, reset)
        arguments = self._arguments(self.chunk_norm(h), memory, steps)
        h = h + chunk_attention(**arguments, num_heads=self.num_heads, stop_gradient=False)
        ended = keep_newest(memory, state, stored, steps, state.local, self.within_episode)
        return h + self.mlp(self.mlp_norm(h)), ended

    @torch.no_grad()
    def reads(self, x: Tensor, state: HCAMState | None = None, *, reset: Tensor | None = None) -> ChunkReads:
        """What `forward` with the same arguments reads: to look into a memory, not to train."""
        h, memory, steps, _, _ = self._remember(x, state, reset)
        a = self._arguments(self.chunk_norm(h), memory, steps)
        allowed = a["visible"] & a["row_valid"].any(-1)[:, None]
        top_k = min(self.top_k, allowed.shape[-1])
        chosen = select_chunks(a["x"], a["summaries"], a["weights"], allowed, a["router_bias"], top_k, "top_k")
        row = torch.arange(x.shape[0], device=x.device)[:, None, None]
        step = torch.arange(x.shape[1], device=x.device)[:, None]
        last = step - memory.end[row, chosen.chunk]
        return ChunkReads(last + memory.num_rows[row, chosen.chunk] - 1, last, chosen.weight)

    def _remember(
        self, x: Tensor, state: HCAMState | None, reset: Tensor | None
    ) -> tuple[Tensor, Candidates, Episodes, HCAMState, Tensor]:
        """After the local attention: the stream, the chunks, where steps lie in episodes, the state (its local part
        new already), and what these steps store."""
        check_call(x, self.d_model, reset, state, HCAMState, getattr(state, "contents", None))
        if state is not None:
            self._check_state(state)
        near, local = self.local(self.local_norm(x), None if state is None else state.local, reset=reset)
        state = (
            empty_state(x, self.num_chunks, self.chunk_size, local) if state is None else replace(state, local=local)
        )
        stored = F.layer_norm(x, (self.d_model,))
        if not self.gradient_window:
            stored = stored.detach()
        steps = episodes(x, reset, state.num_pending)
        return x + near, collect(state, stored, steps, reset, self.within_episode), steps, state, stored

    def _arguments(self, query: Tensor, memory: Candidates, steps: Episodes) -> dict[str, Any]:
        """Those of `chunk_attention`."""
        weights = ChunkAttentionWeights(**self.chunk_weights)
        contents, summaries = memory.contents, memory.summaries
        if not self.gradient_window:
            contents, summaries = contents.detach(), summaries.detach()
        if self.pooling is not None:
            scale = self.chunk_size / memory.num_rows.clamp_min(1)
            summaries = torch.einsum("bmcd,cd->bmd", contents, self.pooling) * scale[..., None].to(contents.dtype)
        return {
            "x": query,
            "summaries": summaries.to(query.dtype),
            "contents": contents.to(query.dtype),
            "weights": weights,
            "top_k": self.top_k,
            "visible": memory.visible(steps, self.num_chunks, self.within_episode),
            "row_valid": memory.real_rows(),
            "router_bias": self._age_bias(query, memory, weights.router_query),
        }

    def _age_bias(self, query: Tensor, memory: Candidates, router_query: Tensor) -> Tensor | None:
        """`[B, T, M + N]`: the router's query times the embedding of each chunk's age."""
        if self.age_keys is None:
            return None
        scores = (query @ router_query.mT) @ self.age_keys.mT * router_query.shape[0] ** -0.5
        step = torch.arange(query.shape[1], device=query.device)
        age = (step[:, None] - memory.end[:, None] - 1) // self.chunk_size
        return scores.gather(-1, age.clamp(0, AGE_BUCKETS - 1)).to(query.dtype)

    def _check_state(self, state: HCAMState) -> None:
        if tuple(state.contents.shape[1:3]) != (self.num_chunks, self.chunk_size):
            raise ValueError(
                f"state must hold num_chunks={self.num_chunks} chunks of chunk_size={self.chunk_size} steps; got "
                f"{state.contents.shape[1]} of {state.contents.shape[2]}: pass the state this layer returned"
            )

    def extra_repr(self) -> str:
        """The choices that no submodule shows."""
        return (
            f"d_model={self.d_model}, num_heads={self.num_heads}, chunk_size={self.chunk_size}, top_k={self.top_k}, "
            f"num_chunks={self.num_chunks}, reset_memory={'episode' if self.within_episode else 'never'!r}"
        )


def _gelu_mlp(d_model: int) -> nn.Module:
    return nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))


def _projection(d_model: int) -> nn.Parameter:
    """Variance scaling by 2 over the inputs, truncated at two deviations: the released module's start."""
    deviation = (2.0 / d_model) ** 0.5 / 0.87962566
    return nn.Parameter(
        nn.init.trunc_normal_(torch.zeros(d_model, d_model), 0, deviation, -2 * deviation, 2 * deviation)
    )
