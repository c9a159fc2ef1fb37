"""Training progress: a bar on a terminal, plain lines in a pipe or a file."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from memarch.training import Evaluation, StepReport, TrainerCallback

NUM_LINES = 20


class TrainingProgress(TrainerCallback):
    """Shows loss, tokens per second and the time left.

    Args:
        console: where to.
        label: what is trained.
        show_checkpoints: whether a saved checkpoint gets a line.
    """

    def __init__(self, console: Console, label: str, *, show_checkpoints: bool = True) -> None:
        self.console, self.label, self.show_checkpoints = console, label, show_checkpoints
        self._bar: Progress | None = None

    def on_start(self, step: int, num_steps: int) -> None:
        """Open the bar."""
        self._first, self._num_steps = step, num_steps
        self._seconds_before: float | None = None
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[now]}"),
            )
            self._bar = Progress(*columns, console=self.console)
            self._task = self._bar.add_task(self.label, total=num_steps, completed=step, now="")
            self._bar.start()

    def on_step(self, report: StepReport) -> None:
        """Advance."""
        if self._seconds_before is None:
            # The first step allocates and warms caches: it says little about the rest.
            self._seconds_before, self._first = report.train_seconds, report.step
        done = report.step - self._first
        left = ""
        if done:
            seconds = (report.train_seconds - self._seconds_before) / done * (self._num_steps - report.step)
            left = f"  ETA {timedelta(seconds=round(seconds))}"
        now = f"loss {report.loss:.3f}  {report.tokens_per_second:,.0f} tokens/s{left}"
        if self._bar is not None:
            self._bar.update(self._task, completed=report.step, now=now)
        elif report.step % max(1, self._num_steps // NUM_LINES) == 0 or report.step == self._num_steps:
            self._line(f"{self.label}  step {report.step}/{self._num_steps}  {now}")

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """One line."""
        self._line(
            f"{self.label}  step {step}  validation: {evaluation.bits_per_byte:.3f} bits per byte, "
            f"perplexity {evaluation.perplexity:.1f} per token"
        )

    def on_checkpoint(self, step: int, path: Path) -> None:
        """One line."""
        if self.show_checkpoints:
            self._line(f"{self.label}  step {step}  saved {path}")

    def on_end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, text: str) -> None:
        # Not cut or wrapped to 80 columns when it goes into a pipe.
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
