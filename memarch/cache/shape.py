"""What a cache processor has to know of a model: how many layers its key-value cache has, and how wide they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CacheShape:
    """Sizes of a key-value cache: `num_layers` layers of `num_kv_heads` heads of `head_dim` numbers each.

    Raises: ValueError for a size below 1 or an odd head_dim, which no rotary embedding can turn.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        for name in ("num_layers", "num_kv_heads", "head_dim"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1; got {value!r}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even, for rotary embeddings; got {self.head_dim}")

    @classmethod
    def of(cls, config: Any) -> CacheShape:
        """The shape of the caches of a transformers model, from its configuration; a CacheShape is returned as it is.

        Raises:
            ValueError: not the configuration of a decoder with attention.
        """
        if isinstance(config, cls):
            return config
        if hasattr(config, "get_text_config"):
            config = config.get_text_config(decoder=True)
        missing = [
            name for name in ("num_hidden_layers", "num_attention_heads", "hidden_size") if not hasattr(config, name)
        ]
        if missing:
            raise ValueError(
                f"config must be a transformers configuration of a decoder, or a CacheShape; got "
                f"{type(config).__name__} without {', '.join(missing)}"
            )
        num_heads = config.num_attention_heads
        return cls(
            num_layers=config.num_hidden_layers,
            num_kv_heads=getattr(config, "num_key_value_heads", None) or num_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // num_heads,
        )

    @property
    def entry_dim(self) -> int:
        """Numbers of one cached entry: keys and values of all heads of a layer."""
        return 2 * self.num_kv_heads * self.head_dim
