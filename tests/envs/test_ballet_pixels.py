"""Ballet in pixels: the picture is drawn as the rules say, and is enough to find the dancer."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import memarch_envs  # noqa: F401 - registers the ids
from memarch_envs._dances import offsets
from memarch_envs._sprites import COLOURS, shapes, sprites, views

ID = "memarch/BalletPixels-v0"
HOMES = [(r, c) for r in (2, 5, 8) for c in (2, 5, 8) if (r, c) != (5, 5)]
MOVES = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]


def test_sprites_and_colours_differ():
    bank = sprites()
    assert bank.shape == (15, 19, 9, 9, 3) and bank.dtype == np.uint8
    assert len({sprite.tobytes() for sprite in bank.reshape(-1, 243)}) == 15 * 19
    assert len(set(COLOURS.values())) == 19 and len(shapes()) == 15
    drawn = ["".join(".#"[int(pixel)] for pixel in row) for row in shapes()["upside_down_tee"]]
    assert drawn == ["...###..."] * 6 + ["#########"] * 3
    with pytest.raises(ValueError, match="read-only"):
        views()[0] = 0


def slow_frame(task, index):
    """One picture drawn cell by cell, from the rules."""
    world = {(r, c): (40, 40, 40) for r in range(11) for c in range(11) if not (0 < r < 10 and 0 < c < 10)}
    frame = np.zeros((99, 99, 3), dtype=np.uint8)
    top, left = task.agent[index] - 5

    def paint(row, column, cell):
        row, column = row - top, column - left
        if 0 <= row < 11 and 0 <= column < 11:
            frame[9 * row : 9 * row + 9, 9 * column : 9 * column + 9] = cell

    for (row, column), grey in world.items():
        paint(row, column, grey)
    paint(*task.agent[index], (255, 255, 255))
    turn, move = divmod(int(task.t[index]), task.period)
    for who in range(task.num_dancers):
        row, column = HOMES[task.home[index, who]]
        if who == turn and move < 16:
            row, column = (row, column) + offsets()[task.dance[index, who], move]
        paint(row, column, sprites()[task.shape[index, who], task.colour[index, who]])
    return frame


@pytest.mark.parametrize("num_dancers", [1, 8])
def test_frames_equal_a_slow_drawing(num_dancers):
    """Through dances and pauses, then anywhere in the room, also where dancers are out of sight."""
    env = gymnasium.make_vec(ID, num_envs=3, num_dancers=num_dancers, delay=2)
    observation, _ = env.reset(seed=0)
    task, generator = env.task, np.random.default_rng(0)
    for step in range(num_dancers * 17 + 60):
        for index in range(3):
            assert (observation["image"][index] == slow_frame(task, index)).all(), step
        if step > num_dancers * 17:
            task.agent[:] = generator.integers(1, 10, size=(3, 2))
            observation = task.observe(slice(None))
        else:
            observation = env.step(np.zeros(3, dtype=np.int64))[0]
    assert len({frame.tobytes() for frame in views()[1:10, 1:10].reshape(81, -1)}) == 81


def test_plays_as_the_symbolic_form():
    """The same seed and actions give the same rewards, ends and words."""
    pixels = gymnasium.make_vec(ID, num_envs=4, delay=1)
    symbols = gymnasium.make_vec("memarch/Ballet-v0", num_envs=4, delay=1)
    seen, told = pixels.reset(seed=5)[0], symbols.reset(seed=5)[0]
    for _ in range(80):
        assert (seen["word"] == told[:, 42:].argmax(axis=1)).all()
        actions = np.random.default_rng(int(pixels.task.t.sum())).integers(8, size=4)
        ours, theirs = pixels.step(actions), symbols.step(actions)
        for part in (1, 2, 3):
            assert (ours[part] == theirs[part]).all()
        seen, told = ours[0], theirs[0]


def test_pictures_are_enough():
    """From pixels and words alone: tell dancers apart by their sprites, follow them, walk to the one named."""
    env = gymnasium.make(ID, num_dancers=5, delay=2)
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        tracks: dict[bytes, list[tuple[int, int]]] = {}
        while observation["word"] == 0:
            cells = observation["image"].reshape(11, 9, 11, 9, 3).swapaxes(1, 2)
            for row, column in np.ndindex(11, 11):
                sprite = cells[row, column]
                if (row, column) != (5, 5) and sprite.any() and not (sprite == 40).all():
                    tracks.setdefault(sprite.tobytes(), []).append((row, column))
            observation, _, over, _, _ = env.step(0)
            assert not over
        assert len(tracks) == 5
        named = offsets()[observation["word"] - 1]
        found = []
        for places in tracks.values():
            path = np.array(places) - places[-1]
            found += [places[-1] for turn in range(5) if (path[17 * turn + np.arange(16)] == named).all()]
        assert len(found) == 1
        action = MOVES.index(tuple(np.sign(np.array(found[0]) - 5)))
        assert [env.step(action)[1] for _ in range(3)] == [0, 0, 1]


def test_bad_options():
    with pytest.raises(ValueError, match="num_dancers"):
        gymnasium.make(ID, num_dancers=9)
