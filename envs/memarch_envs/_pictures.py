"""Colours and small pictures shared by the environments' renderings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .base import Picture

BLACK, FLOOR, WALL, WHITE = (0, 0, 0), (32, 34, 40), (92, 96, 106), (255, 255, 255)
AGENT, GOAL, WRONG, CUE = (90, 170, 255), (70, 200, 110), (225, 80, 80), (250, 210, 70)
HUES = (
    (230, 70, 70),
    (70, 130, 240),
    (80, 200, 90),
    (240, 200, 60),
    (180, 90, 220),
    (70, 210, 210),
    (245, 140, 50),
    (240, 130, 190),
)


def blank(height: int, width: int) -> Picture:
    """A picture [height, width, 3] of floor."""
    picture = np.empty((height, width, 3), dtype=np.uint8)
    picture[:] = FLOOR
    return picture


def paint_vector(picture: Picture, row: int, left: int, values: NDArray[np.float32] | Sequence[float]) -> None:
    """Draw numbers in [-1, 1] from `left` on in one row: dark blue for -1, black for 0, orange for 1."""
    numbers = np.clip(np.asarray(values, dtype=np.float32), -1, 1)
    up, down = np.maximum(numbers, 0)[:, None], np.maximum(-numbers, 0)[:, None]
    colours = up * np.array([255.0, 150.0, 40.0]) + down * np.array([40.0, 110.0, 255.0])
    picture[row, left : left + numbers.size] = colours.astype(np.uint8)
