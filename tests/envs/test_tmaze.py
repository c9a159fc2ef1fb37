"""T-Maze: a player with nothing but observations and memory solves it; the cue shows once; lagging costs."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import memarch_envs  # noqa: F401 - registers the ids

RIGHT, UP, LEFT, DOWN = range(4)


def play(env, seed, *, remember):
    observation, _ = env.reset(seed=seed)
    cue, total, over = 0.0, 0.0, False
    while not over:
        cue = observation[1] or (cue if remember else 0.0)
        at_junction = observation[0] == 1
        fetch = env.unwrapped.task.detour and cue == 0 and remember
        action = (UP if cue >= 0 else DOWN) if at_junction else LEFT if fetch else RIGHT
        observation, reward, terminated, truncated, _ = env.step(action)
        total += reward
        over = terminated or truncated
    return total


@pytest.mark.parametrize("env_id", ["memarch/PassiveTMaze-v0", "memarch/TMaze-v0"])
def test_memory_of_the_cue_is_what_it_takes(env_id):
    env = gymnasium.make(env_id, length=6)
    assert [play(env, seed, remember=True) for seed in range(40)] == [1.0] * 40
    assert 0.25 < np.mean([play(env, seed, remember=False) for seed in range(40)]) < 0.75


def test_cue_is_shown_at_the_first_visit_only():
    env = gymnasium.make("memarch/TMaze-v0", length=5)
    assert env.reset(seed=0)[0].tolist() == [0, 0]
    first = env.step(LEFT)[0]
    assert first[0] == 0 and abs(first[1]) == 1
    env.step(RIGHT)
    assert env.step(LEFT)[0].tolist() == [0, 0] and env.unwrapped.task.x[0] == -1


def test_arms_are_seen_and_may_be_left_again():
    """Active, early at the junction: only where the agent is at the last step counts."""
    env = gymnasium.make("memarch/TMaze-v0", length=1)
    for last, arm in ((UP, 1), (DOWN, -1)):
        env.reset(seed=0)
        goal = env.unwrapped.task.goal[0]
        seen = [env.step(action)[0].tolist() for action in (RIGHT, -last + 4, last)]
        assert seen == [[1, 0], [1, -arm], [1, 0]]
        observation, reward, terminated, _, info = env.step(last)
        assert observation.tolist() == [1, arm] and terminated
        assert reward == (goal == arm) == info["success"]
    env.reset(seed=0)
    env.step(RIGHT)
    assert env.step(UP)[0].tolist() == env.step(RIGHT)[0].tolist() == env.step(LEFT)[0].tolist() == [1, 1]


def test_rewards_by_hand():
    """Passive, length 4: keeping up costs nothing, one wasted step -1/4 each step after, and no time is left."""
    env = gymnasium.make("memarch/PassiveTMaze-v0", length=4)
    env.reset(seed=0)
    rewards = [env.step(a)[1] for a in (RIGHT, UP, RIGHT, RIGHT)]
    assert rewards == [0, -0.25, -0.25, -0.25]
    observation, reward, terminated, truncated, info = env.step(RIGHT)
    assert (observation.tolist(), reward, terminated, truncated, info) == ([1, 0], 0, True, False, {"success": False})


def test_a_wrong_arm_earns_nothing():
    env = gymnasium.make("memarch/PassiveTMaze-v0", length=1)
    cue = env.reset(seed=0)[0][1]
    env.step(RIGHT)
    assert env.step(DOWN if cue == 1 else UP)[1:] == (0.0, True, False, {"success": False})


def test_length_must_be_positive():
    with pytest.raises(ValueError, match="length must be an integer at least 1, got 0"):
        gymnasium.make("memarch/TMaze-v0", length=0)


@pytest.mark.parametrize("env_id", ["memarch/PassiveTMaze-v0", "memarch/TMaze-v0"])
def test_varied_corridors_are_mostly_short_and_played_by_the_same_rules(env_id):
    env = gymnasium.make(env_id, length=8, vary_length=True)
    lengths = []
    for seed in range(400):
        assert play(env, seed, remember=True) == 1.0
        lengths.append(int(env.unwrapped.task.length[0]))
        assert env.unwrapped.task.t[0] == lengths[-1] + 1 + 2 * env.unwrapped.task.detour
    shares = np.bincount(lengths, minlength=9)[1:] / len(lengths)
    expected = np.diff(np.sqrt(np.arange(9) / 8))
    assert len(shares) == 8 and np.abs(shares - expected).max() < 4 * np.sqrt(0.25 / len(lengths))


def test_pictures_of_varied_corridors_have_one_size():
    env = gymnasium.make("memarch/PassiveTMaze-v0", length=8, vary_length=True)
    shapes = set()
    for seed in range(20):
        env.reset(seed=seed)
        shapes.add(env.unwrapped.task.cells(0).shape)
    assert shapes == {(5, 11, 3)}


def test_vary_length_must_be_a_flag():
    with pytest.raises(ValueError, match="vary_length"):
        gymnasium.make("memarch/TMaze-v0", vary_length=2)
