"""The three rooms of visual match and key to door: apples, walls and sight by hand, and the ways of the oracle."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import memarch_envs  # noqa: F401 - registers the ids
from memarch_envs._rooms import APPLE, FLOOR, ORCHARD, STEPS, board_of, cells_of, toward
from memarch_envs.key_to_door import DOOR_ROOMS, KEY_ROOM
from memarch_envs.visual_match import DOORS

IDS = ("memarch/VisualMatch-v0", "memarch/KeyToDoor-v0")
NORTH, SOUTH, WEST, EAST = range(4)


@pytest.mark.parametrize("room", [ORCHARD, KEY_ROOM, DOORS, *DOOR_ROOMS.values()])
def test_ways_are_the_shortest_and_avoid_other_doors(room):
    board, doors, table = board_of(room), cells_of(room, "d"), toward(room)
    starts = cells_of(room, "+")
    for goal in [*doors, *cells_of(room, "k")[::3], *cells_of(room, "a")[::5]]:
        cell, steps = starts[0], 0
        while cell != goal:
            cell, steps = cell + STEPS[table[goal, cell]], steps + 1
            assert board[cell] == FLOOR and (cell == goal or cell not in doors) and steps <= 14
        rows, columns = np.divmod([goal, starts[0]], 15)
        assert steps >= abs(rows[0] - rows[1]) + abs(columns[0] - columns[1])


@pytest.mark.parametrize("env_id", IDS)
def test_apples(env_id):
    """An apple earns its reward, is gone for 21 steps, and comes back, also under the agent."""
    env = gymnasium.make(env_id, num_apples=22, apple_reward=0.25, distractor_steps=60).unwrapped
    env.reset(seed=0)
    for _ in range(15):
        env.step(NORTH)
    task = env.task
    assert (task.board == APPLE).sum() == 22
    assert env.step(WEST)[1] == 0 and env.step(WEST)[1] == 0.25
    eaten = task.place[0]
    assert task.board[0, eaten] == FLOOR
    for step in range(20):
        assert env.step(SOUTH)[1] == 0 and task.board[0, eaten] == FLOOR, step
    assert env.step(SOUTH)[1] == 0 and task.board[0, eaten] == APPLE
    assert env.step(SOUTH)[1] == 0.25 and task.board[0, eaten] == FLOOR
    for _ in range(21):
        env.step(EAST if task.place[0] == eaten else SOUTH)
    assert task.board[0, eaten] == APPLE


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("distractor_steps", [0, 1, 25])
def test_rooms_change_on_time(env_id, distractor_steps):
    """No apple is left in the last room, and none grows there."""
    env = gymnasium.make(env_id, distractor_steps=distractor_steps).unwrapped
    env.reset(seed=1)
    steps, over, apples = 0, False, []
    while not over:
        apples.append(int((env.task.board == APPLE).sum()))
        _, _, over, truncated, info = env.step(env.task.expert()[0])
        assert not truncated
        steps += 1
    assert steps == env.task.max_episode_steps == 15 + distractor_steps + env.task.last_steps
    assert not any(apples[:15]) and not any(apples[15 + distractor_steps :])
    assert all(apples[15 : 15 + distractor_steps]) and info == {"success": True}


@pytest.mark.parametrize("env_id", IDS)
def test_pixels_show_what_the_symbols_say(env_id):
    """The same episode in both forms: each cell one colour, that of what the symbols name."""
    pixels, symbols = (gymnasium.make(env_id, pixels=value, distractor_steps=20).unwrapped for value in (True, False))
    image, vector = pixels.reset(seed=4)[0], symbols.reset(seed=4)[0]
    kinds = [kind for k, kind in enumerate(pixels.task.kinds) if k not in (0, 2)]
    over = False
    while not over:
        cells = image.reshape(5, 8, 5, 8, 3).swapaxes(1, 2).reshape(25, 64, 3)
        assert (cells == cells[:, :1]).all()
        for k, hot in enumerate(vector.reshape(25, len(kinds))):
            expected = kinds[int(hot.argmax())].colour if hot.any() else (204, 204, 204)
            assert tuple(cells[k, 0]) == ((229, 149, 110) if k == 12 else expected)
        action = pixels.task.expert()[0]
        image, reward, over, _, _ = pixels.step(action)
        vector, same, _, _, _ = symbols.step(action)
        assert reward == same


def test_view_is_five_cells_wide():
    env = gymnasium.make("memarch/VisualMatch-v0", num_apples=0).unwrapped
    env.reset(seed=0)
    for _ in range(15):
        env.step(NORTH)
    assert env.task.view(0).splitlines() == [".....", ".....", "..@..", "#####", ".....", "step 15"]
    for _ in range(5):
        env.step(WEST)
    assert env.task.view(0).splitlines()[2] == ".#@.."
    assert env.task.text(0).splitlines()[:7] == ["###########", *["#.........#"] * 4, "#@........#", "###########"]


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("distractor_steps", -1),
        ("num_apples", 23),
        ("apple_reward", -0.5),
        ("apple_reward", float("nan")),
        ("apple_reward", "1"),
        ("pixels", "yes"),
    ],
)
def test_bad_options(env_id, option, value):
    with pytest.raises(ValueError, match=option):
        gymnasium.make(env_id, **{option: value})
