"""Environments small enough for tests, and agents of a second."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from memarch.agents import PPO, PolicySettings, PPOSettings

SIZES = PolicySettings(
    d_model=16, num_heads=2, chunk_size=3, top_k=2, num_chunks=4, attention_steps=4, gradient_window=True
)
SETTINGS = PPOSettings(rollout_steps=12, window_steps=6, num_epochs=2, num_minibatches=2, learning_rate=3e-3)


class Counter(gymnasium.Env):
    """Shows a number from its seed at first, then the step; ends after `length` steps, by its rules or a limit.

    The reward is the action plus a hundredth of the number, so that returns differ between seeds.
    """

    action_space: Any = spaces.Discrete(2)
    observation_space: Any = spaces.Box(-10, 10, (3,), np.float32)

    def __init__(self, length: int = 5, truncate: bool = False) -> None:
        self.length, self.truncate = length, truncate

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.t, self.number = 0, float(self.np_random.random())
        # Not all episodes are equally long, so that environments drift apart.
        self.end = self.length + int(self.np_random.integers(3))
        return self.see(), {}

    def see(self) -> Any:
        return np.array([self.number if self.t == 0 else 0.0, self.t / 10, 1.0], np.float32)

    def step(self, action: Any):
        self.t += 1
        over = self.t >= self.end
        reward = float(np.sum(action)) + self.number / 100
        return self.see(), reward, over and not self.truncate, over and self.truncate, {"success": bool(over)}


class Shaped(Counter):
    """A `Counter` with the given spaces; its observations are samples."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__()
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        if seed is not None:
            self.observation_space.seed(seed)
        return super().reset(seed=seed)

    def see(self) -> Any:
        return self.observation_space.sample()

    def step(self, action: Any):
        assert self.action_space.contains(action), action
        return super().step(np.zeros(1))


def agent(env: Any = Counter, **options: Any) -> PPO:
    """One that learns a rollout in a few hundredths of a second."""
    return PPO(env, **{"num_envs": 4, "policy": SIZES, "settings": SETTINGS, "memory": "gru", **options})
