"""Look tokens up in an embedding of which some rows are noise this time; the weights themselves are never touched.

`embedding_substitute_reference` and `substitute_logits_reference` are the definition: a copy of the whole matrix with
rows overwritten. `embedding_substitute` and `substitute_logits` move the touched rows only. V tokens, D columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ._dispatch import choose_backend, kernels, outside_graphs
from ._philox import SUBSTITUTE, check_seed_and_step, chosen, normal_rows, threshold


@outside_graphs
def substituted_tokens(ids: Tensor, *, probability: float, seed: int, step: int, keep: Tensor | None = None) -> Tensor:
    """The tokens among `ids` that this seed and step substitute, `[R]` int64, ascending, each once.

    Each token is chosen with this probability on its own: the same tokens on every rank, whatever else is in its batch.

    Args:
        ids: int64, any shape.
        keep: `[V]` bool, tokens never substituted (padding); None spares none.
    """
    check_seed_and_step(seed, step)
    tokens = ids.unique()
    if keep is not None:
        tokens = tokens[~keep[tokens]]
    return tokens[chosen(tokens, probability, seed=seed, step=step)]


@outside_graphs
def substitute_rows(tokens: Tensor, num_columns: int, *, std: float, seed: int, step: int) -> Tensor:
    """The rows that stand in for `tokens` `[R]` at this step: N(0, std^2), `[R, num_columns]` float32."""
    check_seed_and_step(seed, step)
    return normal_rows(tokens, num_columns, std=std, seed=seed, step=step, stream=SUBSTITUTE)


def embedding_substitute_reference(
    ids: Tensor,
    weight: Tensor,
    *,
    probability: float,
    std: float,
    seed: int,
    step: int,
    keep: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """`embedding_substitute` by its definition: overwrite rows of a copy, look up in it; `backend` is ignored."""
    _check(ids, weight, probability, std, seed, step, keep)
    tokens = substituted_tokens(ids, probability=probability, seed=seed, step=step, keep=keep)
    return F.embedding(ids, _with_substitutes(weight, tokens, std, seed, step))


def substitute_logits_reference(
    hidden: Tensor, weight: Tensor, tokens: Tensor, *, std: float, seed: int, step: int
) -> Tensor:
    """Logits `[..., V]` of a tied head whose rows `tokens` are substituted, by definition."""
    return hidden @ _with_substitutes(weight, tokens, std, seed, step).T


@outside_graphs
def embedding_substitute(
    ids: Tensor,
    weight: Tensor,
    *,
    probability: float,
    std: float,
    seed: int,
    step: int,
    keep: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Embed `ids`; every token chosen for this step gets a fresh N(0, std^2) row, the same at all its positions.

    Source: probabilistic temporary forgetting, arXiv 2406.00053 v3. Gradients reach the rows of `weight` that were
    looked up, none those that were substituted; pass `weight.detach()` to keep all from it.

    Args:
        ids: int64, any shape, below V.
        weight: `[V, D]`, float32, bfloat16 or float16 (others on the torch path).
        probability: with which each token is substituted, whole vocabulary alike.
        std: of the rows that stand in.
        seed: in [0, 2^64).
        step: in [0, 2^56).
        keep: `[V]` bool, tokens never substituted.
        backend: "auto", "torch", "triton"; None reads MEMARCH_BACKEND.

    Returns:
        `[*ids.shape, D]` in weight's dtype.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, numbers out of range.
    """
    _check(ids, weight, probability, std, seed, step, keep)

    def unsupported(module: object) -> str:
        return str(module.unsupported([weight]))  # type: ignore[attr-defined]

    if choose_backend("embedding_substitute", backend, weight, unsupported) == "triton":
        rows: Tensor = _Lookup.apply(ids, weight, keep, threshold(probability), std, seed, step)
        return rows
    tokens = substituted_tokens(ids, probability=probability, seed=seed, step=step, keep=keep)
    rows = F.embedding(ids, weight)
    if not tokens.numel():
        return rows
    place = torch.searchsorted(tokens, ids.contiguous()).clamp_(max=tokens.numel() - 1)
    at = tokens[place] == ids
    noise = substitute_rows(tokens, weight.shape[1], std=std, seed=seed, step=step).to(weight.dtype)
    return rows.masked_scatter(at[..., None], noise[place[at]])


@outside_graphs
def substitute_logits(logits: Tensor, hidden: Tensor, tokens: Tensor, *, std: float, seed: int, step: int) -> Tensor:
    """Correct the logits of a tied head: columns `tokens` as if their rows were those that `embedding_substitute` used.

    In place: `logits` `[..., V]` = hidden @ weight.T is changed and returned; gradients of the corrected columns reach
    `hidden` `[..., D]` through the rows that stood in, and not the weights. tokens: from `substituted_tokens`.
    """
    if logits.shape[:-1] != hidden.shape[:-1]:
        raise ValueError(
            f"logits and hidden must have the same positions; got {list(logits.shape)} and {list(hidden.shape)}"
        )
    if not tokens.numel():
        return logits
    rows = substitute_rows(tokens, hidden.shape[-1], std=std, seed=seed, step=step).to(hidden.dtype)
    return logits.index_copy_(-1, tokens, (hidden @ rows.T).to(logits.dtype))


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, ids: Tensor, weight: Tensor, keep: Tensor | None, below: int, std: float, seed: int, step: int
    ) -> Tensor:
        rows: Tensor
        rows, taken = kernels("embedding_substitute").lookup(ids, weight, keep, below, std, seed, step)
        ctx.save_for_backward(ids, taken)
        ctx.num_tokens = weight.shape[0]
        return rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        ids, taken = ctx.saved_tensors
        # A token is substituted at all its positions or at none: sending those to a padding row drops their gradients.
        spare = torch.where(taken, ctx.num_tokens, ids)
        whole = torch.ops.aten.embedding_dense_backward(grad, spare, ctx.num_tokens + 1, ctx.num_tokens, False)
        return None, whole[: ctx.num_tokens], None, None, None, None, None


def _with_substitutes(weight: Tensor, tokens: Tensor, std: float, seed: int, step: int) -> Tensor:
    rows = substitute_rows(tokens, weight.shape[1], std=std, seed=seed, step=step)
    return weight.index_copy(0, tokens, rows.to(weight.dtype))


def _check(
    ids: Tensor, weight: Tensor, probability: float, std: float, seed: int, step: int, keep: Tensor | None
) -> None:
    if weight.dim() != 2 or not weight.is_floating_point():
        raise ValueError(f"weight must be a floating-point [V, D]; got {weight.dtype} {list(weight.shape)}")
    if ids.dtype != torch.int64:
        raise ValueError(f"ids must be int64; got {ids.dtype}")
    if not 0 <= std < float("inf"):
        raise ValueError(f"std must be finite and at least 0; got {std}")
    threshold(probability)
    check_seed_and_step(seed, step)
    if keep is not None and (keep.dtype != torch.bool or keep.shape != weight.shape[:1]):
        raise ValueError(f"keep must be bool [{weight.shape[0]}]; got {keep.dtype} {list(keep.shape)}")
    for name, other in (("ids", ids), ("keep", keep)):
        if other is not None and other.device != weight.device:
            raise ValueError(f"{name} must be on weight's device {weight.device}; got {other.device}")
