"""Ballet as its agents saw it: pixels around the agent, and a word."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from ._sampling import Floats, Ints
from ._sprites import CELL_PIXELS, VIEW_CELLS, VIEW_PIXELS, sprites, views
from .ballet import HOMES, NAMES, Ballet
from .base import Observation, Picture, Rows
from .scalar import MemoryEnv
from .vector import MemoryVectorEnv


class BalletPixels(Ballet):
    """
    ## Description
    Ballet seen from above, the agent always in the middle. Dancers stand in a room of 11 by 11 cells with a wall around
    it. Each performs one of thirteen dances of sixteen moves, one dancer after another, with a pause after each. Then a
    dance is named: walk to the dancer who danced it.

    ## Action Space
    `Discrete(8)`: N, NE, E, SE, S, SW, W, NW. Ignored while dancing, and at the step that brings the instruction.

    ## Observation Space
    `Dict`: "image" `Box(0, 255, (99, 99, 3), uint8)`, 11 by 11 cells of 9 pixels around the agent, black beyond the
    wall; "word" `Discrete(14)`, 0 "watch", then the dances.

    ## Rewards
    1 for reaching the dancer named, 0 for another one. Oracle: 1. Uniform actions: about 1 / `num_dancers`.

    ## Starting State
    The agent in the centre (row 5, column 5). Places, dances, 19 colours and 15 shapes are drawn without repetition.
    The first observation already shows the first move.

    ## Episode End
    Terminated at a dancer; truncated after 320 steps (delay 16 or less) or 1024. The oracle needs
    `num_dancers` (15 + `delay`) + 3 steps.

    ## Arguments
    `num_dancers=2`: 1 to 8. `delay=16`: steps between dances, and after the last, 1 to 100. `named_share=0.0`: an
    episode names each dance while it is danced with that probability, for training.

    ## References
    Lampinen et al. 2021, Towards mental time travel (arXiv 2105.14039), and the environment released with it, whose
    images are float32 in [0, 1] and whose words are strings.

    ## Version History
    v0: first version.
    """

    summary = "Ballet in pixels: watch dancers perform, then walk to the one whose dance is named"

    def __init__(self, num_envs: int, *, num_dancers: int = 2, delay: int = 16, named_share: float = 0.0) -> None:
        super().__init__(num_envs, num_dancers=num_dancers, delay=delay, named_share=named_share)
        image = Box(0, 255, (VIEW_PIXELS, VIEW_PIXELS, 3), np.uint8)
        self.observation_space = Dict({"image": image, "word": Discrete(len(NAMES))})
        self.sprites, self.empty_rooms = sprites(), views()
        self.sprite = np.zeros((num_envs, num_dancers, *self.sprites.shape[2:]), dtype=np.uint8)

    def start(self, which: Ints, uniform: Floats) -> None:
        super().start(which, uniform)
        self.sprite[which] = self.sprites[self.shape[which], self.colour[which]]

    def observe(self, rows: Rows) -> Observation:
        copies, agent = self.all_rows[rows], self.agent[rows]
        image = self.empty_rooms[agent[:, 0], agent[:, 1]]
        cells = image.reshape(copies.size, VIEW_CELLS, CELL_PIXELS, VIEW_CELLS, CELL_PIXELS, 3)
        place = HOMES[self.home[rows]]
        some, who, step = self._dancing(rows)
        place[some, who] += step
        place += VIEW_CELLS // 2 - agent[:, None]
        row, dancer = np.nonzero(((place >= 0) & (place < VIEW_CELLS)).all(axis=2))
        at = place[row, dancer]
        cells[row, at[:, 0], :, at[:, 1]] = self.sprite[copies[row], dancer]
        return {"image": image, "word": self._word(rows, some, who)}

    def cells(self, index: int) -> Picture:
        seen = self.observe(np.array([index]))
        assert isinstance(seen, dict)
        return seen["image"][0]


class BalletPixelsEnv(MemoryEnv):
    task_class = BalletPixels


class BalletPixelsVectorEnv(MemoryVectorEnv):
    task_class = BalletPixels
