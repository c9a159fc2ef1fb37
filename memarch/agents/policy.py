"""The agent's network: encoder, memory, and heads for actions and value.

B batch, T time, A outputs for the action.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from gymnasium import Space
from torch import Tensor, nn

from . import _states
from .actions import ActionHead
from .encoders import Encoder, Reconstruction, scaled
from .memories import build_memory
from .observations import ObservationReader
from .settings import PolicySettings

RETURNS_RATE, SMALLEST_DEVIATION = 0.05, 1e-3


class PolicyOutput(NamedTuple):
    """outputs: `[B, T, A]` for `ActionHead`. value: `[B, T]`. features: `[B, T, d_model]`, the memory's output."""

    outputs: Tensor
    value: Tensor
    features: Tensor


class MemoryPolicy(nn.Module):
    """Observation -> encoder -> memory -> action and value.

    Shapes: observation, for each leaf `[B, T, *leaf.shape]`; reset `[B, T]` bool, True at an episode's first step.

    Raises:
        ValueError: an unsupported space, an unknown memory, or sizes that do not fit.
    """

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        *,
        memory: str | nn.Module,
        settings: PolicySettings,
        reconstruct: bool = False,
    ) -> None:
        super().__init__()
        d_model = settings.d_model
        self.reader = ObservationReader(observation_space)
        self.action = ActionHead(action_space)
        self.encoder = Encoder(self.reader.leaves, d_model)
        self.memory = build_memory(memory, settings)
        self.hidden = scaled(nn.Linear(d_model, 2 * d_model), math.sqrt(2))
        self.action_out = scaled(nn.Linear(d_model, self.action.num_outputs), 0.01)
        # Near zero at first: the spread of random guesses would be measured as that of the returns they are part of.
        self.value_out = scaled(nn.Linear(d_model, 1), 0.01)
        # Returns may be of any size; the network's own output is near 0 with deviation 1 (PopArt, arXiv 1602.07714).
        self.value_mean: Tensor
        self.value_deviation: Tensor
        self.num_measured: Tensor
        self.register_buffer("value_mean", torch.zeros(()))
        self.register_buffer("value_deviation", torch.ones(()))
        self.register_buffer("num_measured", torch.zeros((), dtype=torch.int64))
        self.reconstruction = Reconstruction(self.reader.leaves, d_model) if reconstruct else None

    def forward(
        self, observation: Mapping[str, Tensor], state: Any = None, *, reset: Tensor | None = None
    ) -> tuple[PolicyOutput, Any]:
        """Steps after those in `state`; acting step by step gives what the whole window gives."""
        features, state = self.memory(self.encoder(observation), state, reset=reset)
        for_action, for_value = torch.tanh(self.hidden(features)).chunk(2, -1)
        value = self.value_out(for_value).squeeze(-1) * self.value_deviation + self.value_mean
        return PolicyOutput(self.action_out(for_action), value, features), state

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.value_out.weight.device

    @torch.no_grad()
    def measure_returns(self, mean: float, deviation: float) -> None:
        """Take another rollout's returns into the running mean and deviation; no value changes by that.

        The first rollouts count equally, later ones 5 % each.
        """
        self.num_measured += 1
        rate = max(1 / int(self.num_measured), RETURNS_RATE)
        before_mean, before = self.value_mean.clone(), self.value_deviation.clone()
        square = before**2 + before_mean**2 if int(self.num_measured) > 1 else 0.0
        self.value_mean += rate * (mean - self.value_mean)
        second = (1 - rate) * square + rate * (deviation**2 + mean**2)
        self.value_deviation.copy_((second - self.value_mean**2).clamp_min(SMALLEST_DEVIATION**2).sqrt())
        self.value_out.weight *= before / self.value_deviation
        self.value_out.bias.copy_((before * self.value_out.bias + before_mean - self.value_mean) / self.value_deviation)

    @torch.no_grad()
    def empty_state(self, num_envs: int) -> Any:
        """An empty memory for the first step, which must come with `reset` True."""
        weight = self.value_out.weight
        x = torch.zeros(num_envs, 1, weight.shape[1], dtype=weight.dtype, device=weight.device)
        return _states.zeros(self.memory(x)[1])
