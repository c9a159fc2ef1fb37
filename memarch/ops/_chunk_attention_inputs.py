"""What `chunk_attention` takes: the weights' container and the checks that both paths share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FORMS = ("gather", "dense", "absorbed")
NORMALIZE = ("top_k", "all")


class ChunkAttentionWeights(NamedTuple):
    """Projections of `chunk_attention`, each `[out, in]` as nn.Linear holds it. D model width, R router, F all heads.

    router_query, router_key: `[R, D]`. query, key, value: `[F, D]`, head h owns rows h F/H to (h + 1) F/H.
    output: `[D, F]`.
    """

    router_query: Tensor
    router_key: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor


def check_inputs(
    x: Tensor,
    summaries: Tensor,
    contents: Tensor,
    *,
    weights: ChunkAttentionWeights,
    num_heads: int,
    top_k: int,
    visible: Tensor | None,
    row_valid: Tensor | None,
    router_bias: Tensor | None,
    normalize: str,
    form: str | None,
) -> None:
    """Raise ValueError, saying what was expected and what came, before anything is computed."""
    for name, size in (("num_heads", num_heads), ("top_k", top_k)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be an integer of at least 1; got {size!r}")
    if normalize not in NORMALIZE:
        raise ValueError(f"normalize must be one of {', '.join(map(repr, NORMALIZE))}; got {normalize!r}")
    if form is not None and form not in FORMS:
        raise ValueError(f"form must be None (chosen by size) or one of {', '.join(map(repr, FORMS))}; got {form!r}")
    for name, tensor, axes in (("x", x, "[B, T, D]"), ("contents", contents, "[B, M, C, D]")):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a tensor; got {type(tensor).__name__}")
        if tensor.dim() != axes.count(",") + 1 or not tensor.numel():
            raise ValueError(f"{name} must have shape {axes} and not be empty; got {list(tensor.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"x must have a floating-point dtype; got {x.dtype}")
    (batch, time, width), (_, num_chunks, rows, _) = x.shape, contents.shape
    chunks = (batch, num_chunks)
    floats: tuple[tuple[str, Tensor | None, tuple[int, ...], str], ...] = (
        ("contents", contents, (*chunks, rows, width), "[B, M, C, D]"),
        ("summaries", summaries, (*chunks, width), "[B, M, D]"),
        ("router_bias", router_bias, (batch, time, num_chunks), "[B, T, M]"),
    )
    masks: tuple[tuple[str, Tensor | None, tuple[int, ...], str], ...] = (
        ("visible", visible, (batch, time, num_chunks), "[B, T, M]"),
        ("row_valid", row_valid, (*chunks, rows), "[B, M, C]"),
    )
    for dtype, group in ((x.dtype, floats), (torch.bool, masks)):
        for name, value, shape, axes in group:
            if value is not None:
                _check_tensor(name, value, shape, axes, dtype, x)
    _check_weights(weights, x, width, num_heads)


def _check_weights(weights: ChunkAttentionWeights, x: Tensor, width: int, num_heads: int) -> None:
    if not isinstance(weights, ChunkAttentionWeights):
        raise ValueError(f"weights must be ChunkAttentionWeights; got {type(weights).__name__}")
    for name, w in zip(weights._fields, weights, strict=True):
        if not isinstance(w, Tensor) or w.dim() != 2 or not w.is_floating_point():
            got = f"{w.dtype} {list(w.shape)}" if isinstance(w, Tensor) else type(w).__name__
            raise ValueError(f"weights.{name} must be a floating-point matrix; got {got}")
    router, inner = weights.router_query.shape[0], weights.query.shape[0]
    for name, w in zip(weights._fields, weights, strict=True):
        shape = (width, inner) if name == "output" else (router if name.startswith("router") else inner, width)
        _check_tensor(f"weights.{name}", w, shape, "[D, F]" if name == "output" else "[out, D]", w.dtype, x)
    if inner % num_heads:
        raise ValueError(f"num_heads must divide the {inner} rows of weights.query; got {num_heads}")


def _check_tensor(name: str, value: Tensor, shape: tuple[int, ...], axes: str, dtype: torch.dtype, x: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor; got {type(value).__name__}")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must have shape {axes} = {list(shape)}; got {list(value.shape)}")
    if value.dtype != dtype:
        wanted = "torch.bool, True = seen or real" if dtype == torch.bool else f"x's {dtype}"
        raise ValueError(f"{name} must have dtype {wanted}; got {value.dtype}")
    if value.device != x.device:
        raise ValueError(f"{name} must be on x's device {x.device}; got {value.device}: move it there")


def sinusoids(chunk_size: int, width: int, like: Tensor) -> Tensor:
    """`[C, D]` position within the chunk: half sines, half cosines; the last (newest) row is position 0."""
    position = torch.arange(chunk_size - 1, -1, -1, device=like.device, dtype=like.dtype)
    half = (width + 1) // 2
    frequency = 10000.0 ** (-2 * torch.arange(half, device=like.device, dtype=like.dtype) / width)
    angle = position[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)[:, :width]
