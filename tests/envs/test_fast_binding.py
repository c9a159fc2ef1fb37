"""Fast binding: a player that stores the lesson answers after any number of blocks, and across episodes."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import memarch_envs  # noqa: F401 - registers the id

ID = "memarch/FastBinding-v0"


class Player:
    """Binds each word of a lesson to its object, and the object shown alone to the next choice; knows nothing else."""

    def __init__(self):
        self.lesson, self.sample = {}, None

    def act(self, observation, dim):
        word, alone, *places = observation[:-1].reshape(-1, dim)
        if word.any() and alone.any():
            self.lesson[word.tobytes()] = alone
        elif alone.any():
            self.sample = alone
        if observation[-1] == 0:
            return 0
        wanted = self.lesson.get(word.tobytes()) if word.any() else self.sample
        matches = [k for k, place in enumerate(places) if wanted is not None and (place == wanted).all()]
        return matches[0] if matches else 0


def play(env, player, dim, seed=None):
    observation, _ = env.reset(seed=seed)
    total, over, steps = 0.0, False, 0
    while not over:
        observation, reward, over, _, info = env.step(player.act(observation, dim))
        total, steps = total + reward, steps + 1
    return total, steps, info["success"]


@pytest.mark.parametrize(("num_pairs", "blocks"), [(3, 0), (5, 2), (8, 20)])
def test_storing_the_lesson_is_enough(num_pairs, blocks):
    env = gymnasium.make(ID, num_pairs=num_pairs, num_distractors=blocks, block_steps=3, item_dim=7)
    for seed in range(10):
        total, steps, success = play(env, Player(), 7, seed)
        assert total == pytest.approx(1 + 0.1 * blocks) and success
        assert steps == num_pairs + 3 * blocks + 1


def test_items_are_new_in_every_episode_but_for_familiar_ones():
    env = gymnasium.make(ID, item_dim=5, block_steps=2)
    lessons, familiar = set(), set()
    for seed in range(60):
        observation, over = env.reset(seed=seed)[0], False
        while not over:
            word, alone, *places = observation[:-1].reshape(-1, 5)
            assert {round(float(np.linalg.norm(v)), 5) for v in (word, alone, *places)} <= {0.0, 1.0}
            if word.any() and alone.any():
                lessons |= {word.tobytes(), alone.tobytes()}
            elif not word.any() and observation[-1]:
                assert len({place.tobytes() for place in places}) == 3
                familiar |= {place.tobytes() for place in places}
            observation, _, over, _, _ = env.step(0)
    assert len(lessons) == 60 * 3 * 2
    assert len(familiar) == 31 and not lessons & familiar


def test_lessons_that_serve_several_episodes():
    """Every third episode teaches; a memory kept between episodes always succeeds, an emptied one is at chance."""
    env = gymnasium.make(ID, lesson_episodes=3)
    kept, lengths, outcomes = Player(), [], []
    for episode in range(90):
        total, steps, success = play(env, kept, 16, seed=5 if episode == 0 else None)
        lengths.append(steps)
        assert success and total == pytest.approx(1.2)
    assert lengths == [12, 9, 9] * 30
    for episode in range(90):
        outcomes.append(play(env, Player(), 16, seed=5 if episode == 0 else None)[2])
    assert all(outcomes[::3]) and 0.15 < np.mean([s for k, s in enumerate(outcomes) if k % 3]) < 0.55


def test_an_unfinished_episode_and_a_seed_bring_a_lesson():
    env = gymnasium.make(ID, lesson_episodes=4)
    first = play(env, Player(), 16, seed=1)[1]
    assert play(env, Player(), 16)[1] == first - 3
    env.reset()
    env.step(0)
    assert play(env, Player(), 16)[1] == first
    assert play(env, Player(), 16)[1] == first - 3
    assert play(env, Player(), 16, seed=1)[1] == first


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("limit", [None, 12, 11, 3])
def test_lessons_in_vector_form(mode, limit):
    """As the scalar form, also where a limit cuts episodes one step before their end."""
    options = {"lesson_episodes": 2, "max_episode_steps": limit}
    native = gymnasium.make_vec(ID, num_envs=3, autoreset_mode=mode, **options)
    kwargs = {"autoreset_mode": native.autoreset_mode}
    make = [lambda: type(gymnasium.make(ID).unwrapped)(**options)] * 3
    sync = gymnasium.vector.SyncVectorEnv(make, **kwargs)
    assert (native.reset(seed=3)[0] == sync.reset(seed=3)[0]).all()
    for _ in range(60):
        actions = native.task.expert()
        for ours, theirs in zip(native.step(actions)[:4], sync.step(actions)[:4], strict=True):
            assert (ours == theirs).all()


def test_number_of_blocks_varies():
    env = gymnasium.make(ID, num_distractors=3, vary_distractors=True)
    lengths = [play(env, Player(), 16, seed)[1] for seed in range(60)]
    assert set(lengths) == {4, 8, 12, 16}


def test_wrong_picks_earn_nothing():
    env = gymnasium.make(ID, num_distractors=1).unwrapped
    env.reset(seed=0)
    over, rewards = False, []
    while not over:
        _, reward, over, _, info = env.step((env.task.expert()[0] + 1) % 3)
        rewards.append(reward)
    assert rewards == [0] * 8 and info == {"success": False}


def test_the_reward_of_blocks_is_a_choice():
    env = gymnasium.make(ID, num_distractors=2, block_reward=1.0).unwrapped
    env.reset(seed=0)
    over, rewards = False, []
    while not over:
        _, reward, over, _, info = env.step(env.task.expert()[0])
        rewards.append(reward)
    assert sum(rewards) == 3 and rewards.count(1) == 3 and info == {"success": True}


@pytest.mark.parametrize(
    "options",
    [
        {"num_pairs": 1},
        {"num_pairs": 9},
        {"num_distractors": -1},
        {"vary_distractors": 1},
        {"block_steps": 1},
        {"lesson_episodes": 0},
        {"item_dim": 1},
        {"block_reward": -1},
    ],
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        gymnasium.make(ID, **options)
