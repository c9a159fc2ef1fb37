"""Checks of what users pass, with errors that say what was expected, what came and what to do."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_count(name: str, value: int, least: int, most: int | None = None) -> None:
    """Raise ValueError unless `value` is an integer in [least, most]."""
    integral = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integral or value < least or (most is not None and value > most):
        limit = f"at least {least}" if most is None else f"in {least}..{most}"
        raise ValueError(f"{name} must be an integer {limit}, got {value!r}")


def check_amount(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number, at least 0."""
    if not _is_number(value) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a finite number, at least 0, got {value!r}")


def check_share(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a number in [0, 1]."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")


def check_flag(name: str, value: bool) -> None:
    """Raise ValueError unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_options(task_class: type, options: Mapping[str, Any]) -> None:
    """Raise TypeError if `task_class` does not take one of `options`, naming those it takes."""
    known = [name for name in inspect.signature(task_class).parameters if name != "num_envs"]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"{task_class.__name__} has no option {unknown[0]!r}; its options are: {', '.join(known)}")


def check_actions(actions: object, num_envs: int, num_actions: int) -> NDArray[np.int64]:
    """`actions` as int64 [num_envs]. Raises ValueError unless they are integers in [0, num_actions)."""
    array = np.asarray(actions)
    if array.shape != (num_envs,):
        raise ValueError(f"expected one action for each of {num_envs} environments, got an array of {array.shape}")
    if array.dtype.kind not in "iu":
        raise ValueError(f"actions must be integers in 0..{num_actions - 1}, got {array.dtype}: {actions!r}")
    if array.min() < 0 or array.max() >= num_actions:
        wrong = array[(array < 0) | (array >= num_actions)][0]
        raise ValueError(
            f"actions must be in 0..{num_actions - 1}, got {wrong}; action_space.sample() gives valid ones"
        )
    return array.astype(np.int64, copy=False)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
