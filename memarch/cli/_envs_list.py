"""`memarch envs list | show`: which environments there are, and all there is to know about one."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from . import _memory_show as show
from ._envs_keys import labels_of
from ._envs_open import action_names, all_specs, defaults_of, entry_of, find_spec, task_of
from ._memory_open import JsonOption
from .errors import USAGE, expected

NameArgument = Annotated[str, typer.Argument(metavar="ID", help="An id, or short: Ballet for memarch/Ballet-v0.")]
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)


def list_(as_json: JsonOption = False) -> None:
    """List the environments: spaces, difficulties, and the returns to expect over them.

    In a pipe, a line an environment, between tabs: id, action space, observation space, number of levels, success by
    chance, return of uniform actions, return of the oracle, what it tests.
    """
    with expected():
        rows = [_summary(spec) for spec in all_specs().values()]
    if as_json:
        show.emit_json({"environments": rows})
        return
    show.emit_table((), [_cells(row) for row in rows], terminal=lambda: _table(rows))


def show_(name: NameArgument, as_json: JsonOption = False) -> None:
    """Print an environment's rules, options, actions with their keys, and its sweep of difficulties."""
    with expected(), expected(ValueError, code=USAGE):
        spec = find_spec(name)
        row = _summary(spec)
    task = task_of(spec)
    parts, options = sections(task.__doc__), defaults_of(task)
    levels = [_level(spec, level) for level in task.levels]
    names = action_names(task, row["num_actions"])
    if as_json:
        show.emit_json(row | {"doc": parts, "options": options, "action_names": names, "levels": levels})
        return
    show.emit(f"{_bold(spec.id)}: {row['summary']}\n")
    for heading, text in parts.items():
        show.emit(f"{_bold(heading)}\n{text}\n")
    show.emit(_bold("Options and their defaults"))
    show.emit_pairs(options or {"none": ""})
    show.emit("\n" + _bold("Keys of `memarch envs play`"))
    show.emit_pairs(dict(zip(labels_of(names), names, strict=True)))
    show.emit("\n" + _bold("Levels: success by chance, mean returns of uniform actions and of the oracle, most steps"))
    columns = ("level", "chance", "random", "oracle", "steps", "options")
    show.emit_table(columns, [_level_cells(level) for level in levels])


def sections(doc: str) -> dict[str, str]:
    """The parts of an environment's docstring by their headings."""
    pieces = HEADING.split(inspect.cleandoc(doc))
    return {heading: text.strip() for heading, text in zip(pieces[1::2], pieces[2::2], strict=True)}


def _bold(text: str) -> str:
    return typer.style(text, bold=True) if sys.stdout.isatty() else text


def spread(values: Iterable[float | None]) -> str:
    """
    >>> spread([0.5, 0.25]), spread([1.0, 1.0]), spread([None])
    ('0.25..0.5', '1', '-')
    """
    known = sorted(value for value in values if value is not None)
    if not known:
        return "-"
    ends = list(dict.fromkeys(f"{value:.3g}" for value in (known[0], known[-1])))
    return "..".join(ends)


def _summary(spec: Any) -> dict[str, Any]:
    task = task_of(spec)
    env = entry_of(spec)(**spec.kwargs)
    return {
        "id": spec.id,
        "summary": task.summary,
        "num_actions": int(env.action_space.n),
        "action_space": str(env.action_space),
        "observation_space": str(env.observation_space),
        "num_levels": len(task.levels),
        "chance": [level.chance for level in task.levels],
        "random_return": [level.random_return for level in task.levels],
        "oracle_return": [level.oracle_return for level in task.levels],
    }


def _cells(row: dict[str, Any]) -> list[str]:
    figures = [spread(row[name]) for name in ("chance", "random_return", "oracle_return")]
    return [row["id"], row["action_space"], row["observation_space"], str(row["num_levels"]), *figures, row["summary"]]


def _table(rows: list[dict[str, Any]]) -> Any:
    """Narrow enough for a terminal: what is long stands below the id."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("environment", ratio=1, overflow="fold")
    for name in ("levels", "chance", "random", "oracle"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        env_id, actions, observations, *figures, told = _cells(row)
        table.add_row(Text(f"{env_id}\n{told}\n").append(f"{actions}, {observations}", style="dim"), *figures)
    return table


def _level(spec: Any, level: Any) -> dict[str, Any]:
    return {
        "name": level.name,
        "options": dict(level.options),
        "chance": level.chance,
        "random_return": level.random_return,
        "oracle_return": level.oracle_return,
        "max_episode_steps": entry_of(spec)(**{**spec.kwargs, **level.options}).max_episode_steps,
    }


def _level_cells(level: dict[str, Any]) -> list[str]:
    options = " ".join(f"{name}={value}" for name, value in level["options"].items())
    figures = [spread([level[name]]) for name in ("chance", "random_return", "oracle_return")]
    return [level["name"], *figures, str(level["max_episode_steps"]), options]
