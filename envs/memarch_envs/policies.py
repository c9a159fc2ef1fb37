"""Players to measure environments by: uniform actions, and an oracle that knows the hidden state."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode

from ._checks import check_count
from ._sampling import Floats, Ints
from .base import Bools
from .vector import MemoryVectorEnv

Policy = Callable[[MemoryVectorEnv], Ints]


class Outcome(NamedTuple):
    """Finished episodes, in order of environment, then time: each [num_episodes]."""

    returns: Floats
    lengths: Ints
    success: Bools


def random_policy(seed: int) -> Policy:
    """Uniform actions from a generator of its own."""
    generator = np.random.default_rng(seed)

    def act(env: MemoryVectorEnv) -> Ints:
        return generator.integers(env.task.action_space.n, size=env.num_envs)

    return act


def oracle_policy(env: MemoryVectorEnv) -> Ints:
    """What perfect memory would do, read from the task's hidden state."""
    return env.task.expert()


def run_episodes(env: MemoryVectorEnv, policy: Policy, *, episodes_each: int, seed: int) -> Outcome:
    """Play `episodes_each` whole episodes in every environment: none is favoured for being short.

    Raises ValueError if `env` does not reset in the same step.
    """
    check_count("episodes_each", episodes_each, 1)
    if env.autoreset_mode is not AutoresetMode.SAME_STEP:
        raise ValueError(f"run_episodes needs autoreset_mode=SAME_STEP, got {env.autoreset_mode.name}")
    shape = (env.num_envs, episodes_each)
    returns, lengths, success = np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    done = np.zeros(env.num_envs, np.int64)
    env.reset(seed=seed)
    while (done < episodes_each).any():
        _, reward, terminated, truncated, infos = env.step(policy(env))
        rows = np.flatnonzero(done < episodes_each)
        returns[rows, done[rows]] += reward[rows]
        lengths[rows, done[rows]] += 1
        ended = rows[(terminated | truncated)[rows]]
        if ended.size:
            success[ended, done[ended]] = infos["final_info"]["success"][ended]
            done[ended] += 1
    return Outcome(returns.ravel(), lengths.ravel(), success.ravel())
