"""`memarch envs`: the environments that need memory, listed, explained and played."""

from __future__ import annotations

import typer

from ._envs_list import list_, show_
from ._envs_play import play

envs = typer.Typer(help="Environments that need memory: list them, read about one, play it.", no_args_is_help=True)
envs.command("list")(list_)
envs.command("show")(show_)
envs.command("play")(play)
