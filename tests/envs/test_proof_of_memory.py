"""Proof of memory: shown, frozen, then hidden; a player that remembers walks to the goal."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import memarch_envs  # noqa: F401 - registers the id


def test_agent_is_frozen_while_the_goal_is_shown():
    env = gymnasium.make("memarch/ProofOfMemory-v0", show_steps=3)
    start = env.reset(seed=1)[0]
    assert {start[0], start[2]} == {-1, 1}
    for _ in range(2):
        observation, reward, *_ = env.step(1)
        assert observation.tolist() == start.tolist() and reward == 0
    observation, reward, *_ = env.step(1)
    assert observation.tolist() == [0, start[1], 0] and reward == 0
    observation, reward, *_ = env.step(1)
    assert observation.tolist() == pytest.approx([0, start[1] + 0.2, 0]) and reward == -0.1


def test_memory_of_the_goal_is_what_it_takes():
    env = gymnasium.make("memarch/ProofOfMemory-v0")
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        side, distance, total, over = int(observation[2] == 1), 5 * abs(observation[2] - observation[1]), 0.0, False
        while not over:
            _, reward, over, _, _ = env.step(side)
            total += reward
        assert total == pytest.approx(1.6 - 0.1 * (np.rint(distance) - 1))


def test_nothing_seen_when_the_agent_moves_tells_the_goal():
    """Whoever chooses by the present observation alone does the same for both goals: half of them fail."""
    env = gymnasium.make("memarch/ProofOfMemory-v0")
    seen = {}
    for seed in range(60):
        start, _ = env.reset(seed=seed)
        for _ in range(2):
            observation, *_ = env.step(1)
        seen.setdefault(float(start[1]), set()).add((tuple(observation.tolist()), float(start[2])))
    for position, cases in seen.items():
        assert {observation for observation, _ in cases} == {(0.0, position, 0.0)}
        assert {goal for _, goal in cases} == {-1.0, 1.0}


def test_the_trap_costs_as_much():
    env = gymnasium.make("memarch/ProofOfMemory-v0")
    trap, over = int(env.reset(seed=0)[0][2] == -1), False
    while not over:
        _, reward, over, _, info = env.step(trap)
    assert reward == -1.6 and info == {"success": False}


def test_show_steps_must_be_positive():
    with pytest.raises(ValueError, match="show_steps"):
        gymnasium.make("memarch/ProofOfMemory-v0", show_steps=0)
