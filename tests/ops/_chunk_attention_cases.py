"""Calls of chunk attention and their results: shared by the operator's tests and the kernels'."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from memarch.ops import ChunkAttentionWeights

B, T, M, C, D, HEADS, INNER, ROUTER = 2, 5, 7, 3, 11, 2, 26, 13


class Inputs(NamedTuple):
    x: Tensor
    summaries: Tensor
    contents: Tensor
    weights: ChunkAttentionWeights
    visible: Tensor | None
    row_valid: Tensor | None
    router_bias: Tensor | None


def make(
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    *,
    batch: int = B,
    time: int = T,
    num_chunks: int = M,
    rows: int = C,
    width: int = D,
    inner: int = INNER,
) -> Inputs:
    """Random inputs with masks: the last sequence's third query sees nothing, the first one's fifth chunk is empty."""
    g = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()

    shapes = [(ROUTER, width), (ROUTER, width), (inner, width), (inner, width), (inner, width), (width, inner)]
    weights = ChunkAttentionWeights(*(leaf(*s) for s in shapes))
    visible = torch.rand(batch, time, num_chunks, generator=g) > 0.3
    visible[-1, 2 % time] = False
    row_valid = torch.rand(batch, num_chunks, rows, generator=g) > 0.3
    row_valid[0, 4 % num_chunks] = False
    contents = (leaf(batch, time, width), leaf(batch, num_chunks, width), leaf(batch, num_chunks, rows, width))
    return Inputs(*contents, weights, visible, row_valid, leaf(batch, time, num_chunks))


def to(i: Inputs, dtype: torch.dtype, device: str = "cpu") -> Inputs:
    """The same numbers as fresh leaves of another dtype, on another device."""

    def leaf(z):
        if isinstance(z, ChunkAttentionWeights):
            return ChunkAttentionWeights(*map(leaf, z))
        if z is None or not z.is_floating_point():
            return z if z is None else z.to(device)
        return z.detach().to(device, dtype).requires_grad_()

    return Inputs(*map(leaf, i))


def call(fn, i: Inputs, **options) -> Tensor:
    named = i._asdict()
    arrays = [named.pop(n) for n in ("x", "summaries", "contents")]
    return fn(*arrays, **{"num_heads": HEADS, "top_k": 3, **named, **options})


def results(fn, i: Inputs, **options) -> dict[str, Tensor]:
    """Output, and the gradient of a random scalar with respect to everything; zeros where there is none."""
    leaves = {n: z for n, z in i._asdict().items() if isinstance(z, Tensor) and z.requires_grad}
    leaves |= {f"weights.{n}": w for n, w in i.weights._asdict().items()}
    y = call(fn, i, **options)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = (y.double() * cotangent.to(y.device)).sum()
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    pairs = zip(leaves.items(), grads, strict=True)
    return {"y": y} | {n: torch.zeros_like(z) if grad is None else grad for (n, z), grad in pairs}
