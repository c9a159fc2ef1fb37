"""Watching an episode: pictures, what was done, what was read; the agent is left as it was."""

import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv

from memarch.agents import PPO, draw_recall, watch
from memarch.layers import ChunkReads

from ._envs import SETTINGS, SIZES, Counter, agent


def ours(memory: str = "hcam", **options) -> PPO:
    return PPO("memarch/PassiveTMaze-v0", memory=memory, policy=SIZES, settings=SETTINGS, num_envs=4, **options)


def test_an_episode_with_its_pictures_and_reads() -> None:
    ppo = ours(env_options={"length": 9})
    episode = watch(ppo, seed=1, deterministic=False)
    steps = len(episode.actions)
    assert 2 <= steps <= 10 and len(episode.rewards) == steps and episode.success in (True, False)
    assert len(episode.pictures) == steps + 1 and episode.pictures[0].ndim == 3
    assert len({picture.tobytes() for picture in episode.pictures}) > 1
    (layer,) = episode.reads
    weights = episode.read_weights(layer)
    assert weights.shape == (steps, steps)
    # Chunks of three steps: nothing to read before the first is over, one chunk's worth of weight after.
    assert np.allclose(weights.sum(1), np.arange(steps) >= 3)
    assert np.all(np.triu(weights) == 0)
    again = watch(ppo, seed=1, deterministic=False)
    assert again.rewards == episode.rewards and all(not m._forward_pre_hooks for m in ppo.policy.modules())


def test_weights_are_spread_over_a_chunks_steps() -> None:
    ppo = agent(memory="hcam")
    episode = watch(ppo)
    first, last, weight = torch.tensor([3, 1]), torch.tensor([2, 1]), torch.tensor([0.5, 0.0])
    episode.actions, episode.reads = [0] * 5, {"x": [ChunkReads(first, last, weight)] * 5}
    weights = episode.read_weights("x")
    assert weights[4].tolist() == [0, 0.25, 0.25, 0, 0]


def test_environments_without_pictures_and_memories_without_reads(tmp_path) -> None:
    episode = watch(agent())
    assert episode.pictures == [] and episode.reads == {} and episode.success is True
    with pytest.raises(ValueError, match="this agent's memory does not say what it reads"):
        draw_recall(episode, tmp_path / "a.png")
    assert watch(PPO("CartPole-v1", memory="gru", policy=SIZES), pictures=False).success is None
    with pytest.raises(ValueError, match="watching needs an environment of its own"):
        watch(agent(SyncVectorEnv([Counter] * 4)))
