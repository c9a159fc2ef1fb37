"""Between `chunk_attention` and its Triton kernels: which calls they serve, in which form, and what they are given."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ._chunk_attention_forms import Selection
from ._chunk_attention_inputs import ChunkAttentionWeights, sinusoids
from ._dispatch import kernels

DENSE_TOKENS = 4096
"""M C up to which the dense kernels are taken."""


def no_kernel_for(x: Tensor, contents: Tensor, head_dim: int, form: str | None, module: ModuleType) -> str:
    """Why the kernels in `module` cannot serve this call; empty if they can."""
    reasons = [module.unsupported(x, contents.shape[2], head_dim, name) for name in _forms(x, contents, form)]
    return "" if "" in reasons else reasons[0]


def _forms(x: Tensor, contents: Tensor, form: str | None) -> tuple[str, ...]:
    """The forms to try, the one that these sizes want first.

    By operations, since no GPU has been measured: dense for a memory of few chunks, where a tile of queries reads most
    of them anyway, sparse for a large one, or for so few queries that a dense tile is mostly empty.
    """
    if form is not None:
        return (form,)
    dense = x.shape[1] >= 16 and contents.shape[1] * contents.shape[2] <= DENSE_TOKENS
    return ("dense", "absorbed") if dense else ("absorbed", "dense")


def triton_chunks(
    x: Tensor,
    contents: Tensor,
    real: Tensor,
    weights: ChunkAttentionWeights,
    num_heads: int,
    chosen: Selection,
    form: str | None,
) -> Tensor:
    """`chunk_attention` after the router, in x's dtype with float32 sums; real: rows somebody may see."""
    module = kernels("chunk_attention")
    query, key, value, output = (w.to(x.dtype) for w in weights[2:])
    head_dim = query.shape[0] // num_heads
    form = next(f for f in _forms(x, contents, form) if not module.unsupported(x, contents.shape[2], head_dim, f))
    q = (x @ query.mT).unflatten(-1, (num_heads, head_dim))
    position = sinusoids(contents.shape[2], contents.shape[3], contents.float()).to(x.dtype)
    weight = chosen.weight.float()
    if form == "dense":
        rows = contents.masked_fill(~real.unsqueeze(-1), 0) + position
        k, v = ((rows @ w.mT).unflatten(-1, (num_heads, head_dim)) for w in (key, value))
        spread = weight.new_zeros(*x.shape[:2], contents.shape[1]).scatter(-1, chosen.chunk, weight)
        mixed = module.dense_chunks(q, k, v, real, spread)
    else:
        key, value = (w.unflatten(0, (num_heads, head_dim)) for w in (key, value))
        q = torch.einsum("bthf,hfd->bthd", q * head_dim**-0.5, key)
        mixed = module.sparse_chunks(q, contents, real, position, chosen.chunk, weight)
        mixed = torch.einsum("bthd,hfd->bthf", mixed, value)
    return mixed.flatten(2) @ output.mT
