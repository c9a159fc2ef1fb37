"""Which matrix of a model is its token embedding, and which of its rows stay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def find_embedding(model: nn.Module) -> nn.Embedding:
    """The token embedding of a model: itself, what `get_input_embeddings()` names, or the only nn.Embedding inside.

    Raises: ValueError if there is none, or several to choose from.
    """
    if isinstance(model, nn.Embedding):
        return model
    named = getattr(model, "get_input_embeddings", None)
    if callable(named):
        try:
            embedding = named()
        except NotImplementedError:
            embedding = None
        if isinstance(embedding, nn.Embedding):
            return embedding
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no nn.Embedding: pass the embedding whose rows are to be forgotten"
        )
    sizes = ", ".join(f"{name} {tuple(module.weight.shape)}" for name, module in found.items())
    raise ValueError(f"{type(model).__name__} has {len(found)} embeddings ({sizes}): pass the one to forget")


def initial_std(model: nn.Module) -> float:
    """With which standard deviation the model says its embedding was initialised: `config.initializer_range`.

    Raises: ValueError if it says nothing.
    """
    std = getattr(getattr(model, "config", None), "initializer_range", None)
    if not isinstance(std, int | float):
        raise ValueError(
            f"{type(model).__name__} has no config.initializer_range, which says how its embedding was initialised: "
            "give std="
        )
    return float(std)


def rows_to_keep(embedding: nn.Embedding, keep_rows: Sequence[int] | None) -> Tensor | None:
    """`[V]` bool on the weight's device, True for rows that stay; None if all may go. None asks for the padding row.

    Raises: ValueError for a row outside of the matrix.
    """
    num_rows = embedding.weight.shape[0]
    if keep_rows is None:
        keep_rows = () if embedding.padding_idx is None else (embedding.padding_idx,)
    for row in keep_rows:
        if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < num_rows:
            raise ValueError(f"keep_rows must be rows of the embedding, 0 to {num_rows - 1}; got {row!r}")
    if not keep_rows:
        return None
    keep = torch.zeros(num_rows, dtype=torch.bool, device=embedding.weight.device)
    keep[list(keep_rows)] = True
    return keep


def check_count(name: str, value: object, *, least: int = 1) -> int:
    """`value` as a whole number. Raises: ValueError if it is none, or below `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}; got {value!r}")
    return value
