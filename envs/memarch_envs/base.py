"""What one environment of this package has to say: its rules, for N copies at a time, in numpy.

`MemoryEnv` and `MemoryVectorEnv` turn a task into gymnasium's scalar and vector form, so both follow the same rules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from ._sampling import Floats, Ints

Bools = NDArray[np.bool_]
Observation = NDArray[Any] | dict[str, NDArray[Any]]
Rows = Ints | slice
Picture = NDArray[np.uint8]

ALL = slice(None)


@dataclass(frozen=True)
class Level:
    """One difficulty of an environment: `gymnasium.make(id, **level.options)`, with the returns to expect.

    `oracle_return` is the mean of `task.expert()`, `random_return` that of uniform actions, both over seeds;
    `chance` is the best success rate without memory, None where nobody worked it out.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    oracle_return: float = 1.0
    random_return: float = 0.0
    chance: float | None = None


class MemoryTask(ABC):
    """Rules of an environment for `num_envs` independent copies, N for short.

    A subclass sets `observation_space`, `action_space` (of one copy), `num_draws` (uniform numbers for an episode) and
    `max_episode_steps` (steps after which an episode is truncated). `self.t` [N] is the number of steps since the
    episode began; it is counted for the subclass, before `advance`, and stands still once the episode is over. `start`
    still finds the last episode's number there. For people there are `summary`, one line for tables, and
    `action_names`, a name for each action where they have names.
    """

    summary: ClassVar[str] = ""
    action_names: ClassVar[tuple[str, ...]] = ()
    levels: ClassVar[tuple[Level, ...]] = (Level("default"),)

    observation_space: Space[Any]
    action_space: Discrete
    num_draws: int
    max_episode_steps: int

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.t: Ints = np.zeros(num_envs, dtype=np.int64)
        self.all_rows: Ints = np.arange(num_envs)

    def forget(self, which: Ints) -> None:  # noqa: B027 - most tasks keep nothing between episodes
        """Drop what copies `which` [n] keep from one episode to the next: called when they are seeded."""

    @abstractmethod
    def start(self, which: Ints, uniform: Floats) -> None:
        """Begin an episode in copies `which` [n] from `uniform` [n, num_draws] alone."""

    @abstractmethod
    def advance(self, actions: Ints) -> tuple[Floats, Bools, Bools]:
        """Move all copies by `actions` [N]: reward, terminated and success, each [N]; success counts at the end only.

        Copies whose episode is over are moved too, and what they return is ignored: it must not raise.
        """

    @abstractmethod
    def observe(self, rows: Rows) -> Observation:
        """What copies `rows` see now: a new array, or dict of arrays, of the batched observation space."""

    @abstractmethod
    def expert(self) -> Ints:
        """Actions [N] of a player who knows the hidden state: the return that perfect memory reaches."""

    @abstractmethod
    def cells(self, index: int) -> Picture:
        """A small picture of copy `index`, one pixel a cell: uint8 [height, width, 3]."""

    @abstractmethod
    def text(self, index: int) -> str:
        """Copy `index` as lines of text, with what is hidden from a player."""

    def view(self, index: int) -> str:
        """Copy `index` as lines of text for a person who plays: no more than the observations tell."""
        return self.text(index)
