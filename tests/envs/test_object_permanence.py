"""Object permanence: a player that tracks what it sees, swaps included, always finds the object."""

from __future__ import annotations

import gymnasium
import pytest

import memarch_envs  # noqa: F401 - registers the id

ID = "memarch/ObjectPermanence-v0"


def play(env, seed, *, track_swaps=True):
    """Answers from observations alone; returns the reward and how many swaps were seen."""
    boxes, objects = env.unwrapped.task.num_boxes, env.unwrapped.task.num_objects
    observation, _ = env.reset(seed=seed)
    where, swaps = {}, 0
    while True:
        seen, rest = observation[: boxes * objects].reshape(boxes, objects), observation[boxes * objects :]
        for place, what in zip(*seen.nonzero(), strict=True):
            assert where.setdefault(int(what), int(place)) == place
        moved = rest[:boxes].nonzero()[0]
        if moved.size:
            assert moved.size == 2
            swaps += 1
            exchange = {int(moved[0]): int(moved[1]), int(moved[1]): int(moved[0])}
            if track_swaps:
                where = {what: exchange.get(place, place) for what, place in where.items()}
        named = rest[boxes:].nonzero()[0]
        action = where[int(named[0])] if named.size else 0
        observation, reward, terminated, _, _ = env.step(action)
        if terminated:
            assert len(where) == objects and named.size == 1
            return reward, swaps


@pytest.mark.parametrize("options", [{}, {"num_boxes": 5, "num_objects": 3, "num_swaps": 4}, {"delay": 0}])
def test_tracking_finds_the_object(options):
    env = gymnasium.make(ID, **options)
    assert [play(env, seed) for seed in range(30)] == [(1.0, options.get("num_swaps", 0))] * 30


def test_ignoring_swaps_fails():
    env = gymnasium.make(ID, num_boxes=2, num_objects=1, num_swaps=1)
    assert sum(play(env, seed, track_swaps=False)[0] for seed in range(20)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_boxes": 9}, r"num_boxes must be an integer in 2\.\.8, got 9"),
        ({"num_objects": 5}, r"num_objects must be an integer in 1\.\.4, got 5"),
        ({"num_swaps": 11}, r"num_swaps must be an integer in 0\.\.10, got 11"),
        ({"delay": 1.5}, "delay"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        gymnasium.make(ID, **options)
