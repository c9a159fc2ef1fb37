"""Paired associative inference: linking the pairs seen answers every trial, at any distance."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import memarch_envs  # noqa: F401 - registers the id

ID = "memarch/PairedInference-v0"


@pytest.mark.parametrize(("length", "distance"), [(3, 1), (3, 2), (5, 4)])
def test_linking_pairs_answers_every_trial(length, distance):
    """From observations alone: which candidate is `distance` links from the cue in the graph of the pairs?"""
    env = gymnasium.make(ID, chain_length=length, distance=distance, item_dim=7)
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        links, total, over, trials = {}, 0.0, False, 0
        while not over:
            cue, left, right = (tuple(x.tolist()) for x in np.split(observation[:-1], 3))
            if observation[-1] == 0:
                assert not any(cue) and np.linalg.norm(left) == pytest.approx(1)
                links.setdefault(left, set()).add(right)
                links.setdefault(right, set()).add(left)
                action = 0
            else:
                near, seen = {cue}, {cue}
                for _ in range(distance):
                    near = {b for a in near for b in links[a]} - seen
                    seen |= near
                assert (left in near) != (right in near)
                assert distance == 1 or left not in links[cue]
                action, trials = int(right in near), trials + 1
            observation, reward, over, _, info = env.step(action)
            total += reward
        assert total == pytest.approx(1) and info == {"success": True} and trials == 4
        assert len(links) == 3 * length and sum(map(len, links.values())) == 2 * 3 * (length - 1)


def test_one_mistake_is_no_success():
    env = gymnasium.make(ID, num_trials=2).unwrapped
    env.reset(seed=0)
    over, rewards = False, []
    while not over:
        wrong = len(rewards) == env.task.num_pairs
        _, reward, over, _, info = env.step(env.task.expert()[0] ^ wrong)
        rewards.append(reward)
    assert rewards[-2:] == [0, 0.5] and info == {"success": False}


@pytest.mark.parametrize("options", [{"distance": 3}, {"num_chains": 1}, {"num_trials": 0}, {"item_dim": 1}])
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        gymnasium.make(ID, **options)
