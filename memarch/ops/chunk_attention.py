"""Hierarchical chunk attention: pick the relevant chunks of a memory, then attend inside each (HCAM, arXiv 2105.14039).

`chunk_attention_reference` is the definition, one query at a time; `chunk_attention` computes the same function in the
cheapest of three exact forms. B batch, T queries, M chunks of C rows, D model width, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._chunk_attention_forms import FORM, choose_form, select_chunks
from ._chunk_attention_inputs import ChunkAttentionWeights, check_inputs, sinusoids
from ._chunk_attention_triton import no_kernel_for, triton_chunks
from ._dispatch import choose_backend, outside_graphs


def chunk_attention_reference(
    x: Tensor,
    summaries: Tensor,
    contents: Tensor,
    *,
    weights: ChunkAttentionWeights,
    num_heads: int,
    top_k: int,
    visible: Tensor | None = None,
    row_valid: Tensor | None = None,
    router_bias: Tensor | None = None,
    normalize: str = "top_k",
    stop_gradient: bool = True,
    form: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """`chunk_attention` by its definition: loops over queries, selected chunks and heads. Slow and obvious.

    Computes in the widest dtype given (use float64 to judge other paths); `form` and `backend` are ignored.
    """
    check_inputs(
        x,
        summaries,
        contents,
        weights=weights,
        num_heads=num_heads,
        top_k=top_k,
        visible=visible,
        row_valid=row_valid,
        router_bias=router_bias,
        normalize=normalize,
        form=form,
    )
    dtype = _compute_dtype(x, *weights)
    w = ChunkAttentionWeights(*(m.to(dtype) for m in weights))
    if stop_gradient:
        summaries, contents = summaries.detach(), contents.detach()
    positions = sinusoids(contents.shape[2], contents.shape[3], contents.to(dtype))
    zero = x.to(dtype).new_zeros(x.shape[-1])
    outputs = []
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            query = x[b, t].to(dtype)
            scores = {}
            for i in range(contents.shape[1]):
                rows = [j for j in range(contents.shape[2]) if row_valid is None or bool(row_valid[b, i, j])]
                if not rows or (visible is not None and not bool(visible[b, t, i])):
                    continue
                key = w.router_key @ summaries[b, i].to(dtype)
                scores[i] = (w.router_query @ query) @ key / math.sqrt(key.numel())
                if router_bias is not None:
                    scores[i] = scores[i] + router_bias[b, t, i].to(dtype)
            chosen = sorted(scores, key=lambda i: (-scores[i].item(), i))[:top_k]
            among = chosen if normalize == "top_k" else list(scores)
            y = zero
            for i in chosen:
                # exp(r_i) / sum exp(r_n), in the form that cannot overflow.
                share = 1 / torch.stack([scores[n] - scores[i] for n in among]).exp().sum()
                rows = [j for j in range(contents.shape[2]) if row_valid is None or bool(row_valid[b, i, j])]
                memory = torch.stack([contents[b, i, j].to(dtype) + positions[j] for j in rows])
                y = y + share * _multi_head(query, memory, w, num_heads)
            outputs.append(y)
    return torch.stack(outputs).view(x.shape).to(x.dtype)


def _multi_head(query: Tensor, memory: Tensor, w: ChunkAttentionWeights, num_heads: int) -> Tensor:
    """Attention of one query `[D]` over the rows `[n, D]` of one chunk."""
    heads = []
    for q, key, value in zip(
        (w.query @ query).chunk(num_heads), w.key.chunk(num_heads), w.value.chunk(num_heads), strict=True
    ):
        attention = torch.softmax(torch.stack([q @ (key @ row) for row in memory]) / math.sqrt(q.numel()), 0)
        heads.append(sum((a * (value @ row) for a, row in zip(attention, memory, strict=True)), torch.zeros_like(q)))
    return w.output @ torch.cat(heads)


@outside_graphs
def chunk_attention(
    x: Tensor,
    summaries: Tensor,
    contents: Tensor,
    *,
    weights: ChunkAttentionWeights,
    num_heads: int,
    top_k: int,
    visible: Tensor | None = None,
    row_valid: Tensor | None = None,
    router_bias: Tensor | None = None,
    normalize: str = "top_k",
    stop_gradient: bool = True,
    form: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Read a memory of chunks: a router picks the `top_k` chunks of each query, multi-head attention reads each.

    r_ti = (W_q x_t) . (W_k s_i) / sqrt(R) + bias_ti;  w_ti = softmax of r over the top k;  y_t = sum_i w_ti MHA(x_t,
    m_i + p), p a sinusoid of the row's position in its chunk, 0 for the last row (released module of arXiv 2105.14039,
    there with biases that start at zero). **A query that sees no chunk gets exactly zero, and so do its gradients.**

    Args:
        x: queries `[B, T, D]`, any floating-point dtype (computed in float32 at least; on kernels in x's own after the
            router, with float32 sums).
        summaries: s, `[B, M, D]`, what the router looks at.
        contents: m, `[B, M, C, D]`, rows from oldest to newest.
        weights: see `ChunkAttentionWeights`.
        num_heads: H.
        top_k: k, chunks read by each query; min(k, M) if there are fewer. Equal scores: the lower index (scores that
            differ by rounding only may fall either way).
        visible: `[B, T, M]` bool, which chunks a query may read; None is all. What nobody sees may hold anything.
        row_valid: `[B, M, C]` bool, which rows are real; None is all. A chunk without real rows is seen by nobody.
        router_bias: `[B, T, M]`, added to r (an embedding of the chunk's age, for example).
        normalize: "top_k": softmax over the selected chunks; "all": over all visible ones, so weights sum to less
            than 1.
        stop_gradient: no gradient to `summaries` and `contents`, as in the released module.
        form: "dense", "gather" or "absorbed", equal to rounding; None is the fastest for these sizes.
        backend: "auto", "torch", "triton"; None reads MEMARCH_BACKEND. Triton has "dense" and "absorbed", for C up to
            64, and first derivatives only; what it has not, "auto" leaves to torch.

    Returns:
        y `[B, T, D]` in x's dtype.

    Raises:
        ValueError: wrong shapes, dtypes or devices, sizes below 1, an unknown option; "triton" without a kernel.
    """
    check_inputs(
        x,
        summaries,
        contents,
        weights=weights,
        num_heads=num_heads,
        top_k=top_k,
        visible=visible,
        row_valid=row_valid,
        router_bias=router_bias,
        normalize=normalize,
        form=form,
    )
    head_dim = weights.query.shape[0] // num_heads
    on_kernels = "triton" == choose_backend(
        "chunk_attention", backend, x, lambda module: no_kernel_for(x, contents, head_dim, form, module)
    )
    if stop_gradient:
        summaries, contents = summaries.detach(), contents.detach()
    (batch, time, _), (_, num_chunks, rows, _) = x.shape, contents.shape
    dtype = _compute_dtype(x, *weights)
    with torch.autocast(x.device.type, enabled=False):
        w = ChunkAttentionWeights(*(m.to(dtype) for m in weights))
        queries, summaries = x.to(dtype), summaries.to(dtype)
        allowed = x.new_ones(batch, time, num_chunks, dtype=torch.bool) if visible is None else visible
        real = x.new_ones(batch, num_chunks, rows, dtype=torch.bool) if row_valid is None else row_valid
        if row_valid is not None:
            allowed = allowed & real.any(-1)[:, None]
        if visible is not None or row_valid is not None:
            seen = allowed.any(1)
            real = real & seen.unsqueeze(-1)
            # Zeros instead of what nobody sees, for the gradient's sake: there 0 times NaN would be NaN.
            if torch.is_grad_enabled():
                summaries = summaries.masked_fill(~seen.unsqueeze(-1), 0)
        bias = None if router_bias is None else router_bias.to(dtype)
        k = min(top_k, num_chunks)
        chosen = select_chunks(queries, summaries, w, allowed, bias, k, normalize)
        if on_kernels:
            return triton_chunks(x, contents, real, weights, num_heads, chosen, form)
        contents = contents.to(dtype)
        name = choose_form(queries, contents, k) if form is None else form
        return FORM[name](queries, contents, real, w, num_heads, chosen).to(x.dtype)


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any input is, else float32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32
