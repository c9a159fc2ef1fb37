"""Three rooms, one after another: what visual match and key to door have in common (after Hung et al. 2018).

Something is seen in the first room, apples are collected in the second, and the third asks for what was seen. A room
has 7 by 11 cells; the agent sees 5 by 5 of them around itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from ._checks import check_amount, check_count, check_flag
from ._sampling import Floats, Ints, permutations
from .base import Bools, MemoryTask, Observation, Picture, Rows

Room = tuple[str, ...]


class Kind(NamedTuple):
    """What may be in a cell."""

    name: str
    letter: str
    colour: tuple[int, int, int]


FLOOR, WALL, OUTSIDE, APPLE, FIRST_OWN = range(5)
GREY = (204, 204, 204)
COMMON_KINDS = (
    Kind("floor", ".", GREY),
    Kind("wall", "#", (26, 26, 26)),
    Kind("outside", " ", GREY),
    Kind("apple", "a", (140, 179, 0)),
)
AGENT_COLOUR = (229, 149, 110)

HEIGHT, WIDTH, SIGHT = 7, 11, 2
ROWS, COLUMNS = HEIGHT + 2 * SIGHT, WIDTH + 2 * SIGHT
NUM_CELLS = ROWS * COLUMNS
VIEW = 2 * SIGHT + 1
TILE_PIXELS = 8
# North, south, west, east, in cells of the flat board.
STEPS: Ints = np.array([-COLUMNS, COLUMNS, -1, 1])
WINDOW: Ints = (np.arange(-SIGHT, SIGHT + 1)[:, None] * COLUMNS + np.arange(-SIGHT, SIGHT + 1)).ravel()

ORCHARD: Room = (
    "###########",
    "#a a a a a#",
    "# a a a a #",
    "#a a a a a#",
    "# a a a a #",
    "#a a + a a#",
    "###########",
)
RESPAWN_STEPS = 20


def cells_of(room: Room, letter: str) -> Ints:
    """Where a letter stands in a room: cells of the flat board, row by row."""
    places = np.argwhere(np.array([list(row) for row in room]) == letter) + SIGHT
    return places[:, 0] * COLUMNS + places[:, 1]


@lru_cache(maxsize=16)
def board_of(room: Room) -> Ints:
    """A room with nothing but its walls: kinds, int64 [NUM_CELLS]. Shared: read only."""
    board = np.full((ROWS, COLUMNS), OUTSIDE, dtype=np.int64)
    walls = np.array([list(row) for row in room]) == "#"
    board[SIGHT:-SIGHT, SIGHT:-SIGHT] = np.where(walls, WALL, FLOOR)
    flat = board.ravel()
    flat.flags.writeable = False
    return flat


@lru_cache(maxsize=8)
def toward(room: Room) -> Ints:
    """The first action of a shortest way, [NUM_CELLS, NUM_CELLS] by goal and place; 0 where there is none.

    Ways lead through no door but the goal.
    """
    board, doors = board_of(room), set(cells_of(room, "d").tolist())
    inside = set(np.flatnonzero(board == FLOOR).tolist())
    table = np.zeros((NUM_CELLS, NUM_CELLS), dtype=np.int64)
    for goal in inside:
        reached, queue = {goal}, deque([goal])
        while queue:
            cell = queue.popleft()
            for action, step in enumerate(STEPS.tolist()):
                before = cell - step
                if before in inside and before not in reached and before not in doors:
                    table[goal, before] = action
                    reached.add(before)
                    queue.append(before)
    return table


class ThreeRooms(MemoryTask):
    """Moves, apples, sight and the order of the rooms. A subclass says what is in the first and the last room.

    `place` [N] is the agent's cell, `board` [N, NUM_CELLS] what is in each.
    """

    action_names = ("north", "south", "west", "east")
    first_steps: ClassVar[int] = 15
    last_steps: ClassVar[int]
    goal_reward: ClassVar[float] = 5.0

    def __init__(
        self,
        num_envs: int,
        kinds: tuple[Kind, ...],
        own_draws: int,
        *,
        distractor_steps: int,
        num_apples: int,
        apple_reward: float,
        pixels: bool,
    ) -> None:
        trees = cells_of(ORCHARD, "a")
        check_count("distractor_steps", distractor_steps, 0)
        check_count("num_apples", num_apples, 0, trees.size)
        check_amount("apple_reward", apple_reward)
        check_flag("pixels", pixels)
        self.num_apples, self.apple_reward, self.pixels = num_apples, apple_reward, pixels
        self.orchard_begins = self.first_steps
        self.last_begins = self.first_steps + distractor_steps
        self.max_episode_steps = self.last_begins + self.last_steps
        self.kinds = (*COMMON_KINDS, *kinds)
        self.trees, self.orchard = trees, board_of(ORCHARD)
        # Floor and what is outside look the same: nothing.
        table = np.eye(len(self.kinds), dtype=np.float32)
        self.one_hot = np.delete(table * (np.arange(len(table)) != OUTSIDE), [FLOOR, OUTSIDE], axis=1)
        colours = np.array([*(kind.colour for kind in self.kinds), AGENT_COLOUR], dtype=np.uint8)
        self.tiles = np.broadcast_to(colours[:, None, None], (len(colours), TILE_PIXELS, TILE_PIXELS, 3)).copy()
        self.observation_space = (
            Box(0, 255, (VIEW * TILE_PIXELS, VIEW * TILE_PIXELS, 3), np.uint8)
            if pixels
            else Box(0.0, 1.0, (VIEW * VIEW * self.one_hot.shape[1],), np.float32)
        )
        self.action_space = Discrete(4)
        self.num_draws = trees.size + own_draws
        self.board: Ints = np.zeros((num_envs, NUM_CELLS), dtype=np.int64)
        self.place: Ints = np.full(num_envs, NUM_CELLS // 2, dtype=np.int64)
        # Cells of the apples, and the step at which each is back: -1 if it is there.
        self.apples: Ints = np.zeros((num_envs, num_apples), dtype=np.int64)
        self.back_at: Ints = np.full((num_envs, num_apples), -1, dtype=np.int64)
        self.won = np.zeros(num_envs, dtype=np.bool_)
        super().__init__(num_envs)

    @abstractmethod
    def enter_first(self, which: Ints, uniform: Floats) -> None:
        """Draw what is hidden, and put copies `which` into the first room."""

    @abstractmethod
    def enter_last(self, which: Ints) -> None:
        """Put copies `which` into the last room."""

    @abstractmethod
    def touch(self, kind: Ints) -> Floats:
        """What standing on `kind` [N] does and earns, beyond apples."""

    @abstractmethod
    def goal(self) -> Ints:
        """What the oracle does in the first and in the last room: actions [N]."""

    def stopped(self, kind: Ints) -> Bools:
        """Whether a step onto `kind` [N] fails."""
        return (kind == WALL) | (kind == OUTSIDE)

    def start(self, which: Ints, uniform: Floats) -> None:
        self.apples[which] = self.trees[permutations(uniform[:, : self.trees.size])[:, : self.num_apples]]
        self.won[which] = False
        self.enter_first(which, uniform[:, self.trees.size :])

    def advance(self, actions: Ints) -> tuple[Floats, Bools, Bools]:
        there = self.place + STEPS[actions]
        self.place = np.where(self.stopped(self.board[self.all_rows, there]), self.place, there)
        kind = self.board[self.all_rows, self.place]
        reward = self.touch(kind)
        ate = np.flatnonzero(kind == APPLE)
        if ate.size:
            reward[ate] += self.apple_reward
            self.board[ate, self.place[ate]] = FLOOR
            row, apple = np.nonzero(self.apples[ate] == self.place[ate, None])
            self.back_at[ate[row], apple] = self.t[ate] + RESPAWN_STEPS + 1
        row, apple = np.nonzero(self.back_at == self.t[:, None])
        self.board[row, self.apples[row, apple]] = APPLE
        self._change_rooms()
        ended = self.t >= self.max_episode_steps
        return reward, ended, ended & self.won

    def observe(self, rows: Rows) -> Observation:
        kinds = self._window(rows)
        if not self.pixels:
            # take, because brackets copy rows this small several times slower.
            return self.one_hot.take(kinds, axis=0).reshape(len(kinds), -1)
        kinds[:, VIEW * VIEW // 2] = len(self.kinds)
        tiles = self.tiles.take(kinds, axis=0).reshape(-1, VIEW, VIEW, TILE_PIXELS, TILE_PIXELS, 3)
        return tiles.swapaxes(2, 3).reshape(-1, VIEW * TILE_PIXELS, VIEW * TILE_PIXELS, 3)

    def expert(self) -> Ints:
        return np.where((self.t >= self.orchard_begins) & (self.t < self.last_begins), self._pick(), self.goal())

    def cells(self, index: int) -> Picture:
        colours = np.array([kind.colour for kind in self.kinds], dtype=np.uint8)
        picture = colours[self.board[index]]
        picture[self.place[index]] = AGENT_COLOUR
        return picture.reshape(ROWS, COLUMNS, 3)[SIGHT:-SIGHT, SIGHT:-SIGHT]

    def text(self, index: int) -> str:
        letters = np.array([kind.letter for kind in self.kinds])[self.board[index]]
        letters[self.place[index]] = "@"
        room = letters.reshape(ROWS, COLUMNS)[SIGHT:-SIGHT, SIGHT:-SIGHT]
        return "\n".join([*("".join(row) for row in room), f"step {self.t[index]}"])

    def view(self, index: int) -> str:
        letters = np.array([kind.letter for kind in self.kinds])[self._window(np.array([index]))[0]]
        letters[[kind == " " for kind in letters]] = "."
        letters[VIEW * VIEW // 2] = "@"
        return "\n".join([*("".join(row) for row in letters.reshape(VIEW, VIEW)), f"step {self.t[index]}"])

    def _window(self, rows: Rows) -> Ints:
        """Kinds around the agent, [n, 25]."""
        first = self.all_rows[rows] * NUM_CELLS + self.place[rows]
        return self.board.reshape(-1)[first[:, None] + WINDOW]

    def _change_rooms(self) -> None:
        which = np.flatnonzero(self.t == self.orchard_begins)
        if which.size:
            self.board[which] = self.orchard
            self.board[which[:, None], self.apples[which]] = APPLE
            self.back_at[which] = -1
            self.place[which] = cells_of(ORCHARD, "+")[0]
        which = np.flatnonzero(self.t == self.last_begins)
        if which.size:
            self.back_at[which] = -1
            self.enter_last(which)

    def _pick(self) -> Ints:
        """Towards the apple that can be had first."""
        if not self.num_apples:
            return np.zeros(self.num_envs, dtype=np.int64)
        row, column = np.divmod(self.apples, COLUMNS)
        own_row, own_column = np.divmod(self.place[:, None], COLUMNS)
        wait = np.maximum(self.back_at - self.t[:, None], 0)
        first = np.maximum(abs(row - own_row) + abs(column - own_column), wait).argmin(axis=1)
        return toward(ORCHARD)[self.apples[self.all_rows, first], self.place]
