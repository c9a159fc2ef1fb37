"""The tree of commands. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

from typing import Annotated

import typer

import memarch

from .chat import EXIT_CODES, chat
from .demo import demo
from .envs import envs
from .eval_agent import eval_agent
from .generate import generate
from .info import info
from .many_values import ManyValuesCommand
from .memory import memory
from .models import models
from .probe import probe
from .train import train_lm
from .train_agent import train_agent
from .train_cache import train_cache

app = typer.Typer(
    help="Memory architectures for PyTorch: train, sample, inspect; and a memory for long dialogues.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train = typer.Typer(help="Train a model.", no_args_is_help=True)
train.command("lm", cls=ManyValuesCommand)(train_lm)
train.command("cache")(train_cache)
train.command("agent")(train_agent)
evaluate = typer.Typer(help="Evaluate what was trained.", no_args_is_help=True)
evaluate.command("agent")(eval_agent)
app.add_typer(train, name="train")
app.add_typer(evaluate, name="eval")
app.add_typer(memory, name="memory")
app.add_typer(models, name="models")
app.add_typer(envs, name="envs")
app.add_typer(probe, name="probe")
app.command(epilog=EXIT_CODES)(chat)
app.command()(generate)
app.command()(info)
app.command()(demo)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"memarch {memarch.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
