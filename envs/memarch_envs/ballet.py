"""Ballet: watch dancers perform one after another, then walk to the one whose dance is named (Lampinen et al. 2021)."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Discrete

from ._checks import check_count, check_share
from ._dances import COMPASS, DANCE_STEPS, DANCES, MOVES, offsets
from ._pictures import AGENT, HUES, WALL, WHITE, blank
from ._sampling import Floats, Ints, integers, permutations
from .base import Bools, Level, MemoryTask, Observation, Picture, Rows
from .scalar import MemoryEnv
from .vector import MemoryVectorEnv

ROOM, CENTRE = 11, 5
HOMES: Ints = np.array([(2, 2), (2, 5), (2, 8), (5, 2), (5, 8), (8, 2), (8, 5), (8, 8)], dtype=np.int64)
NUM_HOMES, NUM_DANCES, NUM_COLOURS, NUM_SHAPES = 8, len(DANCES), 19, 15
NAMES = ("watch", *DANCES)
FEATURES = 5
RANDOM_RETURNS = {(2, 16): 0.481, (4, 16): 0.249, (8, 16): 0.124, (2, 48): 0.503, (4, 48): 0.248, (8, 48): 0.126}


class Ballet(MemoryTask):
    """
    ## Description
    Dancers stand in a room of 11 by 11 cells with a wall around it. Each performs one of thirteen dances of sixteen
    moves, one dancer after another, with a pause after each. Then a dance is named: walk to the dancer who danced it.

    ## Action Space
    `Discrete(8)`: N, NE, E, SE, S, SW, W, NW. Ignored while dancing, and at the step that brings the instruction.

    ## Observation Space
    `Box(-1, 1, (56,), float32)`. For each of the eight places where a dancer may stand, row by row: 1 if one does, its
    row and column relative to that place, its colour and shape as numbers in [0, 1]. Then the agent's row and column
    from the centre, divided by 5; then the word, one-hot: "watch", or a dance. Nothing tells the order of the dances.

    ## Rewards
    1 for reaching the dancer named, 0 for another one. Oracle: 1. Uniform actions: about 1 / `num_dancers`.

    ## Starting State
    The agent in the centre (row 5, column 5). Places, dances, colours and shapes are drawn without repetition. The
    first observation already shows the first move.

    ## Episode End
    Terminated at a dancer; truncated after 320 steps (delay 16 or less) or 1024. The oracle needs
    `num_dancers` (15 + `delay`) + 3 steps.

    ## Arguments
    `num_dancers=2`: 1 to 8. `delay=16`: steps between dances, and after the last, 1 to 100. `named_share=0.0`: an
    episode names each dance while it is danced with that probability. Such lessons teach a player to keep and find
    dances before it knows them, and are meant for training only.

    ## References
    Lampinen et al. 2021, Towards mental time travel (arXiv 2105.14039), and the environment released with it, which
    shows pixels: `memarch/BalletPixels-v0`.

    ## Version History
    v0: first version.
    """

    summary = "watch dancers perform one after another, then walk to the one whose dance is named"
    action_names = COMPASS
    levels = tuple(
        Level(f"{n}_delay{d}", {"num_dancers": n, "delay": d}, 1.0, mean, 1 / n)
        for (n, d), mean in RANDOM_RETURNS.items()
    )

    def __init__(self, num_envs: int, *, num_dancers: int = 2, delay: int = 16, named_share: float = 0.0) -> None:
        check_count("num_dancers", num_dancers, 1, NUM_HOMES)
        check_count("delay", delay, 1, 100)
        check_share("named_share", named_share)
        self.named_share = named_share
        self.num_dancers, self.period = num_dancers, DANCE_STEPS - 1 + delay
        self.instruction = num_dancers * self.period
        self.max_episode_steps = 320 if delay <= 16 else 1024
        self.observation_space = Box(-1.0, 1.0, (NUM_HOMES * FEATURES + 2 + len(NAMES),), np.float32)
        self.action_space = Discrete(8)
        self.num_draws = NUM_HOMES + NUM_DANCES + NUM_COLOURS + NUM_SHAPES + 1 + (named_share > 0)
        self.offsets = offsets()
        # Which dancer stands at each cell of the room, -1 for nobody; never moves in the choice phase.
        self.board: Ints = np.full((num_envs, ROOM, ROOM), -1, dtype=np.int64)
        self.home: Ints = np.zeros((num_envs, num_dancers), dtype=np.int64)
        self.dance: Ints = np.zeros((num_envs, num_dancers), dtype=np.int64)
        self.colour: Ints = np.zeros((num_envs, num_dancers), dtype=np.int64)
        self.shape: Ints = np.zeros((num_envs, num_dancers), dtype=np.int64)
        self.target: Ints = np.zeros(num_envs, dtype=np.int64)
        self.named = np.zeros(num_envs, dtype=np.bool_)
        self.agent: Ints = np.full((num_envs, 2), CENTRE, dtype=np.int64)
        self.still = np.zeros((num_envs, NUM_HOMES * FEATURES + 2 + len(NAMES)), dtype=np.float32)
        super().__init__(num_envs)

    def start(self, which: Ints, uniform: Floats) -> None:
        ends = np.cumsum([NUM_HOMES, NUM_DANCES, NUM_COLOURS, NUM_SHAPES])
        homes, dances, colours, shapes, last = np.split(uniform, ends, axis=1)
        home, dance, colour, shape = (permutations(u)[:, : self.num_dancers] for u in (homes, dances, colours, shapes))
        self.home[which], self.dance[which] = home, dance
        self.colour[which], self.shape[which] = colour, shape
        self.target[which] = integers(last[:, 0], self.num_dancers)
        self.named[which] = last[:, -1] < self.named_share
        self.agent[which] = CENTRE
        self.board[which] = -1
        cells = HOMES[home]
        self.board[which[:, None], cells[..., 0], cells[..., 1]] = np.arange(self.num_dancers)
        self.still[which] = 0
        first = home * FEATURES
        self.still[which[:, None], first] = 1
        self.still[which[:, None], first + 3] = colour / (NUM_COLOURS - 1)
        self.still[which[:, None], first + 4] = shape / (NUM_SHAPES - 1)

    def advance(self, actions: Ints) -> tuple[Floats, Bools, Bools]:
        free = self.t > self.instruction
        self.agent = np.clip(self.agent + MOVES[actions] * free[:, None], 0, ROOM - 1)
        # A move into the wall, also a diagonal one, does nothing at all.
        wall = ((self.agent == 0) | (self.agent == ROOM - 1)).any(axis=1)
        self.agent[wall] -= MOVES[actions[wall]]
        found = self.board[self.all_rows, self.agent[:, 0], self.agent[:, 1]]
        ended = free & (found >= 0)
        success = ended & (found == self.target)
        return success.astype(np.float64), ended, success

    def observe(self, rows: Rows) -> Observation:
        out = self.still[rows].copy()
        some, who, step = self._dancing(rows)
        place = self.home[self.all_rows[rows][some], who] * FEATURES
        out[some, place + 1], out[some, place + 2] = step[:, 0], step[:, 1]
        tail = NUM_HOMES * FEATURES
        out[:, tail : tail + 2] = (self.agent[rows] - CENTRE) / CENTRE
        word = self._word(rows, some, who)
        out[np.arange(word.size), tail + 2 + word] = 1
        return out

    def expert(self) -> Ints:
        goal = HOMES[self.home[self.all_rows, self.target]]
        row, column = np.sign(goal - self.agent).T
        return DIRECTION[row + 1, column + 1]

    def cells(self, index: int) -> Picture:
        picture = blank(ROOM, ROOM)
        picture[[0, -1]], picture[:, [0, -1]] = WALL, WALL
        for who, (row, column) in enumerate(self._places(index)):
            picture[row, column] = HUES[who]
        picture[tuple(self.agent[index])] = WHITE if self.t[index] >= self.instruction else AGENT
        return picture

    def text(self, index: int) -> str:
        return self._room(index, [str(who) for who in range(self.num_dancers)])

    def view(self, index: int) -> str:
        # Named by their places: numbers in order of the dances would tell that order.
        return self._room(index, ["abcdefgh"[home] for home in self.home[index]])

    def _room(self, index: int, names: list[str]) -> str:
        room = np.full((ROOM, ROOM), " ")
        room[[0, -1]], room[:, [0, -1]] = "#", "#"
        for name, (row, column) in zip(names, self._places(index), strict=True):
            room[row, column] = name
        room[tuple(self.agent[index])] = "A"
        lines = ["".join(line) for line in room]
        rows = np.array([index])
        some, who, _ = self._dancing(rows)
        return "\n".join([*lines, f"step {self.t[index]}: {NAMES[self._word(rows, some, who)[0]]}"])

    def _dancing(self, rows: Rows) -> tuple[Ints, Ints, Ints]:
        """Which of `rows` have a dancer who moves now [n], who it is [n], and where it is from its home [n, 2]."""
        t = self.t[rows]
        turn, move = np.divmod(t, self.period)
        some = np.flatnonzero((t < self.instruction) & (move < DANCE_STEPS))
        who = turn[some]
        return some, who, self.offsets[self.dance[self.all_rows[rows][some], who], move[some]]

    def _word(self, rows: Rows, some: Ints, who: Ints) -> Ints:
        """What each of `rows` is told [n], while in `some` of them dancer `who` moves."""
        copies = self.all_rows[rows]
        word = np.where(self.t[rows] < self.instruction, 0, 1 + self.dance[copies, self.target[rows]])
        word[some] = np.where(self.named[rows][some], 1 + self.dance[copies[some], who], 0)
        return word

    def _places(self, index: int) -> Ints:
        places = HOMES[self.home[index]].copy()
        turn, move = divmod(int(self.t[index]), self.period)
        if turn < self.num_dancers and move < DANCE_STEPS:
            places[turn] += self.offsets[self.dance[index, turn], move]
        return places


# The action that moves by (row, column), each in -1..1; for no move any will do.
DIRECTION: Ints = np.zeros((3, 3), dtype=np.int64)
DIRECTION[MOVES[:, 0] + 1, MOVES[:, 1] + 1] = np.arange(8)


class BalletEnv(MemoryEnv):
    task_class = Ballet


class BalletVectorEnv(MemoryVectorEnv):
    task_class = Ballet
