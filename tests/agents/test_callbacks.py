"""Listeners: when they act, what they write, how they stop."""

import csv
from pathlib import Path

import pytest

from memarch.agents import (
    AgentCallback,
    Checkpoint,
    CSVLogger,
    Evaluate,
    StopAtThreshold,
    TensorBoardLogger,
)

from ._envs import agent


class Record(AgentCallback):
    def __init__(self) -> None:
        self.events: list[tuple] = []

    def on_start(self, agent) -> None:
        self.events.append(("start", agent.step, agent.goal))

    def on_update(self, agent, report) -> None:
        self.events.append(("update", report.step))

    def on_evaluation(self, agent, evaluation) -> None:
        self.events.append(("evaluation", agent.step, evaluation.num_episodes))

    def on_checkpoint(self, agent, path) -> None:
        assert path.is_dir()
        self.events.append(("checkpoint", path.name))

    def on_end(self, agent) -> None:
        self.events.append(("end",))


def test_events_come_in_order_and_when_due(tmp_path: Path) -> None:
    record = Record()
    agent(out_dir=tmp_path).learn(4 * 48, callbacks=[record, Checkpoint(96), Evaluate(90, num_episodes=4)])
    assert record.events == [
        ("start", 0, 192),
        ("update", 48),
        ("update", 96),
        ("checkpoint", "step-000096"),
        ("evaluation", 96, 4),
        ("update", 144),
        ("update", 192),
        ("evaluation", 192, 4),
        ("checkpoint", "step-000192"),
        ("end",),
    ]


def test_the_end_is_told_after_an_error_too() -> None:
    class Broken(Record):
        def on_update(self, agent, report) -> None:
            raise RuntimeError("listener")

    record = Broken()
    with pytest.raises(RuntimeError, match="listener"):
        agent().learn(48, callbacks=[record])
    assert record.events[-1] == ("end",)


def test_logs_hold_every_number(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    ppo = agent()
    report = ppo.learn(
        96, callbacks=[logger, TensorBoardLogger(tmp_path / "tensorboard"), Evaluate(48, num_episodes=4)]
    ).report
    with (tmp_path / "updates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["48", "96"]
    assert {name: float(value) for name, value in rows[-1].items()} == vars(report)
    with (tmp_path / "evaluations.csv").open() as file:
        assert [(row["step"], row["num_episodes"]) for row in csv.DictReader(file)] == [("48", "4"), ("96", "4")]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"train/total_reward", "train/kl", "train/steps_per_second", "evaluation/success"} <= scalars
    assert [event.step for event in events.Scalars("train/entropy")] == [48, 96]


def test_stopping_at_a_threshold() -> None:
    # Every episode of the test's environment is a success.
    record = Record()
    trained = agent()
    result = trained.learn(
        5_000, callbacks=[record, StopAtThreshold("success", 1.0, of="training"), Evaluate(10_000, num_episodes=4)]
    )
    assert not result.stopped and 500 < result.step < 1000 and trained.goal == result.step
    assert record.events[-2:] == [("evaluation", result.step, 4), ("end",)]
    evaluated = agent().learn(5_000, callbacks=[Evaluate(96, num_episodes=4), StopAtThreshold("total_reward", 0.001)])
    assert evaluated.step in (96, 192, 288)
    never = agent().learn(96, callbacks=[Evaluate(48, num_episodes=4), StopAtThreshold("success", 1.1)])
    assert never.step == 96


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="measure must be one of 'success', 'total_reward'; got 'loss'"):
        StopAtThreshold("loss", 1.0)
    with pytest.raises(ValueError, match="every_steps must be an integer of at least 1; got 0"):
        Checkpoint(0)
