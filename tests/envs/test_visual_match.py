"""Visual match: a player with eyes and a memory for one colour finds the door; the room never tells its place."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import memarch_envs  # noqa: F401 - registers the id
from memarch_envs._rooms import FIRST_OWN

ID = "memarch/VisualMatch-v0"
NORTH, SOUTH, WEST, EAST = range(4)
# From the start of the last room to each door.
WAYS = ([NORTH] * 3 + [WEST] * 3 + [NORTH], [NORTH] * 4, [NORTH] * 3 + [EAST] * 3 + [NORTH])


def test_remembering_the_colour_is_enough():
    """From observations alone: which colour is seen in the first room, and which door shows it in the last."""
    env = gymnasium.make(ID, distractor_steps=7, num_apples=0)
    doors = []
    for seed in range(25):
        observation, _ = env.reset(seed=seed)
        seen = observation.reshape(25, 5)[:, 2:]
        assert seen.sum() == 1
        colour = int(seen.sum(axis=0).argmax())
        for _ in range(22):
            observation, reward, over, _, _ = env.step(seed % 4)
            assert reward == 0 and not over
        for _ in range(3):
            observation, *_ = env.step(NORTH)
        # One row below the doors, the middle one is in sight; the right one is from two steps east.
        middle = int(observation.reshape(5, 5, 5)[1, 2, 2:].argmax())
        env.step(EAST)
        observation, *_ = env.step(EAST)
        right = int(observation.reshape(5, 5, 5)[1, 3, 2:].argmax())
        door = [3 - middle - right, middle, right].index(colour)
        doors.append(door)
        walk = [WEST] * (5, 2, 0)[door] + [EAST] * (0, 0, 1)[door] + [NORTH]
        rewards = [env.step(action)[1] for action in walk]
        assert rewards == [0] * (len(walk) - 1) + [5], seed
    assert set(doors) == {0, 1, 2}


@pytest.mark.parametrize("door", range(3))
def test_one_choice_only(door):
    """The first door counts; then all are gone; success comes with the last step."""
    outcomes = []
    for seed in range(12):
        env = gymnasium.make(ID, distractor_steps=0, num_apples=0).unwrapped
        env.reset(seed=seed)
        for _ in range(15):
            env.step(NORTH)
        total = sum(env.step(action)[1] for action in WAYS[door])
        right = env.task.order[0, door] == env.task.colour[0]
        assert total == (5 if right else 0) and not (env.task.board >= FIRST_OWN).any()
        for _ in range(15 - len(WAYS[door]) - 1):
            env.step(SOUTH)
        _, reward, terminated, _, info = env.step(SOUTH)
        assert terminated and reward == 0 and info == {"success": right}
        outcomes.append(right)
    assert 0 < np.mean(outcomes) < 1


def test_the_first_room_holds_the_agent():
    env = gymnasium.make(ID).unwrapped
    first = env.reset(seed=0)[0]
    for step in range(14):
        assert (env.step(step % 4)[0] == first).all()
    assert (env.step(0)[0] != first).any()
