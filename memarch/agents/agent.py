"""A policy with what it takes to use it: predict, evaluate, save."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import nn

from .checkpoint import AgentConfig, save_agent
from .environments import EnvironmentSource
from .evaluation import AgentEvaluation, play, summarise
from .policy import MemoryPolicy
from .rollout import Episode

EVALUATION_ENVS = 16


class Agent:
    """What a trained agent can do; `PPO` adds how it learns.

    Attributes:
        policy: the network.
        config: what it is, apart from its weights.
        source: where its environments come from.
        device: where it runs.
    """

    policy: MemoryPolicy
    config: AgentConfig
    source: EnvironmentSource
    device: torch.device

    def predict(
        self,
        observation: Any,
        state: Any = None,
        *,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """An action for one observation, or for each of a batch, and the memory to pass with the next.

        Args:
            observation: as one environment gives it, or as a `VectorEnv` does.
            state: what the last call returned; None begins an episode.
            episode_start: bool, or `[N]`: True where the observation is an episode's first.
            deterministic: the most likely action, else one drawn with torch's global generator.
        """
        single = is_single(self.config.observation_space, observation)
        reader = self.policy.reader
        seen = reader.read_single([observation]) if single else reader.read(observation)
        batch = len(next(iter(seen.values())))
        first = np.zeros(batch, dtype=np.bool_)
        if state is None:
            state, first[:] = self.policy.empty_state(batch), True
        if episode_start is not None:
            first |= np.broadcast_to(np.asarray(episode_start, dtype=np.bool_), (batch,))
        reset = torch.from_numpy(first)[:, None].to(self.device)
        with torch.no_grad():
            out, state = self.policy({k: x[:, None].to(self.device) for k, x in seen.items()}, state, reset=reset)
            outputs, head = out.outputs[:, 0], self.policy.action
            action = head.mode(outputs)
            if not deterministic:
                noise = head.noise((batch,), torch.Generator().manual_seed(int(torch.randint(2**62, ()))))
                action = head.sample(outputs, noise.to(self.device))
        actions = head.to_env(action)
        return (actions[0] if single else actions), state

    def evaluate(self, *, num_episodes: int = 64, seed: int = 0, deterministic: bool = True) -> AgentEvaluation:
        """Play whole episodes in new environments, on seeds that no training uses.

        Raises:
            ValueError: the agent was given a `VectorEnv` or an environment, of which no more can be made.
        """
        return summarise(self.play(num_episodes=num_episodes, seed=seed, deterministic=deterministic))

    def play(self, *, num_episodes: int = 64, seed: int = 0, deterministic: bool = True) -> list[Episode]:
        """The episodes that `evaluate` sums up: rounded up to as many in each of up to 16 environments."""
        if not self.source.can_repeat:
            raise ValueError(
                f"evaluation needs environments of its own, and {self.source.name} cannot be made again: give PPO an "
                "id or a factory"
            )
        num_envs = min(num_episodes, EVALUATION_ENVS)
        env = self.source.make(num_envs)
        try:
            each = math.ceil(num_episodes / num_envs)
            return play(self.policy, env, episodes_each=each, seed=seed, deterministic=deterministic)
        finally:
            env.close()

    def save(self, path: str | Path) -> None:
        """Write what `load` needs into the directory `path`: safetensors and JSON.

        Raises:
            OSError: a full disk or an unwritable directory; files already there are unchanged.
        """
        save_agent(Path(path), self.config, self.policy)


def build_policy(config: AgentConfig, memory: str | nn.Module, *, seed: int, device: torch.device) -> MemoryPolicy:
    """The network that `config` describes, its first weights from `seed`; torch's own generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = MemoryPolicy(
            config.observation_space,
            config.action_space,
            memory=memory,
            settings=config.policy,
            reconstruct=config.reconstruct,
        )
    return policy.to(device)


def choose_device(name: str | torch.device) -> torch.device:
    """`name`, or for "auto" a GPU where there is one. Raises ValueError for a device that cannot be used here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name} cannot be used here ({reason}): use cpu, cuda or auto") from error
    return torch.device(name)


def check_json(name: str, value: Mapping[str, Any]) -> None:
    """Raise ValueError unless `value` can be written as JSON."""
    try:
        json.dumps(dict(value))
    except TypeError as error:
        raise ValueError(f"{name} are saved as JSON; got {dict(value)!r} ({error}): give a factory instead") from error


def is_single(space: Space[Any], observation: Any) -> bool:
    """Whether `observation` is of one environment, not of a batch."""
    if isinstance(space, spaces.Dict):
        key = next(iter(space))
        return is_single(space[key], observation[key])
    if isinstance(space, spaces.Tuple):
        return is_single(space[0], observation[0])
    if isinstance(observation, str):
        return True
    return np.ndim(observation) == len(space.shape or ()) and not isinstance(observation, tuple)
