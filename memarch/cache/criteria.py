"""The stopping criterion that goes with `consolidate`: stops nothing, and notices a cache out of step with the text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

if TYPE_CHECKING:
    from .consolidate import Consolidation


class InStepCriteria(StoppingCriteria):
    """All False. When `generate` calls it, the cache must hold every token but the newest.

    Raises, on call: RuntimeError if generation runs past the cache that is watched.
    """

    def __init__(self, consolidation: Consolidation) -> None:
        self._consolidation = consolidation

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """bool `[B]` for ids `[B, T]`; in beam search B counts candidates, of which there are more than beams."""
        tracker = self._consolidation.last
        if tracker is None or tracker.length == 0:
            raise RuntimeError(
                "generate has not used a cache that consolidate watches: pass past_key_values=c.new_cache() and leave "
                "use_cache on"
            )
        if not tracker.from_embeddings and tracker.length != input_ids.shape[1] - 1:
            raise RuntimeError(
                f"the cache holds {tracker.length} entries while the text has {input_ids.shape[1]} tokens; expected "
                f"{input_ids.shape[1] - 1}: pass a new cache of c.new_cache() for a new text"
            )
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
