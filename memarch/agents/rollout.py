"""Rollouts: what environments and agent did for some steps, cut into windows that a memory can be trained on.

T steps, N environments, W windows of L steps each, K components of an action, A outputs of the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from . import _states


class Minibatch(NamedTuple):
    """n windows of L steps, each with the memory at its start: all `[n, L, ...]` but `state`, of n sequences."""

    observation: dict[str, Tensor]
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    target: Tensor
    reset: Tensor
    valid: Tensor
    state: Any


@dataclass(frozen=True)
class Rollout:
    """T steps of N environments.

    Attributes:
        observation: for each leaf `[T, N, *shape]`.
        action: `[T, N, K]`.
        log_prob: `[T, N]`, of the actions when they were taken.
        advantage: `[T, N]`.
        target: `[T, N]`, the returns to predict: advantage + value.
        reset: `[T, N]` bool, True where an episode begins.
        valid: `[T, N]` bool, False where the step only began a new episode and the action was ignored.
        states: W memories of N sequences, at the windows' starts.
    """

    observation: Mapping[str, Tensor]
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    target: Tensor
    reset: Tensor
    valid: Tensor
    states: Sequence[Any]

    @property
    def num_pairs(self) -> int:
        """W times N: the windows that minibatches are made of; pair p is window p // N of environment p % N."""
        return len(self.states) * self.action.shape[1]

    def joined_states(self) -> Any:
        """The memories at the start of every pair, for `minibatch`."""
        return _states.join(self.states)

    def minibatch(self, pairs: Tensor, states: Any) -> Minibatch:
        """The given pairs `[n]` int64; `states` from `joined_states`."""
        window, env = pairs // self.action.shape[1], pairs % self.action.shape[1]

        def take(x: Tensor) -> Tensor:
            return x.unflatten(0, (len(self.states), -1))[window, :, env]

        return Minibatch(
            observation={name: take(x) for name, x in self.observation.items()},
            action=take(self.action),
            log_prob=take(self.log_prob),
            advantage=take(self.advantage),
            target=take(self.target),
            reset=take(self.reset),
            valid=take(self.valid),
            state=_states.select(states, pairs),
        )


@dataclass(frozen=True)
class Episode:
    """A finished episode: sum of rewards, steps, and success where the environment tells it."""

    total_reward: float
    num_steps: int
    success: bool | None
