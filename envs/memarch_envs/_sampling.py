"""Randomness that is the same for one environment alone and for many at once.

Every environment owns a generator and spends the same number of uniform numbers on each episode. They are drawn many
episodes at a time, so a batch of short episodes does not wait for one generator call per episode.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NUMBERS_AT_A_TIME = 512


class Draws:
    """Uniform numbers in [0, 1): `num_draws` for each episode of each of `num_envs` environments."""

    def __init__(self, num_envs: int, num_draws: int) -> None:
        self._episodes = max(1, NUMBERS_AT_A_TIME // num_draws)
        self._pool = np.zeros((num_envs, self._episodes, num_draws))
        self._next = np.full(num_envs, self._episodes)
        self._generators: list[np.random.Generator | None] = [None] * num_envs

    def generator(self, index: int) -> np.random.Generator | None:
        """The generator of environment `index`; None before its first `use`."""
        return self._generators[index]

    def use(self, index: int, generator: np.random.Generator) -> None:
        """Draw for environment `index` from `generator` from now on; numbers drawn before are dropped."""
        self._generators[index] = generator
        self._next[index] = self._episodes

    def take(self, which: Ints) -> Floats:
        """Numbers for one more episode of each environment in `which` [n]: a new array [n, num_draws]."""
        for index in which[self._next[which] == self._episodes]:
            generator = self._generators[index]
            if generator is None:
                raise RuntimeError(f"environment {index} has no generator: call use() first")
            generator.random(out=self._pool[index])
            self._next[index] = 0
        numbers = self._pool[which, self._next[which]]
        self._next[which] += 1
        return numbers


def integers(uniform: Floats, high: int | Ints) -> Ints:
    """Integers in [0, high), one for each number in [0, 1)."""
    return (uniform * high).astype(np.int64)


def permutations(uniform: Floats) -> Ints:
    """Random orders of the last axis: [..., n] numbers give [..., n] indices without repetition."""
    return np.argsort(uniform, axis=-1, kind="stable")


def unit_vectors(uniform: Floats) -> NDArray[np.float32]:
    """Directions, uniform over the sphere, by Box and Muller: [..., 2 * dim] numbers give [..., dim] float32."""
    radius, angle = np.split(uniform, 2, axis=-1)
    normal = np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    return (normal / np.maximum(length, 1e-12)).astype(np.float32)
