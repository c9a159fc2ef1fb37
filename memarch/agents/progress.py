"""Training progress: a bar on a terminal, plain lines in a pipe or a file."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from .callbacks import AgentCallback, AgentReport
from .evaluation import AgentEvaluation

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from .ppo import PPO

NUM_LINES = 20


class ProgressBar(AgentCallback):
    """Shows return, success, steps per second and the time left.

    Args:
        console: where to; None is the standard output.
        label: what is trained; None is the memory's name.
    """

    def __init__(self, console: Console | None = None, *, label: str | None = None) -> None:
        from rich.console import Console

        self.console, self.label = console or Console(), label
        self._bar: Progress | None = None

    def on_start(self, agent: PPO) -> None:
        """Open the bar."""
        from rich.progress import BarColumn, Progress, TextColumn

        self._name = self.label or agent.config.memory
        self._first, self._seconds_before = agent.step, agent.train_seconds
        self._next_line = agent.step
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"))
            self._bar = Progress(*columns, console=self.console)
            self._task = self._bar.add_task(self._name, total=agent.goal, completed=agent.step, now="")
            self._bar.start()

    def on_update(self, agent: PPO, report: AgentReport) -> None:
        """Advance."""
        each = (report.train_seconds - self._seconds_before) / max(1, report.step - self._first)
        left = timedelta(seconds=round(each * max(0, agent.goal - report.step)))
        success = "" if math.isnan(report.success) else f"  success {report.success:.2f}"
        now = (
            f"{report.step:,}/{agent.goal:,}  return {report.total_reward:.2f}{success}  "
            f"{report.steps_per_second:,.0f} steps/s  ETA {left}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=report.step, now=now)
        elif report.step >= self._next_line or report.step >= agent.goal:
            self._next_line = report.step + max(1, (agent.goal - self._first) // NUM_LINES)
            self._line(f"{self._name}  step {now}")

    def on_evaluation(self, agent: PPO, evaluation: AgentEvaluation) -> None:
        """One line."""
        self._line(f"{self._name}  step {agent.step:,}  {describe(evaluation)}")

    def on_checkpoint(self, agent: PPO, path: Path) -> None:
        """One line."""
        self._line(f"{self._name}  step {agent.step:,}  saved {path}")

    def on_end(self, agent: PPO) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, text: str) -> None:
        # Not cut or wrapped to 80 columns when it goes into a pipe.
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def describe(evaluation: AgentEvaluation) -> str:
    """An evaluation in one line."""
    success = "" if evaluation.success is None else f"success {evaluation.success:.3f}, "
    return (
        f"unseen seeds: {success}return {evaluation.total_reward:.3f}, interquartile mean "
        f"{evaluation.total_reward_iqm:.3f} [{evaluation.total_reward_low:.3f}, {evaluation.total_reward_high:.3f}], "
        f"{evaluation.num_episodes} episodes of {evaluation.episode_steps:.1f} steps"
    )
