"""Using a trained agent: predict like the rollout, save and load, evaluate on other seeds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from memarch.agents import PPO
from memarch.agents.agent import is_single

from ._envs import Counter, Shaped, agent


@pytest.mark.parametrize("memory", ["hcam", "gru"])
def test_predict_remembers_what_the_rollout_remembered(memory: str) -> None:
    """Fed the observations of one environment, one at a time, it gives the probabilities that acted."""
    ppo = agent(memory=memory)
    rollout = ppo.collector.collect()
    env, state = 2, None
    for t in range(12):
        if not rollout.valid[t, env]:
            continue
        seen = rollout.observation["observation"][t, env]
        first = rollout.reset[t, env]
        with torch.no_grad():
            before = ppo.policy.empty_state(1) if state is None else state
            out, _ = ppo.policy({"observation": seen[None, None]}, before, reset=first[None, None])
        log_prob = ppo.policy.action.log_prob(out.outputs[:, 0], rollout.action[t, env][None])
        torch.testing.assert_close(log_prob[0], rollout.log_prob[t, env], rtol=1e-4, atol=1e-5)
        action, state = ppo.predict(seen.numpy(), state, episode_start=bool(first))
        assert action == out.outputs.argmax()


def test_predict_takes_one_or_a_batch_and_draws_if_asked() -> None:
    ppo = agent()
    one = np.zeros(3, np.float32)
    action, state = ppo.predict(one)
    assert action.shape == () and int(action) in (0, 1)
    batch, state = ppo.predict(np.zeros((5, 3), np.float32), episode_start=np.ones(5, bool))
    assert batch.shape == (5,)
    drawn = [int(ppo.predict(one, deterministic=False)[0]) for _ in range(50)]
    assert len(set(drawn)) == 2
    assert len({int(ppo.predict(one)[0]) for _ in range(10)}) == 1


@pytest.mark.parametrize("action_space", [spaces.MultiDiscrete([2, 3]), spaces.Box(-1, 1, (2,), np.float32)])
def test_save_and_load_predict_the_same(tmp_path: Path, action_space: spaces.Space) -> None:
    space = spaces.Dict(a=spaces.Box(-1, 1, (2,), np.float32), b=spaces.Discrete(3))
    ppo = agent(lambda: Shaped(space, action_space))
    ppo.learn(48)
    ppo.save(tmp_path / "agent")
    assert sorted(path.name for path in (tmp_path / "agent").iterdir()) == ["config.json", "model.safetensors"]
    again = PPO.load(tmp_path / "agent", env=lambda: Shaped(space, action_space))
    seen = space.sample()
    action, state = ppo.predict(seen)
    np.testing.assert_array_equal(again.predict(seen)[0], action)
    assert action_space.contains(action)
    batch, _ = SyncVectorEnv([lambda: Shaped(space, action_space)] * 3).reset(seed=0)
    np.testing.assert_array_equal(again.predict(batch)[0], ppo.predict(batch)[0])


def test_evaluation_leaves_the_training_alone() -> None:
    one, other = agent(), agent()
    one.learn(96)
    other.learn(48)
    other.evaluate(num_episodes=5)
    other.goal = 96
    other.learn()
    for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.5, atol=0.05)


def test_evaluation_counts_and_repeats() -> None:
    ppo = agent()
    first, again = ppo.play(num_episodes=20, seed=3), ppo.play(num_episodes=20, seed=3)
    assert first == again and len(first) == 32 and {e.num_steps for e in first} == {5, 6, 7}
    assert ppo.play(num_episodes=20, seed=4) != first
    assert ppo.evaluate(num_episodes=3).num_episodes == 3
    with pytest.raises(ValueError, match="evaluation needs environments of its own, and SyncVectorEnv cannot be made"):
        agent(SyncVectorEnv([Counter] * 4)).evaluate()


def test_single_or_batch() -> None:
    space = spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(0, 1, (2,), np.float32))
    assert is_single(space, {"a": 1, "b": np.zeros(2)}) and not is_single(space, {"a": np.zeros(4), "b": None})
    assert is_single(spaces.Text(3), "abc") and not is_single(spaces.Text(3), ("abc", "de"))
    assert is_single(spaces.Tuple([spaces.Discrete(2)]), (1,)) and is_single(spaces.Box(0, 1, (), float), 0.5)
