"""HCAM: a memory of past chunks of experience, read by chunk first and in detail second (arXiv 2105.14039).

B batch, T time, C steps of a chunk, M chunks.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memarch.ops import ChunkAttentionWeights, chunk_attention

from ._episodes import Episodes, check_call, check_sizes, episodes
from ._hcam_memory import Candidates, HCAMState, collect, empty_state, keep_newest
from .local_attention import LocalAttention, LocalAttentionState

AGE_BUCKETS = 32
"""Ages of chunks that the embedding tells apart, in chunk lengths; older ones share the last."""


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
        projections = ChunkAttentionWeights(*(_projection(d_model) for _ in ChunkAttentionWeights._fields))
        self.chunk_weights = nn.ParameterDict(projections._asdict())
        pooling = torch.full((chunk_size, d_model), 1 / chunk_size)
        self.pooling = nn.Parameter(pooling) if summary == "learned" else None
        self.age_keys = nn.Parameter(torch.zeros(AGE_BUCKETS, d_model)) if chunk_age else None
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(
        self, x: Tensor, state: HCAMState | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, HCAMState]:
        """Steps x `[B, T, d_model]` after those in `state`; None is an empty memory at an episode's start."""
        check_call(x, self.d_model, reset, state, HCAMState, getattr(state, "contents", None))
        local_state: LocalAttentionState | None = None
        if state is not None:
            self._check_state(state)
            local_state = state.local
        near, local_state = self.local(self.local_norm(x), local_state, reset=reset)
        h = x + near
        state = empty_state(x, self.num_chunks, self.chunk_size, local_state) if state is None else state
        stored = F.layer_norm(x, (self.d_model,))
        if not self.gradient_window:
            stored = stored.detach()
        steps = episodes(x, reset, state.num_pending)
        candidates = collect(state, stored, steps, reset, self.within_episode)
        h = h + self._read(self.chunk_norm(h), candidates, steps)
        ended = keep_newest(candidates, state, stored, steps, local_state, self.within_episode)
        return h + self.mlp(self.mlp_norm(h)), ended

    def _read(self, query: Tensor, memory: Candidates, steps: Episodes) -> Tensor:
        weights = ChunkAttentionWeights(**self.chunk_weights)
        contents, summaries = memory.contents, memory.summaries
        if not self.gradient_window:
            contents, summaries = contents.detach(), summaries.detach()
        if self.pooling is not None:
            scale = self.chunk_size / memory.num_rows.clamp_min(1)
            summaries = torch.einsum("bmcd,cd->bmd", contents, self.pooling) * scale[..., None].to(contents.dtype)
        return chunk_attention(
            query,
            summaries.to(query.dtype),
            contents.to(query.dtype),
            weights=weights,
            num_heads=self.num_heads,
            top_k=self.top_k,
            visible=memory.visible(steps, self.num_chunks, self.within_episode),
            row_valid=memory.real_rows(),
            router_bias=self._age_bias(query, memory, weights.router_query),
            stop_gradient=False,
        )

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


def _projection(d_model: int) -> nn.Parameter:
    """Variance scaling by 2 over the inputs, truncated at two deviations: the released module's start."""
    deviation = (2.0 / d_model) ** 0.5 / 0.87962566
    return nn.Parameter(
        nn.init.trunc_normal_(torch.zeros(d_model, d_model), 0, deviation, -2 * deviation, 2 * deviation)
    )
