"""Learning in benchmarks.agents: one training, its tests on unseen seeds, its rows, and their table."""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks._agents_tasks import Task
from benchmarks._harness import Row, machine, read_rows, settings_text, single_run, table
from memarch.agents import PPO, AgentCallback, AgentReport, PolicySettings, bootstrap_interval

NAME = "agents"
CURVE_POINTS = 40
TIME, SPEED = "training time", "training steps per second"


@dataclass
class Outcome:
    """What one training gave: test -> (success or nan, return), (steps, measure) along the way, seconds."""

    tests: dict[str, tuple[float, float]] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0


class _Curve(AgentCallback):
    """The measure over the last 100 training episodes, at about `CURVE_POINTS` places."""

    def __init__(self, measure: str, every: float) -> None:
        self.measure, self.every, self.points = measure, every, list[tuple[int, float]]()

    def on_update(self, agent: PPO, report: AgentReport) -> None:
        value = float(getattr(report, self.measure))
        if report.step >= self.every * (len(self.points) + 1) and value == value:
            self.points.append((report.step, value))


def train_run(task: Task, memory: str, seed: int, *, episodes: int, device: str) -> Outcome:
    """Train one agent, then play `episodes` in each of the task's tests."""
    curve = _Curve(task.measure, task.steps / CURVE_POINTS)
    outcome = Outcome(curve=curve.points)
    with warnings.catch_warnings():
        if task.package:
            warnings.simplefilter("ignore")  # theirs, about themselves
        agent = PPO(
            task.env,
            memory=memory,
            num_envs=task.num_envs,
            policy=task.policy_for(memory),
            settings=task.settings_for(seed),
            env_options=task.options,
            device=device,
        )
        start = time.perf_counter()
        outcome.steps = agent.learn(task.steps, callbacks=[curve]).step
        outcome.seconds = time.perf_counter() - start
        agent.close()
        with tempfile.TemporaryDirectory() as directory:
            agent.save(directory)
            for test, options in task.tests.items():
                tested = PPO.load(directory, env_options=options, device=device)
                result = tested.evaluate(num_episodes=episodes)
                tested.close()
                success = float("nan") if result.success is None else result.success
                outcome.tests[test] = (success, result.total_reward)
    return outcome


def run_one(task: Task, memory: str, seed: int, episodes: int, device: str) -> Outcome:
    """`train_run` on one thread, so that several share a machine well."""
    torch.set_num_threads(1)
    return train_run(task, memory, seed, episodes=episodes, device=device)


def rows_of(task: Task, memory: str, seed: int, episodes: int, outcome: Outcome) -> list[Row]:
    """A row for each test and measure, and two for the training's time, which are the mark of a finished run."""
    settings = {**task.describe(memory, seed), "episodes": episodes}
    figures: list[tuple[str, str, float, dict[str, object]]] = []
    for test, (success, total_reward) in outcome.tests.items():
        where: dict[str, object] = {"test": test}
        if success == success:
            figures.append(("success", "", success, where))
        figures.append(("total_reward", "", total_reward, where))
    figures.append((SPEED, "1/s", outcome.steps / outcome.seconds, {}))
    figures.append((TIME, "s", outcome.seconds, {}))
    return [_row(memory, metric, unit, value, {**settings, **where}) for metric, unit, value, where in figures]


def curve_rows(task: Task, memory: str, seed: int, episodes: int, outcome: Outcome) -> list[Row]:
    """A row for each point of the curve; the settings say after which step."""
    settings = {**task.describe(memory, seed), "episodes": episodes}
    return [_row(memory, task.measure, "", value, {**settings, "step": step}) for step, value in outcome.curve]


def finished(path: Path, *, reuse: str) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    """{(memory, settings): {test: {metric: value}}} of the recorded runs that `reuse` lets count."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    whole: set[tuple[str, str]] = set()
    here = machine()
    for row in read_rows(path) if reuse != "none" else []:
        if reuse == "commit" and (row["commit"], row["dirty"]) != (here.commit, here.dirty):
            continue
        settings = json.loads(row["settings"])
        if settings.get("part") == "speed":
            continue
        test = settings.pop("test", "")
        # Older rows lack what could not be chosen then, and was as it is by default now.
        settings["policy"] = {**asdict(PolicySettings()), **settings["policy"]}
        key = (row["arm"], settings_text(settings))
        if row["metric"] == TIME:
            whole.add(key)
        elif row["metric"] != SPEED:
            found.setdefault(key, {}).setdefault(test, {})[row["metric"]] = float(row["value"])
    return {key: tests for key, tests in found.items() if key in whole}


def summary(
    scores: Mapping[tuple[str, str, str], Mapping[int, float]], tasks: Iterable[Task], memories: Sequence[str]
) -> str:
    """Interquartile mean and bootstrapped 95 % interval over seeds: a line for each test, a column for each memory."""
    lines, seeds = [], 0
    for task in tasks:
        for test in task.tests:
            found = {memory: list(scores.get((task.name, test, memory), {}).values()) for memory in memories}
            seeds = max(seeds, *map(len, found.values()))
            cells = [interval_text(values) for values in found.values()]
            lines.append(
                [f"{task.name} {test}".strip(), task.measure.replace("_", " "), *cells, _aim(task, test, found)]
            )
    header = [f"interquartile mean [95 % interval], {seeds} seeds", "measure", *memories, "aim of hcam"]
    return table(header, lines)


def interval_text(values: Sequence[float]) -> str:
    """`0.90 [0.85, 0.97]`; no interval of one run, "" of none."""
    if not values:
        return ""
    value, low, high = bootstrap_interval(values)
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if len(values) > 1 else f"{value:.2f}"


def _aim(task: Task, test: str, found: Mapping[str, list[float]]) -> str:
    aim, values = task.aims.get(test), found.get("hcam")
    if aim is None or not values:
        return "" if aim is None else f"{aim:g}"
    return f"{aim:g} {'reached' if bootstrap_interval(values).value >= aim else 'missed'}"


def _row(memory: str, metric: str, unit: str, value: float, settings: Mapping[str, object]) -> Row:
    return single_run(NAME, memory, metric, value, unit=unit, settings=settings_text(settings))
