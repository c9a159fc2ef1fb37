"""What a user may choose of an agent: the sizes of its network, and how it is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from memarch.training.settings import FromJson


@dataclass(frozen=True)
class PolicySettings(FromJson):
    """Sizes of the network, and of its memory where that is given by name.

    Attributes:
        d_model: width of everything between observation and action.
        num_layers: memory layers.
        num_heads: of the memory's attention.
        chunk_size: steps of a chunk, of "hcam" and of Miras memories.
        top_k: chunks that "hcam" reads at a step.
        num_chunks: chunks that "hcam" keeps.
        attention_steps: last steps that the attention of "hcam" and "gtrxl" sees.
        reset_memory: "episode", or "never": "hcam" keeps chunks of earlier episodes.
        gradient_window: "hcam" learns what to store from what later steps of the same window make of it.
        chunk_summary: what "hcam" finds a chunk by: "mean" of its steps, or "learned", for chunks that differ in order.

    Raises:
        ValueError: a value out of range; the message names it.
    """

    d_model: int = 64
    num_layers: int = 1
    num_heads: int = 4
    chunk_size: int = 16
    top_k: int = 4
    num_chunks: int = 32
    attention_steps: int = 32
    reset_memory: Literal["episode", "never"] = "episode"
    gradient_window: bool = True
    chunk_summary: Literal["mean", "learned"] = "mean"

    def __post_init__(self) -> None:
        for name in ("d_model", "num_layers", "num_heads", "chunk_size", "top_k", "num_chunks", "attention_steps"):
            _check_count(name, getattr(self, name), 1)
        if self.reset_memory not in ("episode", "never"):
            raise ValueError(f"reset_memory must be 'episode' or 'never'; got {self.reset_memory!r}")
        if self.chunk_summary not in ("mean", "learned"):
            raise ValueError(f"chunk_summary must be 'mean' or 'learned'; got {self.chunk_summary!r}")


@dataclass(frozen=True)
class PPOSettings(FromJson):
    """How to collect and how to learn (PPO, arXiv 1707.06347; advantages arXiv 1506.02438).

    Attributes:
        rollout_steps: steps of each environment between updates.
        window_steps: steps that gradients reach back, a divisor of `rollout_steps`; None is all of them. A window
            begins with the memory the agent had there.
        num_epochs: passes over a rollout.
        num_minibatches: parts of a pass, cut between windows.
        learning_rate: of Adam, at the start.
        schedule: "linear": falls to zero over the training; "constant".
        discount: gamma.
        gae_lambda: lambda of the generalised advantage estimate.
        advantage_floor: smallest deviation that advantages are divided by, in units of the reward; 0: none. Where all
            episodes return the same, what is left is noise, and divided by its own deviation it counts as much as a
            signal would (arXiv 2301.04104 bounds the scale of returns for that reason).
        clip: how far the ratio of probabilities may move.
        entropy_weight, value_weight: of those terms in the loss.
        reconstruction_weight: of predicting the observation from the memory's output; 0 leaves it out.
        gradient_clip: largest norm of the gradient.
        reseed_every: rollouts after which all environments begin anew under fresh seeds. A checkpoint holds the actions
            since then, and resuming replays them: that makes it exact. 0: never, and replays grow with the training.
        mixed_precision: learn in bfloat16 where it is safe; needs a GPU.
        compile: compile the encoder with torch.compile, some seconds at the start: for pictures, in long trainings.
        seed: of weights, actions, environments and minibatches.

    Raises:
        ValueError: a value out of range; the message names it.
    """

    rollout_steps: int = 128
    window_steps: int | None = None
    num_epochs: int = 4
    num_minibatches: int = 4
    learning_rate: float = 5e-4
    schedule: Literal["linear", "constant"] = "linear"
    discount: float = 0.99
    gae_lambda: float = 0.95
    advantage_floor: float = 0.0
    clip: float = 0.2
    entropy_weight: float = 0.01
    value_weight: float = 0.5
    reconstruction_weight: float = 0.0
    gradient_clip: float = 0.5
    reseed_every: int = 100
    mixed_precision: bool = False
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rollout_steps", "num_epochs", "num_minibatches"):
            _check_count(name, getattr(self, name), 1)
        for name in ("reseed_every", "seed"):
            _check_count(name, getattr(self, name), 0)
        if self.window_steps is not None:
            _check_count("window_steps", self.window_steps, 1)
            if self.rollout_steps % self.window_steps:
                raise ValueError(
                    f"window_steps must divide rollout_steps={self.rollout_steps}; got {self.window_steps}"
                )
        for name in ("learning_rate", "clip", "gradient_clip"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 < value < math.inf):
                raise ValueError(f"{name} must be a positive number; got {value!r}")
        for name in ("advantage_floor", "entropy_weight", "value_weight", "reconstruction_weight"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < math.inf):
                raise ValueError(f"{name} must be a number of at least 0; got {value!r}")
        for name in ("discount", "gae_lambda"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value <= 1):
                raise ValueError(f"{name} must be a number in [0, 1]; got {value!r}")
        if self.schedule not in ("linear", "constant"):
            raise ValueError(f"schedule must be 'linear' or 'constant'; got {self.schedule!r}")

    @property
    def num_windows(self) -> int:
        """Windows of a rollout, for each environment."""
        return self.rollout_steps // (self.window_steps or self.rollout_steps)

    def learning_rate_at(self, done: float) -> float:
        """The learning rate after the fraction `done` of the training."""
        return self.learning_rate * (max(0.0, 1 - done) if self.schedule == "linear" else 1.0)


def _check_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
