"""States of memories as trees of tensors with the batch in front: map, select, join, flatten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


def map_state(fn: Callable[..., Tensor], state: Any, *others: Any) -> Any:
    """`fn` of every tensor of `state` and of those at the same place of `others`; what is no tensor stays."""
    if isinstance(state, Tensor):
        return fn(state, *others)
    if isinstance(state, dict):
        return {key: map_state(fn, value, *(other[key] for other in others)) for key, value in state.items()}
    if isinstance(state, tuple | list):
        return type(state)(map_state(fn, *parts) for parts in zip(state, *others, strict=True))
    if is_dataclass(state) and not isinstance(state, type):
        changed = {}
        for field in fields(state):
            before = getattr(state, field.name)
            after = map_state(fn, before, *(getattr(other, field.name) for other in others))
            if after is not before:
                changed[field.name] = after
        return replace(state, **changed) if changed else state
    return state


def select(state: Any, rows: Tensor) -> Any:
    """The states of sequences `rows` [n], in that order."""
    return map_state(lambda x: x.index_select(0, rows.to(x.device)), state)


def join(states: Sequence[Any]) -> Any:
    """One state of all sequences, those of the first state first. A copy: safe to learn from."""
    return map_state(lambda *parts: torch.cat(parts), *states)


def zeros(state: Any) -> Any:
    """The state that, together with `reset` at the first step, is an empty memory."""
    return map_state(torch.zeros_like, state)


def tensors(state: Any) -> list[Tensor]:
    """Every tensor, in the order of `map_state`."""
    found: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        found.append(x)
        return x

    map_state(keep, state)
    return found


def rebuild(like: Any, values: Sequence[Tensor]) -> Any:
    """A state built as `like` is, on its devices, from what `tensors` returned of another."""
    rest = iter(values)
    return map_state(lambda x: next(rest).to(x.device), like)
