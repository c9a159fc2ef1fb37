"""Rollouts: masks and advantages in every autoreset mode against episodes played one by one, replay, faults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from memarch.agents import EnvironmentFailedError, PPOSettings
from memarch.agents.collector import LARGEST_TRAINING_SEED, training_seed
from memarch.agents.evaluation import evaluation_seed

from ._envs import SETTINGS, Counter, agent

MODES = list(AutoresetMode)
N = 3


def collector(mode: AutoresetMode, truncate: bool, **settings: Any):
    env = SyncVectorEnv([lambda: Counter(truncate=truncate)] * N, autoreset_mode=mode)
    options = {**vars(SETTINGS), "rollout_steps": 24, "window_steps": None, **settings}
    return agent(env, num_envs=N, memory="hcam", settings=PPOSettings(**options)).collector


def play_alone(rows: Any, actions: np.ndarray, row: int, truncate: bool, seed: int):
    """Observations (with the last), rewards of each episode of environment `row`, its actions given."""
    env = Counter(truncate=truncate)
    episodes = []
    seen, _ = env.reset(seed=seed + row)
    observations, rewards, taken = [seen], [], []
    for action in actions:
        seen, reward, terminated, truncated, _ = env.step(action)
        observations.append(seen)
        rewards.append(reward)
        taken.append(action)
        if terminated or truncated:
            episodes.append((observations, rewards, True))
            observations, rewards, taken = [env.reset()[0]], [], []
    if rewards:
        episodes.append((observations, rewards, False))
    return episodes


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_advantages_are_those_of_episodes_played_alone(mode: AutoresetMode, truncate: bool) -> None:
    """The number of the seed is shown first, so values depend on memory; a cut episode continues in value."""
    c = collector(mode, truncate)
    rollout = c.collect()
    gamma, lam = c.settings.discount, c.settings.gae_lambda
    assert rollout.valid.all() == (mode is not AutoresetMode.NEXT_STEP)
    for row in range(N):
        valid = rollout.valid[:, row]
        alone = play_alone(None, rollout.action[valid, row, 0].numpy(), row, truncate, training_seed(0, 0))
        expected_advantage, expected_target, begins = [], [], []
        for observations, rewards, ended in alone:
            seen = torch.from_numpy(np.stack(observations))[None]
            with torch.no_grad():
                value = c.policy({"observation": seen})[0].value[0]
            follows = value[1:].clone()
            if ended and not truncate:
                follows[-1] = 0
            delta = torch.tensor(rewards) + gamma * follows - value[:-1]
            advantage = [
                sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, len(delta))) for t in range(len(delta))
            ]
            expected_advantage += advantage
            expected_target += [a + v for a, v in zip(advantage, value[:-1], strict=True)]
            begins += [True] + [False] * (len(rewards) - 1)
        torch.testing.assert_close(rollout.advantage[valid, row], torch.stack(expected_advantage), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rollout.target[valid, row], torch.stack(expected_target), rtol=1e-4, atol=1e-5)
        assert rollout.reset[valid, row].tolist() == begins
        assert not rollout.reset[~valid, row].any()
    finished = sum(ended for row in range(N) for *_, ended in play_alone(None, *_actions(rollout, row), truncate, 0))
    assert finished > 6


def _actions(rollout: Any, row: int) -> tuple[np.ndarray, int]:
    return rollout.action[rollout.valid[:, row], row, 0].numpy(), row


@pytest.mark.parametrize("mode", MODES)
def test_episodes_are_counted_whole(mode: AutoresetMode) -> None:
    c = collector(mode, truncate=True)
    rollout = c.collect()
    for row in range(N):
        actions, _ = _actions(rollout, row)
        for _, rewards, ended in play_alone(None, actions, row, True, training_seed(0, 0)):
            if ended:
                same = [e for e in c.episodes if e.total_reward == pytest.approx(sum(rewards))]
                assert same and all(e.num_steps == len(rewards) and e.success is True for e in same)


@pytest.mark.parametrize("memory", ["hcam", "gru", "yaad", "none"])
def test_acting_probabilities_equal_those_of_learning(memory: str) -> None:
    """Also in windows that begin in the middle of an episode, from the snapshot, in a second rollout."""
    ppo = agent(memory=memory)
    ppo.collector.collect()
    rollout = ppo.collector.collect()
    assert len(rollout.states) == 2
    pairs = torch.tensor([5, 0, 3, 6])
    batch = rollout.minibatch(pairs, rollout.joined_states())
    assert batch.action.shape == (4, 6, 1)
    out, _ = ppo.policy(batch.observation, batch.state, reset=batch.reset)
    log_prob = ppo.policy.action.log_prob(out.outputs, batch.action)
    torch.testing.assert_close(log_prob, batch.log_prob, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch.action[1], rollout.action[:6, 0])
    torch.testing.assert_close(batch.advantage[0], rollout.advantage[6:, 1])


def test_environments_are_seeded_anew_when_it_is_time() -> None:
    ppo = agent(settings=PPOSettings(**{**vars(SETTINGS), "reseed_every": 2}))
    first, second, third = (ppo.collector.collect() for _ in range(3))
    assert first.reset[0].all() and not second.reset[0].all() and third.reset[0].all()
    assert not torch.equal(first.observation["observation"][0], third.observation["observation"][0])
    assert len(ppo.collector.actions) == 12


@pytest.mark.parametrize("mode", MODES)
def test_a_snapshot_goes_on_as_if_nothing_had_happened(mode: AutoresetMode) -> None:
    whole, restored = collector(mode, True), collector(mode, True)
    whole.collect()
    tensors, counts = whole.snapshot()
    noise = whole.generator.get_state()
    expected = whole.collect()
    restored.restore(tensors, counts)
    restored.generator.set_state(noise)
    got = restored.collect()
    for name in ("action", "log_prob", "advantage", "target", "reset", "valid"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name
    assert tensors["actions"].dtype == torch.uint8
    assert [e.num_steps for e in restored.episodes] == [e.num_steps for e in whole.episodes[-len(restored.episodes) :]]


def test_environments_that_do_not_repeat_themselves_begin_anew_with_a_warning() -> None:
    class Random(Counter):
        def see(self):
            return np.random.rand(3).astype(np.float32)

    ppo = agent(Random)
    ppo.collector.collect()
    tensors, counts = ppo.collector.snapshot()
    other = agent(Random)
    with pytest.warns(UserWarning, match="did not repeat themselves under their seeds and actions"):
        other.collector.restore(tensors, counts)
    assert other.collector.collect().reset[0].all()


def test_seeds_of_training_and_evaluation_never_meet() -> None:
    training = {training_seed(seed, round_) for seed in range(20) for round_ in range(20)}
    evaluation = {evaluation_seed(seed) for seed in range(100)}
    assert len(training) == 400 and max(training) + 2**20 <= LARGEST_TRAINING_SEED <= min(evaluation)


class Faulty(Counter):
    """Copy number 2 (by its seed) fails at its fourth step in the way asked for."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.steps, self.seed = how, 0, 0

    def reset(self, *, seed=None, options=None):
        self.seed = self.seed if seed is None else seed
        return super().reset(seed=seed)

    def step(self, action):
        self.steps += 1
        seen, reward, *rest = super().step(action)
        if self.steps == 4 and (self.seed - training_seed(0, 0)) == 2:
            if self.how == "raise":
                raise ZeroDivisionError("oh no")
            reward = float("nan") if self.how == "reward" else reward
            seen = np.full(3, np.inf, np.float32) if self.how == "observation" else seen
        return seen, reward, *rest


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", r"environment 2 raised in step\(\) at its step 4: ZeroDivisionError: oh no"),
        ("reward", "environment 2 gave the reward nan at its step 3: rewards must be finite"),
        ("observation", "environment 2 gave the observation observation inf at its step 4"),
    ],
)
def test_faults_name_the_environment_and_the_step(how: str, message: str) -> None:
    with pytest.raises(EnvironmentFailedError, match=message):
        agent(lambda: Faulty(how)).collector.collect()


def test_dictionaries_tuples_and_text_go_through() -> None:
    from ._envs import Shaped

    space = spaces.Dict(a=spaces.Discrete(3), b=spaces.Tuple([spaces.Box(0, 255, (7, 7, 3), np.uint8), spaces.Text(5)]))
    for mode in MODES:
        env = SyncVectorEnv([lambda: Shaped(space, spaces.MultiDiscrete([2, 3]))] * 2, autoreset_mode=mode)
        ppo = agent(env, num_envs=2)
        rollout = ppo.collector.collect()
        assert set(rollout.observation) == {"a", "b.0", "b.1"} and rollout.action.shape == (12, 2, 2)
        assert rollout.observation["b.0"].dtype == torch.uint8
        ppo.updater.update(rollout, 1e-3)
