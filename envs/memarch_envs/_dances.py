"""The thirteen dances of Ballet: sixteen compass moves each, which return home."""

from __future__ import annotations

import numpy as np

from ._sampling import Ints

COMPASS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
# Row and column of each move, in the order of the actions.
MOVES: Ints = np.array([(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)], dtype=np.int64)
DANCES: dict[str, str] = {
    "circle_cw": "N E S S W W N N E E S S W W N E",
    "circle_ccw": "N W S S E E N N W W S S E E N W",
    "up_and_down": "N S S N " * 4,
    "left_and_right": "E W W E " * 4,
    "diagonal_uldr": "NW SE SE NW " * 4,
    "diagonal_urdl": "NE SW SW NE " * 4,
    "plus_cw": "N S E W S N W E " * 2,
    "plus_ccw": "N S W E S N E W " * 2,
    "times_cw": "NE SW SE NW SW NE NW SE " * 2,
    "times_ccw": "NW SE SW NE SE NW NE SW " * 2,
    "zee": "NE W W E E SW NE SW SW E E W W NE SW NE",
    "chevron_down": "NW S SE NE N SW NE SW NE S SW NW N SE NW SE",
    "chevron_up": "SE N NW SW S NE SW NE SW N NE SE S NW SE NW",
}
DANCE_STEPS = 16


def offsets() -> Ints:
    """Place relative to home after each move: [13 dances, 16 moves, (row, column)]."""
    moves = [[COMPASS.index(move) for move in dance.split()] for dance in DANCES.values()]
    return np.cumsum(MOVES[np.array(moves)], axis=1)
