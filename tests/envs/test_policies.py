"""run_episodes counts whole episodes, as many in each environment."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import memarch_envs  # noqa: F401 - registers the ids
from memarch_envs.policies import oracle_policy, random_policy, run_episodes


def test_outcome_of_a_known_policy():
    env = gymnasium.make_vec("memarch/PassiveTMaze-v0", num_envs=3, length=4, autoreset_mode="SameStep")
    outcome = run_episodes(env, oracle_policy, episodes_each=5, seed=0)
    assert outcome.returns.tolist() == [1.0] * 15
    assert outcome.lengths.tolist() == [5] * 15
    assert outcome.success.all()
    idle = run_episodes(env, lambda env: np.full(env.num_envs, 2), episodes_each=2, seed=0)
    assert idle.returns.tolist() == [-1.0] * 6 and not idle.success.any()


def test_random_policy_repeats_with_its_seed():
    env = gymnasium.make_vec("memarch/MemoryLength-v0", num_envs=50, length=1, autoreset_mode="SameStep")
    first, second, other = (run_episodes(env, random_policy(s), episodes_each=1, seed=0) for s in (1, 1, 2))
    assert first.returns.tolist() == second.returns.tolist() != other.returns.tolist()


def test_misuse():
    env = gymnasium.make_vec("memarch/MemoryLength-v0", num_envs=2)
    with pytest.raises(ValueError, match="SAME_STEP, got NEXT_STEP"):
        run_episodes(env, oracle_policy, episodes_each=1, seed=0)
    with pytest.raises(ValueError, match="episodes_each"):
        run_episodes(env, oracle_policy, episodes_each=0, seed=0)
