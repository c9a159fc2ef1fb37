"""Episodes inside a window of steps, and the checks shared by layers called as `y, state = layer(x, state, reset=)`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Episodes(NamedTuple):
    """since_reset: `[B, T]` int64, steps since the episode's first step. number: `[B, T]` int64, resets so far."""

    since_reset: Tensor
    number: Tensor


def episodes(x: Tensor, reset: Tensor | None, num_steps: Tensor) -> Episodes:
    """Where each step of x `[B, T, .]` lies in its episode; `num_steps` `[B]` steps of it came before this window."""
    time = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
    if reset is None:
        return Episodes(num_steps[:, None] + time, torch.zeros_like(time))
    last = torch.where(reset, time, -1).cummax(1).values
    return Episodes(torch.where(last < 0, num_steps[:, None] + time, time - last), reset.cumsum(1))


def check_call(
    x: Tensor, d_model: int, reset: Tensor | None, state: object, state_type: type, first: Tensor | None
) -> None:
    """Raise ValueError unless x is `[B, T, d_model]`, reset bool `[B, T]`, and the state one of x's batch and device.

    `first` is a tensor of the state with B in front.
    """
    if x.dim() != 3 or x.shape[-1] != d_model or not x.numel():
        raise ValueError(f"x must be [B, T, d_model={d_model}] with steps in it; got {list(x.shape)}")
    if reset is not None and (reset.shape != x.shape[:2] or reset.dtype != torch.bool):
        raise ValueError(
            f"reset must be bool [B, T] = {list(x.shape[:2])}, True where an episode begins; "
            f"got {reset.dtype} {list(reset.shape)}"
        )
    if reset is not None and reset.device != x.device:
        raise ValueError(f"reset must be on x's device {x.device}; got {reset.device}: move it there")
    if state is None:
        return
    if not isinstance(state, state_type):
        raise ValueError(f"state must be this layer's {state_type.__name__} or None; got {type(state).__name__}")
    if first is None:
        return
    if first.shape[0] != x.shape[0]:
        raise ValueError(
            f"state holds {first.shape[0]} sequences, x has {x.shape[0]}: pass the state of the same batch"
        )
    if first.shape[-1] != d_model:
        raise ValueError(f"state has width {first.shape[-1]}, this layer d_model={d_model}: pass this layer's state")
    if first.device != x.device:
        raise ValueError(
            f"state must be on x's device {x.device}; got {first.device}: call state.to({str(x.device)!r})"
        )


def check_sizes(**sizes: int) -> None:
    """Raise ValueError for the first size that is not an integer of at least 1."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1; got {value!r}")
