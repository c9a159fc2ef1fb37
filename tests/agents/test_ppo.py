"""The whole agent: it learns tasks of memory, stops, resumes bit for bit, refuses what does not fit."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from memarch.agents import (
    PPO,
    AgentCallback,
    Checkpoint,
    CSVLogger,
    EnvironmentFailedError,
    PolicySettings,
    PPOSettings,
    StopAtThreshold,
)

from ._envs import SETTINGS, SIZES, Counter, agent


class StopAfter(AgentCallback):
    """Asks to stop after some updates, as Ctrl-C does."""

    def __init__(self, updates: int) -> None:
        self.left = updates

    def on_update(self, agent, report) -> None:
        self.left -= 1
        if not self.left:
            agent.request_stop()


@pytest.mark.parametrize("memory", ["gru", "hcam", "trace"])
def test_it_learns_what_only_memory_can(memory: str) -> None:
    """Proof of memory: the goal is shown at first and hidden then; without memory half the episodes fail."""
    settings = PPOSettings(rollout_steps=64, learning_rate=3e-3, schedule="constant", gae_lambda=0.9, num_minibatches=2)
    sizes = PolicySettings(d_model=32, num_heads=2, chunk_size=2, top_k=2, num_chunks=8, attention_steps=8)
    ppo = PPO("memarch/ProofOfMemory-v0", memory=memory, policy=sizes, settings=settings)
    result = ppo.learn(80_000, callbacks=[StopAtThreshold("success", 0.97, of="training")])
    assert result.step < 80_000 and result.report.success >= 0.97
    evaluation = ppo.evaluate(num_episodes=64)
    assert evaluation.success > 0.95 and evaluation.total_reward > 0.3
    assert evaluation.total_reward_low <= evaluation.total_reward_iqm <= evaluation.total_reward_high


def test_without_memory_it_cannot() -> None:
    settings = PPOSettings(rollout_steps=64, learning_rate=3e-3, num_minibatches=2)
    ppo = PPO("memarch/ProofOfMemory-v0", memory="none", settings=settings, policy=PolicySettings(d_model=32))
    ppo.learn(15_000)
    assert 0.2 < ppo.evaluate(num_episodes=64).success < 0.8


def rows(run: Path) -> list[list[str]]:
    """Updates, without the columns that are clocks."""
    lines = [line.split(",") for line in (run / "updates.csv").read_text().splitlines()]
    kept = [i for i, name in enumerate(lines[0]) if name not in ("steps_per_second", "train_seconds")]
    return [[line[i] for i in kept] for line in lines]


@pytest.mark.parametrize("memory", ["hcam", "lstm", "yaad"])
@pytest.mark.parametrize("stop", [1, 3])
def test_resume_is_bitwise(tmp_path: Path, memory: str, stop: int) -> None:
    """Episodes, memories and environments go on in the middle, over a reseeding of the environments."""
    settings = replace(SETTINGS, reseed_every=4)
    whole = agent(memory=memory, settings=settings, out_dir=tmp_path / "a")
    whole.learn(6 * 48, callbacks=[CSVLogger(tmp_path / "a")])

    first = agent(memory=memory, settings=settings, out_dir=tmp_path / "b")
    result = first.learn(6 * 48, callbacks=[CSVLogger(tmp_path / "b"), StopAfter(stop)])
    assert result.stopped and result.step == stop * 48
    torch.manual_seed(1234)
    second = PPO.resume(tmp_path / "b", env=Counter)
    result = second.learn(callbacks=[CSVLogger(tmp_path / "b")])
    assert not result.stopped and result.step == 6 * 48
    for (name, a), b in zip(whole.policy.state_dict().items(), second.policy.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert rows(tmp_path / "a") == rows(tmp_path / "b") and len(rows(tmp_path / "a")) == 7
    assert list(whole.recent) == list(second.recent) and whole.num_episodes == second.num_episodes


def test_resume_of_an_id_needs_nothing_else(tmp_path: Path) -> None:
    options = {"memory": "gru", "policy": SIZES, "settings": SETTINGS, "num_envs": 4, "env_options": {"show_steps": 1}}
    ppo = PPO("memarch/ProofOfMemory-v0", out_dir=tmp_path, **options)
    ppo.learn(500, callbacks=[Checkpoint(100), StopAfter(5)])
    assert len(list(tmp_path.glob("step-*"))) == 2
    again = PPO.resume(tmp_path)
    assert again.step == ppo.step and again.settings == SETTINGS and again.source.options == {"show_steps": 1}
    again.learn()
    assert again.step >= 500
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["agent"]["memory"] == "gru" and run["settings"]["rollout_steps"] == 12 and "torch" in run["versions"]
    # More steps than the goal begin a new schedule.
    again.learn(100)
    assert again.step >= 600


def test_the_same_seed_is_the_same_training_and_another_is_not() -> None:
    def parameters(seed: int) -> torch.Tensor:
        ppo = agent(settings=replace(SETTINGS, seed=seed))
        ppo.learn(100)
        return torch.cat([p.detach().flatten() for p in ppo.policy.parameters()])

    assert torch.equal(parameters(1), parameters(1)) and not torch.equal(parameters(1), parameters(2))


def test_the_learning_rate_falls_over_the_training() -> None:
    seen: list[float] = []

    class Record(AgentCallback):
        def on_update(self, agent, report) -> None:
            seen.append(report.learning_rate)

    agent().learn(4 * 48, callbacks=[Record()])
    assert seen == pytest.approx([3e-3, 3e-3 * 0.75, 3e-3 * 0.5, 3e-3 * 0.25])


def test_a_failing_environment_leaves_the_checkpoint_and_says_so(tmp_path: Path) -> None:
    class Breaks(Counter):
        calls = 0

        def step(self, action):
            Breaks.calls += 1
            if Breaks.calls == 130:
                raise RuntimeError("motor is stuck")
            return super().step(action)

    ppo = agent(Breaks, out_dir=tmp_path)
    with pytest.raises(EnvironmentFailedError, match="motor is stuck; the checkpoint .*step-000096 is intact"):
        ppo.learn(500, callbacks=[Checkpoint(1)])
    Breaks.calls = 1000
    assert PPO.resume(tmp_path, env=Breaks).learn().step >= 500
    with pytest.raises(EnvironmentFailedError, match="nothing was saved yet"):
        Breaks.calls = 100
        agent(Breaks).learn(500)


def test_resuming_with_something_else_is_refused(tmp_path: Path) -> None:
    agent(out_dir=tmp_path).learn(48)
    for options, message in (
        ({}, "learned in an environment without an id: pass env="),
        ({"env": "CartPole-v1"}, "this agent's observation_space is .*; the environment CartPole-v1 has"),
        ({"env": Counter, "memory": nn.Identity()}, "this agent's memory is 'gru'; got a Identity: leave memory out"),
    ):
        with pytest.raises(ValueError, match=message):
            PPO.resume(tmp_path, **options)
    with pytest.raises(OSError, match="holds no checkpoint"):
        PPO.resume(tmp_path / "nowhere", env=Counter)


def test_an_agent_of_one_environment_loads(tmp_path: Path) -> None:
    ppo = agent(num_envs=1, settings=replace(SETTINGS, num_minibatches=1))
    ppo.save(tmp_path)
    loaded = PPO.load(tmp_path, env=Counter)
    assert loaded.num_envs == 1
    observation = ppo.env.single_observation_space.sample()
    assert loaded.predict(observation)[0] == ppo.predict(observation)[0]


def test_a_module_of_the_users_own_has_to_be_given_again(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = nn.GRUCell(16, 16)

        def forward(self, x, state=None, *, reset=None):
            state, out = x.new_zeros(len(x), 16) if state is None else state, []
            for t in range(x.shape[1]):
                state = self.core(x[:, t], state if reset is None else state * ~reset[:, t, None])
                out.append(state)
            return torch.stack(out, 1), state

    ppo = agent(memory=Own(), out_dir=tmp_path)
    ppo.learn(96)
    with pytest.raises(ValueError, match="memory is a module of its user, Own: pass memory= again"):
        PPO.resume(tmp_path, env=Counter)
    again = PPO.resume(tmp_path, env=Counter, memory=Own())
    assert torch.equal(again.policy.memory.core.weight_hh, ppo.policy.memory.core.weight_hh)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs must be an integer of at least 1; got 0"),
        ({"num_envs": 1, "settings": PPOSettings()}, "num_minibatches must be at most num_envs x windows = 1; got 4"),
        ({"settings": replace(SETTINGS, mixed_precision=True), "device": "cpu"}, "mixed_precision needs a GPU"),
        ({"device": "warp"}, "device warp cannot be used here"),
        ({"env": "CartPole-v1", "env_options": {"a": {1, 2}}}, "env_options are saved as JSON; got"),
        ({"memory": "hcamm"}, "did you mean 'hcam'"),
    ],
)
def test_options_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agent(**options)


def test_learn_says_what_it_needs() -> None:
    ppo = agent()
    with pytest.raises(ValueError, match="there is nothing to go on with after 0 steps"):
        ppo.learn()
    with pytest.raises(ValueError, match="num_steps must be an integer of at least 1; got 0"):
        ppo.learn(0)
    assert math.isnan(
        agent(Counter, settings=replace(SETTINGS, rollout_steps=2, window_steps=2)).learn(8).report.success
    )
