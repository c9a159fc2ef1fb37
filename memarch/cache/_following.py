"""What generate does with a cache between forward passes: passed on to whoever keeps notes on it, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

_REFUSED = ("crop", "activate_past_recording", "batch_repeat_interleave", "batch_select_indices")


class Follower(Protocol):
    """Notes on a cache that must change with it."""

    @property
    def cache(self) -> Any:
        """The cache, by a weak reference."""

    def reorder(self, rows: Tensor) -> None:
        """Row b goes on from row `rows[b]`."""

    def clear(self) -> None:
        """The cache is empty."""


def follow(cache: Any, tracker: Follower) -> None:
    """Have the cache tell its tracker when beams are reordered, and refuse what would take entries back.

    Raises: ValueError if another one follows it.
    """
    if "reorder_cache" in cache.__dict__:
        raise ValueError("this cache is followed already: use a new cache in each consolidate or reweave")
    kind = type(cache)

    # These find the cache through its tracker: one that referred to itself would wait for the garbage collector.
    def reorder_cache(beam_idx: Tensor) -> None:
        kind.reorder_cache(tracker.cache, beam_idx)
        tracker.reorder(beam_idx)

    def reset() -> None:
        kind.reset(tracker.cache)
        tracker.clear()

    def refuse(name: str) -> Callable[..., None]:
        def call(*args: object, **options: object) -> None:
            raise ValueError(
                f"generate called {name} of the cache: assisted decoding, prompt lookup and contrastive search take "
                "entries back, which a rewritten or woven cache cannot; use greedy decoding, sampling or beams"
            )

        return call

    cache.reorder_cache, cache.reset = reorder_cache, reset  # on this object only
    for name in _REFUSED:
        setattr(cache, name, refuse(name))


def unfollow(cache: Any) -> None:
    """Undo `follow`."""
    for name in ("reorder_cache", "reset", *_REFUSED):
        cache.__dict__.pop(name, None)
