"""What the settings of trainings share: reading back from JSON, their checks, warm-up and cosine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self


@dataclass(frozen=True)
class FromJson:
    """Settings that read back from the JSON they were saved as."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, source: str) -> Self:
        """The settings in a JSON object; `source` names it in errors.

        Raises:
            ValueError: unknown or missing keys, or a value out of range.
        """
        names = {field.name for field in fields(cls)}
        if value.keys() != names:
            raise ValueError(
                f"{source}: expected the settings {', '.join(sorted(names))}; got {', '.join(sorted(value))}"
            )
        return cls(**value)


class OptimizerSettings(FromJson):
    """Base of settings with a linear warm-up, a cosine and AdamW; a training's own class gives the fields and defaults.

    Attributes:
        counts: further fields that are integers of at least 1.

    Raises:
        ValueError: a value out of range; the message names it.
    """

    counts: ClassVar[tuple[str, ...]] = ()

    num_steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    gradient_clip: float
    eval_every: int
    save_every: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", *self.counts):
            _check_count(name, getattr(self, name), 1)
        for name in ("warmup_steps", "eval_every", "save_every", "seed"):
            _check_count(name, getattr(self, name), 0)
        for name in ("learning_rate", "gradient_clip"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"{name} must be a positive number; got {value!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0; got {self.weight_decay!r}")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of the step that follows `step` done ones."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done))))


def _check_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")
