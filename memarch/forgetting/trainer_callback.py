"""Forgetting inside transformers' Trainer."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from .embedding_forgetting import EmbeddingForgetting
from .learning_rates import Replay
from .probabilistic import ProbabilisticForgetting


class ForgettingCallback(TrainerCallback):
    """Trainer(callbacks=[ForgettingCallback(forget)]): counts optimiser steps, through gradient accumulation too.

    Steps are the Trainer's own `global_step`, so a run resumed from a checkpoint goes on to the same bits.

    forget: an `EmbeddingForgetting` or a `ProbabilisticForgetting` on the model that is trained.
    """

    def __init__(self, forget: EmbeddingForgetting | ProbabilisticForgetting) -> None:
        if not isinstance(forget, EmbeddingForgetting | ProbabilisticForgetting):
            raise ValueError(
                f"expected an EmbeddingForgetting or a ProbabilisticForgetting; got {type(forget).__name__}"
            )
        self.forget = forget

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up the count where the Trainer is."""
        self.forget.num_steps = state.global_step
        if isinstance(self.forget, EmbeddingForgetting) and self.forget.lr == "replay":
            self.forget.lr = Replay(state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget from the first forward pass of a step on."""
        if isinstance(self.forget, ProbabilisticForgetting):
            self.forget.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After optimizer and scheduler have stepped."""
        if isinstance(self.forget, ProbabilisticForgetting):
            self.forget.__exit__(None, None, None)
            self.forget.step()
        else:
            self.forget.step(kwargs["optimizer"], kwargs["lr_scheduler"])
