"""Forgetting as a training plug-in: active, temporary and probabilistic (arXiv 2307.01163, 2406.00053).

    forget = EmbeddingForgetting(model, every=1000, stop_after=10_000)
    for batch in batches:
        loss_of(model, batch).backward()
        optimizer.step()
        scheduler.step()
        forget.step(optimizer, scheduler)

Imports torch only; `ForgettingCallback` is for transformers' Trainer and loads it on first use.
"""

from typing import TYPE_CHECKING, Any

from .embedding_forgetting import EmbeddingForgetting
from .learning_rates import Replay, Rewarm, give_own_group
from .probabilistic import ProbabilisticForgetting

if TYPE_CHECKING:
    from .trainer_callback import ForgettingCallback

__all__ = [
    "EmbeddingForgetting",
    "ForgettingCallback",
    "ProbabilisticForgetting",
    "Replay",
    "Rewarm",
    "give_own_group",
]


def __getattr__(name: str) -> Any:
    if name == "ForgettingCallback":
        from .trainer_callback import ForgettingCallback

        return ForgettingCallback
    raise AttributeError(f"module 'memarch.forgetting' has no attribute {name!r}; it has {', '.join(__all__)}")
