"""Key to door: without a key no door opens; with one, the door of its colour earns the reward, once."""

from __future__ import annotations

import gymnasium
import pytest

import memarch_envs  # noqa: F401 - registers the id

ID = "memarch/KeyToDoor-v0"
NORTH, SOUTH, WEST, EAST = range(4)


def at_the_doors(seed, *, take, num_doors):
    """An environment at the beginning of the last room, with or without a key; and the colour of the key seen."""
    env = gymnasium.make(ID, num_doors=num_doors, distractor_steps=5, num_apples=0).unwrapped
    observation, _ = env.reset(seed=seed)
    colour = -1
    for _ in range(15):
        keys = observation.reshape(25, -1)[:, 2 : 2 + num_doors]
        colour = int(keys.sum(axis=0).argmax()) if keys.any() else colour
        observation, reward, _, _, _ = env.step(env.task.expert()[0] if take else SOUTH)
        assert reward == 0
    for _ in range(5):
        observation, *_ = env.step(SOUTH)
    return env, observation, colour


def test_remembering_the_key_is_enough():
    """From observations alone: the colour of the key, and the door of that colour."""
    chosen = []
    for seed in range(20):
        env, observation, colour = at_the_doors(seed, take=True, num_doors=3)
        doors = observation.reshape(5, 5, 8)[0, 1:4, 5:]
        assert (doors.sum(axis=0) == 1).all()
        door = int(doors[:, colour].argmax())
        chosen.append(door)
        walk = ([WEST], [], [EAST])[door] + [NORTH] * 2
        assert [env.step(action)[1] for action in walk] == [0] * (len(walk) - 1) + [5], seed
    assert set(chosen) == {0, 1, 2}


def test_a_wrong_door_breaks_the_key():
    env, observation, colour = at_the_doors(1, take=True, num_doors=3)
    wrong = int(observation.reshape(5, 5, 8)[0, 1:4, 5 + (colour + 1) % 3].argmax())
    right = int(env.task.order[0].tolist().index(colour))
    total = sum(env.step(action)[1] for action in ([WEST], [], [EAST])[wrong] + [NORTH] * 2)
    way = [SOUTH] + [EAST if right > wrong else WEST] * abs(right - wrong) + [NORTH]
    total += sum(env.step(action)[1] for action in way)
    assert env.task.place[0] == env.task.doors[right] and total == 0


@pytest.mark.parametrize("num_doors", [1, 3])
def test_without_a_key_doors_stay_shut(num_doors):
    env, _, _ = at_the_doors(2, take=False, num_doors=num_doors)
    assert [env.step(NORTH)[1] for _ in range(3)] == [0, 0, 0]
    assert not env.task.taken[0] and env.task.place[0] == (2 + 2) * 15 + 7
    for _ in range(6):
        env.step(NORTH)
    assert env.step(NORTH)[2:] == (True, False, {"success": False})


def test_one_door_pays_once():
    env, _, _ = at_the_doors(3, take=True, num_doors=1)
    rewards = [env.step(action)[1] for action in (NORTH, NORTH, SOUTH, *[NORTH] * 6)]
    assert rewards == [0, 5, *[0] * 7]
    assert env.step(NORTH)[2:] == (True, False, {"success": True})


@pytest.mark.parametrize("num_doors", [0, 2, 4])
def test_bad_number_of_doors(num_doors):
    with pytest.raises(ValueError, match=f"num_doors must be one of 1, 3, got {num_doors}"):
        gymnasium.make(ID, num_doors=num_doors)
