"""What every task says for people: a line for tables, names of actions, a view that hides what is to be remembered."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from memarch_envs import ENVIRONMENTS, levels, task_class

IDS = sorted(ENVIRONMENTS)


def observed(observation, index):
    parts = observation.values() if isinstance(observation, dict) else (observation,)
    return tuple(part[index].tobytes() for part in parts)


@pytest.mark.parametrize("env_id", IDS)
def test_summary_and_names_of_actions(env_id):
    task = task_class(env_id)
    assert 20 <= len(task.summary) <= 100 and task.summary == task.summary.strip().rstrip(".")
    for level in levels(env_id):
        num_actions = int(gymnasium.make(env_id, **level.options).action_space.n)
        names = task.action_names
        assert not names or (len(names) == len(set(names)) == num_actions)


@pytest.mark.parametrize("env_id", IDS)
def test_view_tells_no_more_than_the_observations(env_id):
    """Copies that observed the same so far see the same, whatever is hidden; the view changes over an episode."""
    env = gymnasium.make_vec(env_id, num_envs=24, autoreset_mode="SameStep", **levels(env_id)[0].options)
    observation, _ = env.reset(seed=3)
    history = [()] * env.num_envs
    seen, views = {}, set()
    actions = np.random.default_rng(0)
    for step in range(env.max_episode_steps):
        for index in range(env.num_envs):
            history[index] += (observed(observation, index),)
            view = env.task.view(index)
            views.add(view)
            assert seen.setdefault(history[index], view) == view
        # One action for all, so that histories part by what is observed alone.
        action = actions.integers(env.single_action_space.n) if step else 0
        observation, _, terminated, truncated, _ = env.step(np.full(env.num_envs, action))
        if (terminated | truncated).any():
            break
    assert len(views) > 1


def test_views_hide_what_the_text_tells():
    for env_id, options in (("MemoryLength-v0", {"length": 3}), ("PassiveTMaze-v0", {}), ("ProofOfMemory-v0", {})):
        env = gymnasium.make(f"memarch/{env_id}", **options).unwrapped
        views, texts = set(), set()
        for seed in range(20):
            env.reset(seed=seed)
            for _ in range(3):
                env.step(0)
            if env_id == "ProofOfMemory-v0":
                env.task.position[:] = 0
            views.add(env.task.view(0))
            texts.add(env.task.text(0))
        assert len(views) == 1 and len(texts) == 2, env_id
