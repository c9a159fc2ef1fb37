"""What Ballet looks like: a sprite for each shape and colour of a dancer, and the empty room from each of its cells."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ._pictures import WHITE
from .base import Bools, Picture

CELL_PIXELS, VIEW_CELLS = 9, 11
VIEW_PIXELS = CELL_PIXELS * VIEW_CELLS
WALL_GREY = 40
# The names and values of the released environment.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "purple": (128, 0, 128),
    "orange": (255, 165, 0),
    "yellow": (255, 255, 0),
    "brown": (128, 64, 0),
    "pink": (255, 64, 255),
    "cyan": (0, 255, 255),
    "dark_green": (0, 100, 0),
    "dark_red": (100, 0, 0),
    "dark_blue": (0, 0, 100),
    "olive": (100, 100, 0),
    "teal": (0, 100, 100),
    "lavender": (215, 200, 255),
    "peach": (255, 210, 170),
    "rose": (255, 205, 230),
    "light_green": (200, 255, 200),
    "light_yellow": (255, 255, 200),
}


def shapes() -> dict[str, Bools]:
    """Which of 9 by 9 pixels each shape covers."""
    row, column = np.mgrid[-4:5, -4:5]
    upright, level = abs(column) <= 1, abs(row) <= 1
    sides = abs(column) >= 2
    top, bottom = row <= -2, row >= 2
    cross = (abs(row - column) <= 1) | (abs(row + column) <= 1)
    radius = row**2 + column**2
    return {
        "triangle": row + 4 >= 2 * abs(column),
        "empty_square": (abs(row) >= 3) | (abs(column) >= 3),
        "plus": upright | level,
        "inverse_plus": ~(upright | level),
        "ex": cross,
        "inverse_ex": ~cross,
        "circle": radius <= 16,
        "empty_circle": abs(radius - 16) < 6,
        "tee": upright | top,
        "upside_down_tee": upright | bottom,
        "h": sides | level,
        "u": sides | bottom,
        "upside_down_u": sides | top,
        "vertical_stripes": column % 2 == 0,
        "horizontal_stripes": row % 2 == 0,
    }


@lru_cache(maxsize=1)
def sprites() -> Picture:
    """Dancers on black: uint8 [15 shapes, 19 colours, 9, 9, 3]. Shared: read only."""
    covered = np.array(list(shapes().values()))[:, None, :, :, None]
    bank = (covered * np.array(list(COLOURS.values()))[None, :, None, None, :]).astype(np.uint8)
    bank.flags.writeable = False
    return bank


@lru_cache(maxsize=1)
def views() -> Picture:
    """The room with nobody but the agent, who is in the middle: uint8 [11, 11, 99, 99, 3] by its row and column.

    Beyond the wall all is black. Shared: read only.
    """
    margin = VIEW_CELLS // 2
    grey = np.zeros((3 * VIEW_CELLS, 3 * VIEW_CELLS), dtype=np.uint8)
    room = slice(VIEW_CELLS, 2 * VIEW_CELLS)
    grey[room, room] = WALL_GREY
    grey[VIEW_CELLS + 1 : 2 * VIEW_CELLS - 1, VIEW_CELLS + 1 : 2 * VIEW_CELLS - 1] = 0
    bank = np.empty((VIEW_CELLS, VIEW_CELLS, VIEW_PIXELS, VIEW_PIXELS, 3), dtype=np.uint8)
    for row in range(VIEW_CELLS):
        for column in range(VIEW_CELLS):
            top, left = VIEW_CELLS + row - margin, VIEW_CELLS + column - margin
            cells = grey[top : top + VIEW_CELLS, left : left + VIEW_CELLS].copy()
            cells[margin, margin] = WHITE[0]
            bank[row, column] = cells.repeat(CELL_PIXELS, axis=0).repeat(CELL_PIXELS, axis=1)[..., None]
    bank.flags.writeable = False
    return bank
