"""Ballet: the released environment's rules and lengths; a player that recognises the dances finds the dancer."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import memarch_envs  # noqa: F401 - registers the id
from memarch_envs._dances import DANCES, offsets
from memarch_envs.policies import oracle_policy, run_episodes

ID = "memarch/Ballet-v0"


def test_dances_return_home_and_differ():
    steps = offsets()
    assert steps.shape == (13, 16, 2) and abs(steps).max() == 1
    assert (steps[:, -1] == 0).all()
    assert len({dance.tobytes() for dance in steps}) == 13
    assert steps[list(DANCES).index("circle_cw"), :4].tolist() == [[-1, 0], [-1, 1], [0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("num_dancers", "delay", "length"),
    [(2, 16, 65), (4, 16, 127), (8, 16, 251), (2, 48, 129), (4, 48, 255), (8, 48, 507)],
)
def test_oracle_lengths(num_dancers, delay, length):
    env = gymnasium.make_vec(ID, num_envs=9, num_dancers=num_dancers, delay=delay, autoreset_mode="SameStep")
    outcome = run_episodes(env, oracle_policy, episodes_each=1, seed=0)
    assert outcome.lengths.tolist() == [length] * 9 and outcome.success.all()
    assert env.max_episode_steps == (320 if delay == 16 else 1024)


def test_recognising_the_dances_is_enough():
    """From observations alone: watch every place, then walk to the place that danced what is named."""
    env = gymnasium.make(ID, num_dancers=4, delay=3)
    homes = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)]
    moves = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        seen = []
        while observation[42] == 1:
            seen.append(observation[:40].reshape(8, 5)[:, 1:3])
            observation, _, over, _, _ = env.step(seed % 8)
            assert not over and (observation[40:42] == 0).all()
        assert len(seen) == 4 * 18
        named = offsets()[observation[43:].argmax()]
        watched = np.array([seen[18 * turn : 18 * turn + 16] for turn in range(4)])
        matches = (watched == named[None, :, None]).all(axis=(1, 3))
        assert matches.sum() == 1
        action = moves.index(homes[int(matches.any(axis=0).argmax())])
        rewards = [env.step(action)[1] for _ in range(3)]
        assert rewards == [0, 0, 1]


def test_walls_stop_and_wrong_dancers_end():
    env = gymnasium.make(ID, num_dancers=1, delay=1).unwrapped
    env.reset(seed=0)
    for _ in range(16):
        env.step(0)
    task = env.task
    task.agent[:] = (9, 1)
    assert env.step(5)[0][40:42] == pytest.approx([0.8, -0.8])
    assert env.step(4)[0][40:42] == pytest.approx([0.8, -0.8])
    assert env.step(3)[0][40:42] == pytest.approx([0.8, -0.8])
    assert env.step(0)[0][40:42] == pytest.approx([0.6, -0.8])
    env = gymnasium.make(ID).unwrapped
    env.reset(seed=0)
    env.task.target[:] = 1 - env.task.target
    walk = [env.task.expert()[0]]
    env.task.target[:] = 1 - env.task.target
    for _ in range(62):
        env.step(0)
    assert [env.step(walk[0])[1:] for _ in range(3)][-1] == (0.0, True, False, {"success": False})


def test_dances_are_named_in_a_share_of_episodes():
    """Only while they are danced, by the right word, in about as many episodes as asked for; nothing else changes."""
    plain, some, all_named = (
        gymnasium.make_vec(ID, num_envs=200, delay=2, autoreset_mode="SameStep", **options)
        for options in ({}, {"named_share": 0.25}, {"named_share": 1.0})
    )
    words = {}
    for env in (plain, some, all_named):
        seen = [env.reset(seed=3)[0]] + [env.step(np.zeros(200, dtype=np.int64))[0] for _ in range(2 * 17)]
        words[env] = np.stack(seen)[..., 42:].argmax(-1)
    assert (words[plain][:-1] == 0).all() and (words[plain][-1] > 0).all()
    dance = 1 + all_named.task.dance
    right = np.concatenate([np.repeat(dance[None, :, k], 16 + 1, axis=0) for k in range(2)])
    right[[16, 33]] = 0
    assert (words[all_named][:-1] == right).all()
    assert (words[all_named][-1] == dance[np.arange(200), all_named.task.target]).all()
    named = (words[some][:-1] > 0).any(axis=0)
    assert 0.15 < named.mean() < 0.35
    assert ((words[some][:-1] > 0) == (right > 0) * named).all()
    assert (words[some][-1] > 0).all()


@pytest.mark.parametrize(
    "options", [{"num_dancers": 9}, {"delay": 0}, {"named_share": 1.5}, {"named_share": True}, {"named_share": "half"}]
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        gymnasium.make(ID, **options)
