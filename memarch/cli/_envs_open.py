"""Our environments for a command: found by a name as people type it, made with options as text."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gymnasium import Env
    from gymnasium.envs.registration import EnvSpec

PACKAGE, NAMESPACE = "memarch_envs", "memarch"


def all_specs() -> dict[str, EnvSpec]:
    """Every environment of ours by its id, in the order of registration."""
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError("environments need gymnasium: pip install 'memarch[agents]'") from error
    import_module(PACKAGE)  # registers the ids
    return {env_id: spec for env_id, spec in gymnasium.registry.items() if spec.namespace == NAMESPACE}


def find_spec(name: str) -> EnvSpec:
    """The environment called `name`: an id, or an id without "memarch/" or its version, in upper or lower case.

    Raises: ValueError, naming what comes near, if there is none.
    """
    specs = all_specs()
    wanted = name.lower().removeprefix(f"{PACKAGE}:").removeprefix(f"{NAMESPACE}/")
    by_name: dict[str, EnvSpec] = {}
    for spec in sorted(specs.values(), key=lambda spec: spec.version or 0):
        by_name[f"{spec.name}-v{spec.version}".lower()] = by_name[spec.name.lower()] = spec
    if wanted in by_name:
        return by_name[wanted]
    near = difflib.get_close_matches(wanted, by_name, n=1)
    hint = f"did you mean {by_name[near[0]].id}? " if near else ""
    raise ValueError(f"unknown environment {name!r}; {hint}`memarch envs list` shows them all")


def entry_of(spec: EnvSpec) -> Any:
    """The class of the scalar form."""
    from gymnasium.envs.registration import load_env_creator

    return load_env_creator(str(spec.entry_point))


def task_of(spec: EnvSpec) -> Any:
    """The class of the rules: its docstring, `levels`, `summary` and `action_names`."""
    return entry_of(spec).task_class


def defaults_of(task: Any) -> dict[str, Any]:
    """The options of an environment with their defaults."""
    parameters = inspect.signature(task).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "num_envs"}


def action_names(task: Any, num_actions: int) -> list[str]:
    """A name for each action: its number where it has no other."""
    return list(task.action_names) or [str(action) for action in range(num_actions)]


def read_options(task: Any, level: str | None, options: Sequence[str]) -> dict[str, Any]:
    """The options of `level`, then those typed as name=value. Raises ValueError for what is neither."""
    chosen: dict[str, Any] = {}
    if level is not None:
        found = {known.name: known for known in task.levels}
        if level not in found:
            raise ValueError(f"--level must be one of {', '.join(found)}; got {level!r}")
        chosen.update(found[level].options)
    for text in options:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"--option takes name=value, such as length=20; got {text!r}")
        chosen[name.strip().replace("-", "_")] = _value(value.strip())
    return chosen


def make_env(spec: EnvSpec, options: dict[str, Any]) -> Env[Any, Any]:
    """The scalar form, drawn as pictures. Raises ValueError or TypeError for an option that it does not take."""
    # Not by gymnasium.make, which adds its own words to the error.
    env: Env[Any, Any] = entry_of(spec)(render_mode="rgb_array", **{**spec.kwargs, **options})
    return env


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
