"""What the commands that train have in common: the device, the logs of a run, Ctrl-C, and what was typed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .errors import INTERRUPTED, expected, fail

if TYPE_CHECKING:
    from rich.console import Console

    from memarch.cache.training import CacheTrainer
    from memarch.training import LMTrainer, TrainerCallback, TrainingResult


def run_trainer(trainer: LMTrainer | CacheTrainer, console: Console, *, resume: str) -> TrainingResult:
    """Train to the end; after Ctrl-C save, name the command `resume` to go on with, and leave."""
    from memarch.training import DivergedError, stop_on_interrupt

    try:
        with expected(OSError, DivergedError), stop_on_interrupt(trainer.request_stop):
            result = trainer.run()
    except KeyboardInterrupt:
        fail(f"interrupted twice, nothing saved since the last checkpoint; go on with: {resume}", INTERRUPTED)
    if result.interrupted:
        say(console, f"interrupted at step {result.step}, saved {result.checkpoint}; go on with: {resume}")
        raise typer.Exit(INTERRUPTED)
    return result


def run_callbacks(run_dir: Path, label: str, console: Console) -> list[TrainerCallback]:
    """A CSV log, progress on the screen, and TensorBoard where it is installed."""
    from memarch.training import CSVLogger, TensorBoardLogger

    from .progress import TrainingProgress

    callbacks: list[TrainerCallback] = [CSVLogger(run_dir), TrainingProgress(console, label)]
    try:
        callbacks.append(TensorBoardLogger(run_dir / "tensorboard"))
    except ImportError as error:
        say(console, f"no TensorBoard log: {error}")
    return callbacks


def usable_device(name: str) -> str:
    """The device that --device names, auto being a GPU if there is one. Raises: ValueError if it cannot be used."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used here ({reason}): use cpu, cuda or auto") from error
    return name


def was_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option was typed, not left at its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def say(console: Console, text: str) -> None:
    """One line, neither coloured nor wrapped."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
