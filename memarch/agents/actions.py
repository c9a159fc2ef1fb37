"""Actions of any gymnasium space: the numbers a network gives for them, sampling, probabilities, entropy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor, nn

INITIAL_LOG_DEVIATION = -0.5


class ActionHead(nn.Module):
    """A distribution over actions for each output of the network.

    Discrete spaces: one categorical for each of K components. Box: K independent normal distributions, with deviations
    that are parameters; the action is scaled into finite bounds and clipped to them.

    Attributes:
        num_outputs: A, what the network has to give.
        num_components: K, width of an action as a tensor: int64 choices from 0, or float32 before scaling.

    Raises:
        ValueError: another action space.
    """

    def __init__(self, space: Space[Any]) -> None:
        super().__init__()
        self.space = space
        self.log_deviation: nn.Parameter | None = None
        if isinstance(space, spaces.Box) and space.shape != () and np.issubdtype(space.dtype, np.floating):
            self.counts: tuple[int, ...] = ()
            self.num_outputs = self.num_components = int(np.prod(space.shape))
            self.log_deviation = nn.Parameter(torch.full((self.num_outputs,), INITIAL_LOG_DEVIATION))
            bounded = space.is_bounded("both")
            self.middle = (space.low + space.high) / 2 if bounded else np.zeros(space.shape, space.dtype)
            self.half_range = (space.high - space.low) / 2 if bounded else np.ones(space.shape, space.dtype)
            return
        if isinstance(space, spaces.Discrete):
            self.counts = (int(space.n),)
        elif isinstance(space, spaces.MultiDiscrete):
            self.counts = tuple(int(n) for n in space.nvec.ravel())
        elif isinstance(space, spaces.MultiBinary):
            self.counts = (2,) * int(np.prod(space.shape))
        else:
            raise ValueError(
                f"action space is {space}: expected Discrete, MultiDiscrete, MultiBinary or a Box of floats with one "
                "axis or more; wrap the environment (gymnasium.wrappers.TransformAction) to take one"
            )
        self.num_outputs, self.num_components = sum(self.counts), len(self.counts)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """`[*shape, A]` on the generator's device: what `sample` needs besides the network's outputs."""
        shape = (*shape, self.num_outputs)
        if self.log_deviation is not None:
            return torch.randn(shape, generator=generator, device=generator.device)
        uniform = torch.rand(shape, generator=generator, device=generator.device)
        return -torch.log(-torch.log(uniform.clamp_(1e-20, 1 - 6e-8)))

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Actions `[..., K]` for outputs `[..., A]` (Gumbel's trick, or location plus scale times noise)."""
        if self.log_deviation is not None:
            return outputs + self.log_deviation.exp() * noise
        return self.mode(outputs + noise)

    def mode(self, outputs: Tensor) -> Tensor:
        """The most likely actions `[..., K]`."""
        if self.log_deviation is not None:
            return outputs
        if len(self.counts) == 1:
            return outputs.argmax(-1, keepdim=True)
        return torch.stack([part.argmax(-1) for part in outputs.split(self.counts, -1)], -1)

    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        """`[...]` log-probabilities, or log-densities before scaling, of actions `[..., K]`."""
        if self.log_deviation is not None:
            scaled = (action - outputs) / self.log_deviation.exp()
            return (-0.5 * scaled.square() - self.log_deviation - 0.5 * math.log(2 * math.pi)).sum(-1)
        parts = [part.log_softmax(-1) for part in outputs.split(self.counts, -1)]
        if len(parts) == 1:
            return parts[0].gather(-1, action).squeeze(-1)
        return torch.stack([p.gather(-1, action[..., k, None]).squeeze(-1) for k, p in enumerate(parts)]).sum(0)

    def entropy(self, outputs: Tensor) -> Tensor:
        """`[...]` in nats."""
        if self.log_deviation is not None:
            each = self.log_deviation + 0.5 * (1 + math.log(2 * math.pi))
            return each.sum().expand(outputs.shape[:-1])
        total = outputs.new_zeros(outputs.shape[:-1])
        for part in outputs.split(self.counts, -1):
            log_p = part.log_softmax(-1)
            total = total - (log_p.exp() * log_p).sum(-1)
        return total

    def to_env(self, action: Tensor) -> np.ndarray[Any, Any]:
        """Actions `[N, K]` as `[N, *space.shape]`, what a `VectorEnv` takes."""
        array = action.detach().cpu().numpy()
        if isinstance(self.space, spaces.Discrete):
            return array[:, 0] + int(self.space.start)
        array = array.reshape(len(array), *self.space.shape)  # type: ignore[misc]
        if isinstance(self.space, spaces.Box):
            scaled = self.middle + self.half_range * array
            return np.clip(scaled, self.space.low, self.space.high).astype(self.space.dtype)
        if isinstance(self.space, spaces.MultiDiscrete):
            return (array + self.space.start).astype(self.space.dtype)
        return array.astype(self.space.dtype)
