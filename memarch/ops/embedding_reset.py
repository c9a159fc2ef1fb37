"""Re-initialise an embedding matrix and its optimiser moments in place, with the same bits on every device and shard.

`embedding_reset_reference` is the definition; `embedding_reset` does it in one pass. V rows (tokens), D columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._dispatch import choose_backend, kernels, outside_graphs
from ._philox import RESET, check_seed_and_step, normal_rows


def embedding_reset_reference(
    weight: Tensor,
    *,
    std: float,
    seed: int,
    step: int,
    keep: Tensor | None = None,
    moments: Sequence[Tensor] = (),
    copies: Sequence[Tensor] = (),
    first_row: int = 0,
    first_column: int = 0,
    backend: str | None = None,
) -> None:
    """`embedding_reset` by its definition, row by row; `backend` is ignored."""
    _check(weight, std, seed, step, keep, moments, copies, first_row, first_column)
    with torch.no_grad():
        for row in range(weight.shape[0]):
            if keep is not None and keep[row]:
                continue
            token = torch.tensor([first_row + row])
            noise = normal_rows(
                token, weight.shape[1], std=std, seed=seed, step=step, stream=RESET, first_column=first_column
            )
            for tensor in (weight, *copies):
                tensor[row] = noise[0]
            for moment in moments:
                moment[row] = 0


@outside_graphs
def embedding_reset(
    weight: Tensor,
    *,
    std: float,
    seed: int,
    step: int,
    keep: Tensor | None = None,
    moments: Sequence[Tensor] = (),
    copies: Sequence[Tensor] = (),
    first_row: int = 0,
    first_column: int = 0,
    backend: str | None = None,
) -> None:
    """Overwrite rows of `weight` with N(0, std^2) and those of `moments` with zero, in place (active forgetting).

    Source: arXiv 2307.01163. The number at (row, column) depends on seed, step and its place in the whole matrix alone:
    CPU and GPU write the same bits, and ranks that each hold a part of the matrix write what one rank would.

    Args:
        weight: `[V, D]`, any floating-point dtype (the noise is float32, then rounded). Its storage stays, so tied
            weights and captured graphs see the change.
        std: standard deviation of the new rows.
        seed: in [0, 2^64).
        step: in [0, 2^56); another step, other noise.
        keep: `[V]` bool, rows left as they are, their moments too; None keeps none.
        moments: `[V, D]` each, set to zero (AdamW's exp_avg and exp_avg_sq).
        copies: `[V, D]` each, get `weight`'s numbers in their own dtype (the bfloat16 copy of a float32 master).
        first_row, first_column: where this shard begins in the whole matrix; first_column a multiple of 4.
        backend: "auto", "torch", "triton"; None reads MEMARCH_BACKEND.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, std below 0, seed or step out of range.
    """
    _check(weight, std, seed, step, keep, moments, copies, first_row, first_column)
    targets = [tensor.detach() for tensor in (weight, *copies, *moments)]
    num_noisy = 1 + len(copies)

    def unsupported(module: object) -> str:
        return str(module.unsupported(targets))  # type: ignore[attr-defined]

    if choose_backend("embedding_reset", backend, weight, unsupported) == "triton":
        kernels("embedding_reset").reset(targets, num_noisy, keep, std, seed, step, first_row, first_column)
        return
    rows = torch.arange(weight.shape[0], device=weight.device)
    if keep is not None:
        rows = rows[~keep]
    # A few thousand rows at once: the noise of the whole matrix would be a second matrix.
    for block in rows.split(max(1, (1 << 20) // max(1, weight.shape[1]))):
        noise = normal_rows(
            block + first_row,
            weight.shape[1],
            std=std,
            seed=seed,
            step=step,
            stream=RESET,
            first_column=first_column,
        )
        for position, target in enumerate(targets):
            if position < num_noisy:
                target.index_copy_(0, block, noise.to(target.dtype))
            else:
                target.index_fill_(0, block, 0)


def _check(
    weight: Tensor,
    std: float,
    seed: int,
    step: int,
    keep: Tensor | None,
    moments: Sequence[Tensor],
    copies: Sequence[Tensor],
    first_row: int,
    first_column: int,
) -> None:
    if weight.dim() != 2 or not weight.is_floating_point():
        raise ValueError(f"weight must be a floating-point [V, D]; got {weight.dtype} {list(weight.shape)}")
    if not 0 <= std < float("inf"):
        raise ValueError(f"std must be finite and at least 0; got {std}")
    check_seed_and_step(seed, step)
    if first_row < 0 or first_row + weight.shape[0] > 1 << 32:
        raise ValueError(f"rows must lie in [0, 2^32); got first_row={first_row} and {weight.shape[0]} rows")
    if first_column < 0 or first_column % 4:
        raise ValueError(f"first_column must be a multiple of 4, at least 0; got {first_column}")
    if keep is not None and (keep.dtype != torch.bool or keep.shape != weight.shape[:1]):
        raise ValueError(f"keep must be bool [{weight.shape[0]}]; got {keep.dtype} {list(keep.shape)}")
    for name, tensors in (("moments", moments), ("copies", copies)):
        for tensor in tensors:
            if tensor.shape != weight.shape or not tensor.is_floating_point():
                raise ValueError(
                    f"{name} must be floating-point {list(weight.shape)} like weight; got {tensor.dtype} "
                    f"{list(tensor.shape)}"
                )
    for other in (*moments, *copies, *(() if keep is None else (keep,))):
        if other.device != weight.device:
            raise ValueError(f"all tensors must be on weight's device {weight.device}; got one on {other.device}")
