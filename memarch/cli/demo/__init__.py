"""`memarch demo`: one act per file; an act is a module of this package with `TITLE` and `run(options, console)`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Annotated

import typer

from ..errors import INTERRUPTED, USAGE, fail

ACTS: tuple[str, ...] = ("language_model", "agent", "chat")


@dataclass(frozen=True)
class DemoOptions:
    """What every act is told.

    Attributes:
        minutes: wall-clock budget of an act's main training.
        steps: exact number of its steps instead; None lets `minutes` decide.
        seed: of everything random.
    """

    minutes: float
    steps: int | None
    seed: int


def demo(
    minutes: Annotated[float, typer.Option(help="Wall-clock budget of the main training of an act.")] = 1.5,
    steps: Annotated[int | None, typer.Option(help="Exact number of training steps instead.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> None:
    """Show what the package does, on this machine, in a few minutes."""
    if not 0 < minutes <= 24 * 60:
        fail(f"--minutes must be positive and at most a day; got {minutes}", USAGE)
    if steps is not None and steps < 1:
        fail(f"--steps must be at least 1; got {steps}", USAGE)
    from rich.console import Console

    console = Console()
    options = DemoOptions(minutes, steps, seed)
    try:
        for number, name in enumerate(ACTS, 1):
            act = importlib.import_module(f"{__name__}.{name}")
            console.rule(f"Act {number} of {len(ACTS)}: {act.TITLE}")
            act.run(options, console)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
