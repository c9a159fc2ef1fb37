"""Where dialogue memories are kept. `open_store` picks the store by the form of its location."""

from .base import Store, VectorIndex

__all__ = ["Store", "VectorIndex"]
