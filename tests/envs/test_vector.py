"""The vector form beyond what the registry tests: DISABLED autoreset, masks, seeds."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import memarch_envs  # noqa: F401 - registers the ids


def make(**options):
    return gymnasium.make_vec("memarch/MemoryLength-v0", num_envs=3, length=1, **options)


def test_disabled_autoreset_waits_for_a_mask():
    env = make(autoreset_mode="Disabled")
    env.reset(seed=0)
    env.reset(options={"reset_mask": np.array([False, True, False])})
    env.step([0, 0, 0])
    _, _, terminated, _, infos = env.step([0, 0, 0])
    assert terminated.all() and infos["_success"].all()
    env.reset(options={"reset_mask": np.array([True, True, False])})
    with pytest.raises(ResetNeeded, match="environment 2 ended at step 2"):
        env.step([0, 0, 0])


def test_a_mask_leaves_the_others_alone():
    env = make()
    env.reset(seed=0)
    env.step([0, 0, 0])
    observation, _ = env.reset(options={"reset_mask": np.array([False, True, False])})
    assert observation[:, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("mask", [np.array([True]), np.array([1, 0, 0]), np.zeros(3, dtype=bool), [True, True, True]])
def test_bad_masks(mask):
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": mask})


def test_bad_seeds_and_counts():
    with pytest.raises(ValueError, match="expected 3 seeds"):
        make().reset(seed=[1, 2])
    with pytest.raises(ValueError, match="num_envs"):
        gymnasium.make_vec("memarch/MemoryLength-v0", num_envs=0)
    with pytest.raises(ValueError, match="reset_mask"):
        make().reset(options={"mask": 3})


def test_without_a_seed_two_environments_differ():
    first, second = make().reset()[0], make().reset()[0]
    longer = [gymnasium.make_vec("memarch/MemoryLength-v0", num_envs=1, num_bits=64).reset()[0] for _ in range(2)]
    assert first.shape == second.shape and (longer[0] != longer[1]).any()
