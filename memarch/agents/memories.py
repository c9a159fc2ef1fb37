"""Memories of agents by name, several layers deep: `y, state = memory(x, state, reset=reset)`."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from memarch.layers import EPISODIC_MEMORIES, build_episodic_memory

from .settings import PolicySettings

MEMORIES: tuple[str, ...] = (*EPISODIC_MEMORIES, "none")

# These layers are transformer blocks with a residual stream of their own.
_BLOCKS = ("hcam", "gtrxl")


class MemoryStack(nn.Module):
    """Layers one after another; those that are no transformer blocks are added to the stream: x + layer(x).

    Shapes: x `[B, T, d_model]` -> `[B, T, d_model]`; reset `[B, T]` bool; state a tuple with one of each layer.
    """

    def __init__(self, layers: list[nn.Module], *, residual: bool) -> None:
        super().__init__()
        self.layers, self.residual = nn.ModuleList(layers), residual

    def forward(
        self, x: Tensor, state: tuple[Any, ...] | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Steps x after those in `state`."""
        ended = []
        for index, layer in enumerate(self.layers):
            y, after = layer(x, None if state is None else state[index], reset=reset)
            x = x + y if self.residual else y
            ended.append(after)
        return x, tuple(ended)


def build_memory(memory: str | nn.Module, settings: PolicySettings) -> nn.Module:
    """The memory of that name with these sizes, or the given module itself.

    A module of your own is called as `y, state = module(x, state=None, *, reset=None)`, x `[B, T, d_model]`; its state
    is made of tensors with the batch in front (in tuples, lists, dictionaries, dataclasses), and a step with `reset`
    True must begin anew, whatever the state.

    Raises:
        ValueError: an unknown name, sizes the memory refuses, or a module that does not keep to this.
    """
    if isinstance(memory, nn.Module):
        _check_module(memory, settings.d_model)
        return memory
    if not isinstance(memory, str) or memory not in MEMORIES:
        near = difflib.get_close_matches(memory, MEMORIES, n=1) if isinstance(memory, str) else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"memory must be one of {', '.join(MEMORIES)}, or a module; got {memory!r}{hint}")
    if memory == "none":
        return MemoryStack([], residual=False)
    layers = [
        build_episodic_memory(
            memory,
            settings.d_model,
            settings.num_heads,
            chunk_size=settings.chunk_size,
            top_k=settings.top_k,
            num_chunks=settings.num_chunks,
            window_tokens=settings.attention_steps,
            reset_memory=settings.reset_memory,
            gradient_window=settings.gradient_window,
            chunk_summary=settings.chunk_summary,
        )
        for _ in range(settings.num_layers)
    ]
    return MemoryStack(layers, residual=memory not in _BLOCKS)


def _check_module(module: nn.Module, d_model: int) -> None:
    name = type(module).__name__
    wanted = "expected y, state = module(x, state=None, *, reset=None) with y of x's shape"
    parameter = next(module.parameters(), torch.empty(0))
    x = torch.zeros(2, 3, d_model, device=parameter.device)
    try:
        with torch.no_grad():
            y, _ = module(x, None, reset=torch.zeros(2, 3, dtype=torch.bool, device=parameter.device))
    except Exception as error:
        raise ValueError(f"memory {name} failed on x {list(x.shape)} ({error}): {wanted}") from error
    if not isinstance(y, Tensor) or y.shape != x.shape:
        got = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"memory {name} gave {got} for x {list(x.shape)}: {wanted}")
