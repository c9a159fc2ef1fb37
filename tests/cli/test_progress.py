"""Progress: lines in a pipe, a bar on a terminal, the time left."""

import io
from pathlib import Path

from rich.console import Console

from memarch.cli.progress import TrainingProgress
from memarch.training import Evaluation, StepReport


def play(terminal: bool, num_steps: int = 100) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, color_system=None)
    progress = TrainingProgress(console, "yaad")
    progress.on_start(0, num_steps)
    for step in range(1, num_steps + 1):
        progress.on_step(StepReport(step, 6.0 - step / 100, 1e-3, 1.0, 2048.0, 50.0 + 2.0 * step))
    progress.on_evaluation(num_steps, Evaluation(2.0, 7.389, 1.234, 99))
    progress.on_checkpoint(num_steps, Path("run/[b]step"))
    progress.on_end()
    return file.getvalue()


def test_lines_in_a_pipe() -> None:
    lines = play(terminal=False).splitlines()
    assert len(lines) == 22
    assert lines[0] == "yaad  step 5/100  loss 5.950  2,048 tokens/s  ETA 0:03:10"
    assert lines[19] == "yaad  step 100/100  loss 5.000  2,048 tokens/s  ETA 0:00:00"
    assert lines[20] == "yaad  step 100  validation: 1.234 bits per byte, perplexity 7.4 per token"
    assert lines[21] == "yaad  step 100  saved run/[b]step"
    assert len(play(terminal=False, num_steps=3).splitlines()) == 5


def test_a_bar_on_a_terminal() -> None:
    text = play(terminal=True)
    assert "━" in text and "100/100" in text and "loss 5.000" in text and "1.234 bits per byte" in text
    assert "step 5/100" not in text
