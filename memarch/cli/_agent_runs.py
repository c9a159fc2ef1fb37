"""Running one training of an agent in the terminal, and summing up several."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .errors import INTERRUPTED, USAGE, expected, fail

if TYPE_CHECKING:
    from memarch.agents import PPO, AgentCallback

EVALUATION_EPISODES = 64
NEVER = 2**62
SUMMARY_FILE = "summary.json"


def run_agent(
    agent: PPO, steps: int | None, *, label: str, eval_every: int, save_every: int, thresholds: dict[str, float]
) -> None:
    """Train `agent` with everything a run has; Ctrl-C saves and leaves."""
    from memarch.agents import Checkpoint, DivergedError, EnvironmentFailedError, Evaluate, StopAtThreshold
    from memarch.training import stop_on_interrupt

    assert agent.out_dir is not None
    first = agent.world.rank == 0
    command = f"memarch train agent --resume {agent.out_dir}"
    with expected(ValueError, code=USAGE):
        callbacks: list[AgentCallback] = _listeners(agent.out_dir, label) if first else []
        for measure, threshold in thresholds.items():
            callbacks.append(StopAtThreshold(measure, threshold, of="training"))  # type: ignore[arg-type]
        if first:
            callbacks.append(Evaluate(eval_every or NEVER, num_episodes=EVALUATION_EPISODES))
        if save_every:
            callbacks.append(Checkpoint(save_every))
    if first:
        parameters = sum(p.numel() for p in agent.policy.parameters())
        say(
            f"{agent.source.name}: {agent.config.memory}, {parameters:,} parameters, {agent.num_envs} environments, "
            f"on {agent.device}; run: {agent.out_dir}"
        )
    try:
        with (
            expected(OSError, ValueError, DivergedError, EnvironmentFailedError),
            stop_on_interrupt(agent.request_stop),
        ):
            result = agent.learn(steps, callbacks=callbacks)
    except KeyboardInterrupt:
        fail(f"interrupted twice, nothing saved since the last checkpoint; go on with: {command}", INTERRUPTED)
    agent.close()
    if result.stopped and not first:
        raise typer.Exit(INTERRUPTED)
    if result.stopped:
        say(f"interrupted at step {result.step:,}, saved {result.checkpoint}; go on with: {command}")
        raise typer.Exit(INTERRUPTED)


def report_runs(run_dir: Path, directories: list[Path], *, memory: str) -> None:
    """The last evaluations of the runs as one line, and as summary.json where there are several.

    Under torchrun the first process speaks for all.
    """
    from memarch.agents import bootstrap_interval, is_first_process
    from memarch.models.storage import json_writer, write_files

    if not is_first_process():
        return
    if len(directories) > 1:
        scores: dict[str, list[float]] = {"total_reward": [], "success": []}
        for directory in directories:
            row = last_evaluation(directory)
            for name, values in scores.items():
                if row.get(name):
                    values.append(float(row[name]))
        summary: dict[str, object] = {"runs": [directory.name for directory in directories]}
        for name, values in scores.items():
            if len(values) == len(directories):
                interval = bootstrap_interval(values)
                summary[name] = {"scores": values, "interquartile_mean": interval.value, "interval_95": interval[1:]}
                say(
                    f"{len(values)} runs: {name.replace('_', ' ')} interquartile mean {interval.value:.3f} "
                    f"[{interval.low:.3f}, {interval.high:.3f}], runs {', '.join(f'{v:.3f}' for v in values)}"
                )
        with expected(OSError):
            write_files(run_dir, {SUMMARY_FILE: json_writer(summary)})
    say(f"done; try: memarch eval agent {run_dir}{' --recall recall.png' if memory == 'hcam' else ''}")


def last_evaluation(run_dir: Path) -> dict[str, str]:
    """The last row of evaluations.csv; nothing if there is none."""
    path = run_dir / "evaluations.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows[-1] if rows else {}


def runs_of(run_dir: Path) -> list[Path]:
    """The run itself, or those in it that `--seeds` made.

    Raises:
        OSError: there is none.
    """
    from memarch.training import latest_checkpoint

    if not (run_dir / "latest").exists():
        several = sorted(path.parent for path in run_dir.glob("seed-*/latest"))
        if several:
            return several
    latest_checkpoint(run_dir)
    return [run_dir]


def say(text: str) -> None:
    """One line to the standard output, neither cut nor wrapped."""
    typer.echo(text)


def _listeners(run_dir: Path, label: str) -> list[AgentCallback]:
    from memarch.agents import CSVLogger, ProgressBar, TensorBoardLogger

    callbacks: list[AgentCallback] = [CSVLogger(run_dir), ProgressBar(label=label)]
    try:
        callbacks.append(TensorBoardLogger(run_dir / "tensorboard"))
    except ImportError as error:
        say(f"no TensorBoard log: {error}")
    return callbacks
