"""Memory length: bits at the first step, the question at the last, nothing between."""

from __future__ import annotations

import gymnasium
import pytest

import memarch_envs  # noqa: F401 - registers the id


def test_bits_once_question_last():
    env = gymnasium.make("memarch/MemoryLength-v0", length=4, num_bits=3)
    wins = []
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        assert observation[0] == 1 and observation[1] == 0 and set(abs(observation[2:5])) == {1}
        bits = observation[2:5]
        for step in range(1, 5):
            observation, reward, terminated, _, _ = env.step(step % 2)
            assert reward == 0 and not terminated and (observation[2:5] == 0).all()
            assert observation[0] == 1 - step / 4 and observation[1] == (step == 4)
        asked = observation[5:].argmax()
        assert observation[5:].sum() == 1
        answer = int(bits[asked] == 1) if seed % 2 else int(bits[asked] == -1)
        wins.append(env.step(answer)[1])
    assert wins == [-1, 1] * 10


@pytest.mark.parametrize("option", ["length", "num_bits"])
def test_options_must_be_positive(option):
    with pytest.raises(ValueError, match=f"{option} must be an integer at least 1, got -3"):
        gymnasium.make("memarch/MemoryLength-v0", **{option: -3})
