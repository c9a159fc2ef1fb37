"""The embedding's learning rate after a reset: replay the whole schedule, or warm up again.

The rate is changed for the duration of one optimizer.step() only, so that no scheduler ever sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


@dataclass(frozen=True)
class Rewarm:
    """After each reset the embedding's learning rate rises linearly to what the scheduler says, over `steps` steps."""

    steps: int

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"Rewarm needs a whole number of steps, at least 1; got {self.steps!r}")


@dataclass(frozen=True)
class Replay:
    """Within every episode between two resets the embedding's rate runs through the whole schedule of the training.

    Step n of `total_steps` T, with a reset every K, takes the schedule's factor at (n * (T // K)) % T, as in the code
    of arXiv 2307.01163.

    schedule: factor of the initial rate at a step; None takes it from the LambdaLR given to `forget.step` (all
        schedules of transformers are one).
    """

    total_steps: int
    schedule: Callable[[int], float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.total_steps, bool) or not isinstance(self.total_steps, int) or self.total_steps < 1:
            raise ValueError(f"Replay needs the whole number of training steps, at least 1; got {self.total_steps!r}")

    def at(self, step: int, every: int) -> int:
        """The step of the schedule that stands in for `step`."""
        return (step * max(1, self.total_steps // every)) % self.total_steps


def group_of(optimizer: Optimizer, weight: Tensor) -> dict[str, Any]:
    """The parameter group that holds `weight`. Raises: ValueError if none does."""
    for group in optimizer.param_groups:
        if any(parameter is weight for parameter in group["params"]):
            return group
    raise ValueError(
        f"the optimizer does not hold the embedding {list(weight.shape)}: make it from the model's own parameters, or "
        "give master= if it holds a float32 copy"
    )


def give_own_group(optimizer: Optimizer, weight: Tensor) -> None:
    """Move `weight` to a parameter group of its own, with the options it had. Before a scheduler is made.

    Raises: ValueError if the optimizer does not hold it.
    """
    group = group_of(optimizer, weight)
    if len(group["params"]) == 1:
        return
    group["params"] = [parameter for parameter in group["params"] if parameter is not weight]
    optimizer.add_param_group({**{k: v for k, v in group.items() if k != "params"}, "params": [weight]})


def schedule_of(scheduler: Any, group_index: int) -> Callable[[int], float]:
    """The factor of a LambdaLR at a step, for one group. Raises: ValueError for another kind of scheduler."""
    scheduler = getattr(scheduler, "scheduler", scheduler)  # accelerate wraps it
    factors = getattr(scheduler, "lr_lambdas", None)
    if factors is None:
        kind = "no scheduler" if scheduler is None else type(scheduler).__name__
        raise ValueError(
            f"a schedule can be replayed from a LambdaLR; got {kind}: pass Replay(total_steps, schedule=factor_at_step)"
        )
    factor: Callable[[int], float] = factors[group_index]
    return factor


class RateChange:
    """Hooks around optimizer.step() that set one group's rate and set it back."""

    def __init__(self, optimizer: Optimizer, group: dict[str, Any], rate: Callable[[float], float]) -> None:
        """rate: from the rate that the scheduler set, the one to step with."""
        self._group, self._rate = group, rate
        self._saved: float | Tensor | None = None
        self._hooks = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        )

    def remove(self) -> None:
        """Leave the optimizer as it was."""
        for hook in self._hooks:
            hook.remove()

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        lr = self._group["lr"]
        self._saved = lr.clone() if isinstance(lr, Tensor) else lr
        self._set(self._rate(float(lr)))

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._saved is not None:
            self._set(self._saved)
            self._saved = None

    def _set(self, value: float | Tensor) -> None:
        lr = self._group["lr"]
        if isinstance(lr, Tensor):
            # A captured graph reads this very tensor.
            with torch.no_grad():
                lr.copy_(torch.as_tensor(value))
        else:
            self._group["lr"] = value
