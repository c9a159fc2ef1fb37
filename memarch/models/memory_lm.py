"""A language model whose layers remember through any mixer of `memarch.layers.registry`.

    model = MemoryLMForCausalLM(MemoryLMConfig(vocab_size=256, mixer="yaad"))
    output = model(ids, labels=ids)                  # ids [B, T]; output.loss, output.logits [B, T, V]
    output = model(more, output.state)               # goes on where the first call ended
    for token in model.generate(ids, max_new_tokens=100, seed=0): ...

B batch, T time, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memarch.layers.block import MemoryBlock
from memarch.layers.registry import build_mixer

from .memory_lm_config import MemoryLMConfig
from .sampling import check_sampling, sample_next
from .storage import check_tensors, json_writer, read_json, read_tensors, tensors_writer, write_files

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


@dataclass(frozen=True)
class MemoryLMState:
    """What every layer remembers, first layer to last."""

    layers: tuple[Any, ...]

    def detach(self) -> MemoryLMState:
        """The same state cut from the autograd graph."""
        return MemoryLMState(tuple(layer.detach() for layer in self.layers))

    def num_bytes(self) -> int:
        """Bytes of all tensors in the state."""
        return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(self.layers))


@dataclass(frozen=True)
class MemoryLMOutput:
    """logits `[B, T, V]`, the mean loss in nats per token (None without labels), and the next state."""

    logits: Tensor
    loss: Tensor | None
    state: MemoryLMState


class MemoryLMModel(nn.Module):
    """Embedding, blocks, final norm: token ids to hidden vectors.

    Shapes: input_ids `[B, T]` integers -> `[B, T, d_model]`.
    """

    def __init__(self, config: MemoryLMConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.layers = nn.ModuleList(_block(config, name) for name in config.layer_mixers())
        self.norm = nn.RMSNorm(config.d_model, eps=1e-6)

    def forward(
        self, input_ids: Tensor, state: MemoryLMState | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, MemoryLMState]:
        """Hidden vectors `[B, T, d_model]` and the next state.

        Raises:
            ValueError: ids that are not integers `[B, T]` below vocab_size, an empty sequence, a wrong mask or state.
        """
        self._check(input_ids, state, mask)
        x = self.embedding(input_ids if mask is None else input_ids.masked_fill(~mask, 0))
        states = []
        for i, layer in enumerate(self.layers):
            x, layer_state = layer(x, None if state is None else state.layers[i], mask=mask)
            states.append(layer_state)
        return self.norm(x), MemoryLMState(tuple(states))

    def _check(self, input_ids: Tensor, state: MemoryLMState | None, mask: Tensor | None) -> None:
        if input_ids.dim() != 2 or min(input_ids.shape) < 1:
            raise ValueError(f"input_ids must be [B, T] with B and T at least 1; got {list(input_ids.shape)}")
        if input_ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"input_ids must be int64 or int32; got {input_ids.dtype}")
        if mask is not None and (mask.shape != input_ids.shape or mask.dtype != torch.bool):
            raise ValueError(
                f"mask must be bool {list(input_ids.shape)}, True = real token; got {mask.dtype} {list(mask.shape)}"
            )
        # On a GPU the look at the values would stop the queue at every step.
        if input_ids.device.type == "cpu":
            real = input_ids if mask is None else input_ids[mask]
            if real.numel() and not 0 <= int(real.min()) <= int(real.max()) < self.config.vocab_size:
                raise ValueError(
                    f"input_ids must be in [0, {self.config.vocab_size}); got {int(real.min())} to {int(real.max())}: "
                    "encode the text with this model's own tokenizer"
                )
        if state is not None and (not isinstance(state, MemoryLMState) or len(state.layers) != len(self.layers)):
            raise ValueError(f"state must be a MemoryLMState of {len(self.layers)} layers from this model, or None")


class MemoryLMForCausalLM(nn.Module):
    """`MemoryLMModel` with an output layer: next-token logits, loss, streaming generation, save and load."""

    def __init__(self, config: MemoryLMConfig) -> None:
        super().__init__()
        self.config = config
        self.model = MemoryLMModel(config)
        self.lm_head = None if config.tie_embeddings else nn.Linear(config.d_model, config.vocab_size, bias=False)

    def forward(
        self,
        input_ids: Tensor,
        state: MemoryLMState | None = None,
        *,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> MemoryLMOutput:
        """Logits of the next token at every position.

        Args:
            input_ids: `[B, T]`.
            state: what an earlier call returned, or None to start empty.
            mask: `[B, T]` bool, True = real token; padding may be on either side.
            labels: `[B, T]`, usually input_ids themselves: position t is predicted from those before it (the shift is
                made here, as in transformers); -100 and padding are left out of the mean.

        Raises:
            ValueError: wrong shapes or values; see `MemoryLMModel.forward`.
        """
        if labels is not None and labels.shape != input_ids.shape:
            raise ValueError(f"labels must have input_ids' shape {list(input_ids.shape)}; got {list(labels.shape)}")
        hidden, state = self.model(input_ids, state, mask=mask)
        logits = self._logits(hidden)
        loss = None
        if labels is not None:
            wanted = labels if mask is None else labels.masked_fill(~mask, -100)
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), wanted[:, 1:].flatten(), ignore_index=-100)
        return MemoryLMOutput(logits, loss, state)

    def generate(
        self,
        input_ids: Tensor,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        mask: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Yield the next token of every row, `[B]`, one step at a time.

        Memory per step is constant unless a layer is full attention, whose cache grows.

        Args:
            input_ids: `[B, T]` prompts.
            max_new_tokens: steps; None goes on for ever.
            temperature, top_k, top_p: see `sample_next`.
            seed: of the sampling; None takes torch's global generator.
            mask: `[B, T]` bool for prompts of different lengths.

        Raises:
            ValueError: at the call, for bad options; for bad prompts at the first step.
        """
        check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        if max_new_tokens is not None and max_new_tokens < 0:
            raise ValueError(f"max_new_tokens must be at least 0, or None; got {max_new_tokens}")
        if mask is not None and not bool(mask.any(1).all()):
            raise ValueError("mask leaves a prompt without a real token: every row needs at least one")
        generator = None if seed is None else torch.Generator(input_ids.device).manual_seed(seed)
        return self._stream(input_ids, mask, max_new_tokens, temperature, top_k, top_p, generator)

    @torch.no_grad()
    def _stream(
        self,
        input_ids: Tensor,
        mask: Tensor | None,
        max_new_tokens: int | None,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        generator: torch.Generator | None,
    ) -> Iterator[Tensor]:
        hidden, state = self.model(input_ids, mask=mask)
        if mask is None:
            hidden = hidden[:, -1]
        else:
            last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)
            hidden = hidden[torch.arange(len(last), device=last.device), last]
        produced = 0
        while max_new_tokens is None or produced < max_new_tokens:
            token = sample_next(
                self._logits(hidden), temperature=temperature, top_k=top_k, top_p=top_p, generator=generator
            )
            yield token
            produced += 1
            if produced != max_new_tokens:
                hidden, state = self.model(token[:, None], state)
                hidden = hidden[:, -1]

    def num_parameters(self) -> int:
        """Trainable numbers; tied embeddings count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors, both or neither; files already there survive a failure.

        Raises:
            OSError: a full disk or an unwritable directory; the message names the file.
        """
        writers = {
            CONFIG_FILE: json_writer(self.config.to_json()),
            WEIGHTS_FILE: tensors_writer(self.state_dict(), metadata={"format": "pt"}),
        }
        write_files(Path(directory), writers)

    @classmethod
    def from_pretrained(cls, directory: str | Path, *, device: str | torch.device = "cpu") -> MemoryLMForCausalLM:
        """The model that `save_pretrained` wrote.

        Raises:
            OSError: a file is missing or unreadable.
            ValueError: a file is corrupt, or the two do not belong together.
        """
        directory = Path(directory)
        source = directory / CONFIG_FILE
        config = MemoryLMConfig.from_json(read_json(source), source=str(source))
        tensors = read_tensors(directory / WEIGHTS_FILE)
        model = cls(config)
        check_tensors(directory / WEIGHTS_FILE, tensors, model.state_dict())
        model.load_state_dict(tensors)
        return model.to(device)

    def _logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.model.embedding.weight) if self.lm_head is None else self.lm_head(hidden)


def count_parameters(config: MemoryLMConfig) -> int:
    """`num_parameters()` of the model that `config` describes; built once and dropped, torch's generator untouched."""
    with torch.random.fork_rng(devices=[]):
        return MemoryLMForCausalLM(config).num_parameters()


def match_num_parameters(config: MemoryLMConfig, num_parameters: int) -> MemoryLMConfig:
    """`config` with the mlp_dim that brings it nearest to `num_parameters`: same-size models with different mixers.

    Raises:
        ValueError: no mlp_dim of at least 1 comes near: the sizes differ too much elsewhere.
    """
    smallest = count_parameters(replace(config, mlp_dim=1))
    per_unit = 3 * config.d_model * config.num_layers
    mlp_dim = 1 + math.floor((num_parameters - smallest) / per_unit + 0.5)
    if mlp_dim < 1:
        raise ValueError(
            f"{config.mixer!r} has {smallest:,} parameters even with mlp_dim=1, more than the {num_parameters:,} asked "
            "for: lower d_model, num_layers or vocab_size"
        )
    return replace(config, mlp_dim=mlp_dim)


def _block(config: MemoryLMConfig, name: str) -> MemoryBlock:
    window_tokens = config.window_tokens if name == "attention" else None
    mixer = build_mixer(
        name, config.d_model, config.num_heads, chunk_size=config.chunk_size, window_tokens=window_tokens
    )
    return MemoryBlock(mixer, config.d_model, mlp_dim=config.mlp_dim)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
