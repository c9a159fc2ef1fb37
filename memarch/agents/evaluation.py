"""Playing whole episodes with a trained policy, on seeds that no training uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from .collector import LARGEST_TRAINING_SEED, success_of
from .environments import autoreset_mode
from .policy import MemoryPolicy
from .rollout import Episode
from .statistics import bootstrap_interval


@dataclass(frozen=True)
class AgentEvaluation:
    """Result of `evaluate`.

    Attributes:
        total_reward: mean over episodes.
        total_reward_iqm, total_reward_low, total_reward_high: interquartile mean, and its bootstrapped 95 % interval
            over episodes.
        success: mean, None where the environment does not tell.
        episode_steps: mean.
        num_episodes: played.
    """

    total_reward: float
    total_reward_iqm: float
    total_reward_low: float
    total_reward_high: float
    success: float | None
    episode_steps: float
    num_episodes: int


def evaluation_seed(seed: int) -> int:
    """Where the environments of an evaluation begin: at least 2^30, where no training begins."""
    return LARGEST_TRAINING_SEED + int(np.random.SeedSequence(seed).generate_state(1)[0]) % (2**30 - 2**20)


@torch.no_grad()
def play(
    policy: MemoryPolicy,
    env: VectorEnv,
    *,
    episodes_each: int,
    seed: int,
    deterministic: bool = True,
    on_step: Callable[[int, Any], None] | None = None,
) -> list[Episode]:
    """`episodes_each` whole episodes in every environment, so that none is favoured for being short.

    Args:
        policy: on any device.
        env: in any autoreset mode.
        episodes_each: at least 1.
        seed: as `evaluation_seed` takes it.
        deterministic: the most likely action, else one drawn.
        on_step: called with the number of the step and the actions, before each.
    """
    device = policy.device
    generator = torch.Generator().manual_seed(seed)
    mode = autoreset_mode(env)
    num_envs = env.num_envs
    state = policy.empty_state(num_envs)
    observation, _ = env.reset(seed=evaluation_seed(seed))
    begins, over = np.ones(num_envs, dtype=np.bool_), np.zeros(num_envs, dtype=np.bool_)
    total, length = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)
    done_episodes: list[list[Episode]] = [[] for _ in range(num_envs)]
    step = 0
    while any(len(done) < episodes_each for done in done_episodes):
        seen = {name: x[:, None].to(device) for name, x in policy.reader.read(observation).items()}
        reset = torch.from_numpy(begins)[:, None].to(device) if begins.any() else None
        out, state = policy(seen, state, reset=reset)
        outputs = out.outputs[:, 0].float()
        action = policy.action.mode(outputs)
        if not deterministic:
            action = policy.action.sample(outputs, policy.action.noise((num_envs,), generator).to(device))
        if on_step is not None:
            on_step(step, action)
        observation, reward, terminated, truncated, infos = env.step(policy.action.to_env(action))
        step += 1
        total += np.where(over, 0, reward)
        length += ~over
        done = (terminated | truncated) & ~over
        for row in np.flatnonzero(done):
            if len(done_episodes[row]) < episodes_each:
                success = success_of(infos, int(row))
                done_episodes[row].append(Episode(float(total[row]), int(length[row]), success))
            total[row], length[row] = 0, 0
        begins = over if mode is AutoresetMode.NEXT_STEP else done
        over = done if mode is AutoresetMode.NEXT_STEP else over
        if mode is AutoresetMode.DISABLED and done.any():
            observation, _ = env.reset(options={"reset_mask": done})
    return [episode for done in done_episodes for episode in done]


def summarise(episodes: list[Episode]) -> AgentEvaluation:
    """Means and intervals over `episodes`."""
    rewards = [episode.total_reward for episode in episodes]
    told = [episode.success for episode in episodes if episode.success is not None]
    iqm, low, high = bootstrap_interval(rewards)
    return AgentEvaluation(
        total_reward=float(np.mean(rewards)),
        total_reward_iqm=iqm,
        total_reward_low=low,
        total_reward_high=high,
        success=float(np.mean(told)) if told else None,
        episode_steps=float(np.mean([episode.num_steps for episode in episodes])),
        num_episodes=len(episodes),
    )
