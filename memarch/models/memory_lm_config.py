"""The configuration of a memory language model: a frozen dataclass that is also config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from memarch.layers.registry import check_mixer

MODEL_TYPE = "memory_lm"
TOKENIZERS = ("byte", "bpe")


@dataclass(frozen=True)
class MemoryLMConfig:
    """Sizes and mixers of a `MemoryLMForCausalLM`.

    Attributes:
        vocab_size: number of tokens.
        d_model: width of the residual stream.
        num_layers: blocks.
        num_heads: heads of every mixer.
        mixer: a name of `memarch.layers.registry.MIXERS`.
        chunk_size: tokens per chunk of a Miras mixer; part of the function, so it is stored with the model.
        window_tokens: sliding window of the attention layers; None is full attention.
        attention_every: every such layer is sliding-window attention instead of `mixer` (a hybrid as in Samba,
            arXiv 2406.07522); None for none.
        mlp_dim: hidden width of the SwiGLU; None is about 8/3 d_model.
        tie_embeddings: whether the output layer shares the embedding's weights.
        tokenizer: "byte" or "bpe".

    Raises:
        ValueError: a value out of range; the message names it.
    """

    vocab_size: int
    d_model: int = 128
    num_layers: int = 4
    num_heads: int = 4
    mixer: str = "yaad"
    chunk_size: int = 16
    window_tokens: int | None = None
    attention_every: int | None = None
    mlp_dim: int | None = None
    tie_embeddings: bool = True
    tokenizer: str = "byte"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "num_layers", "num_heads", "chunk_size"):
            _check_count(name, getattr(self, name))
        for name in ("window_tokens", "attention_every", "mlp_dim"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        check_mixer(self.mixer)
        if self.d_model % self.num_heads:
            raise ValueError(f"d_model must be divisible by num_heads; got {self.d_model} and {self.num_heads}")
        if self.tokenizer not in TOKENIZERS:
            raise ValueError(f"tokenizer must be one of {', '.join(TOKENIZERS)}; got {self.tokenizer!r}")
        if not isinstance(self.tie_embeddings, bool):
            raise ValueError(f"tie_embeddings must be true or false; got {self.tie_embeddings!r}")
        if self.attention_every is not None:
            if self.mixer == "attention" or self.attention_every < 2:
                raise ValueError(
                    f"attention_every puts attention between layers of another memory and must be at least 2; "
                    f"got {self.attention_every} with {self.mixer!r}: leave it out or choose another memory"
                )
            if self.window_tokens is None:
                raise ValueError(
                    f"attention_every={self.attention_every} needs window_tokens, for example 64: "
                    "a hybrid's attention looks back a bounded way"
                )
        elif self.window_tokens is not None and self.mixer != "attention":
            raise ValueError(
                f"window_tokens={self.window_tokens} has no effect on {self.mixer!r}: "
                "add attention_every, or leave it out"
            )

    def layer_mixers(self) -> tuple[str, ...]:
        """The mixer of every layer, first to last."""
        every = self.attention_every
        return tuple(
            "attention" if every is not None and (i + 1) % every == 0 else self.mixer for i in range(self.num_layers)
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return {"model_type": MODEL_TYPE, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, source: str = "config") -> MemoryLMConfig:
        """The configuration in a JSON object; `source` names it in errors.

        Raises:
            ValueError: another model type, an unknown or missing key, or a value out of range.
        """
        known = {field.name for field in fields(cls)}
        options = {name: item for name, item in value.items() if name != "model_type"}
        if value.get("model_type") != MODEL_TYPE:
            raise ValueError(f"{source}: model_type must be {MODEL_TYPE!r}; got {value.get('model_type')!r}")
        unknown = sorted(options.keys() - known)
        if unknown:
            raise ValueError(f"{source}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(known))}")
        missing = sorted(known - options.keys())
        if missing:
            raise ValueError(f"{source}: key {missing[0]!r} is missing; the file is incomplete")
        try:
            return cls(**options)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1; got {value!r}")
