"""From observations to vectors of the model's width, and back for the reconstruction loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .observations import Leaf

LARGE_IMAGE = 36
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class Encoder(nn.Module):
    """Each leaf of an observation to `d_model` numbers, their sum through a small network.

    Shapes: for each leaf `[B, T, *leaf.shape]` -> `[B, T, d_model]`. Images go through convolutions: three with strides
    (Mnih et al. 2015) from 36 pixels on, else two of 3 x 3 without.
    """

    def __init__(self, leaves: Sequence[Leaf], d_model: int) -> None:
        super().__init__()
        self.leaves = list(leaves)
        self.inputs = nn.ModuleList(_input(leaf, d_model) for leaf in leaves)
        self.out_proj = scaled(nn.Linear(d_model, d_model), math.sqrt(2))

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """See the class."""
        total: Tensor | None = None
        for leaf, module in zip(self.leaves, self.inputs, strict=True):
            part = module(observation[leaf.name])
            total = part if total is None else total + part
        assert total is not None
        return torch.tanh(self.out_proj(torch.tanh(total)))


class Reconstruction(nn.Module):
    """Predicts every leaf of the observation from the memory's output (auxiliary loss of arXiv 2105.14039)."""

    def __init__(self, leaves: Sequence[Leaf], d_model: int) -> None:
        super().__init__()
        self.leaves = list(leaves)
        sizes = [sum(leaf.counts) or math.prod(leaf.shape) for leaf in leaves]
        self.outputs = nn.ModuleList(nn.Linear(d_model, size) for size in sizes)

    def forward(self, features: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        """Loss `[B, T]` of features `[B, T, d_model]`: squared error of numbers, nats of categories; leaves' mean."""
        losses = []
        for leaf, module in zip(self.leaves, self.outputs, strict=True):
            target, guess = observation[leaf.name], module(features)
            if leaf.kind == "categories":
                parts = [
                    F.cross_entropy(part.movedim(-1, 1), target[..., k], reduction="none")
                    for k, part in enumerate(guess.split(leaf.counts, -1))
                ]
                losses.append(torch.stack(parts).mean(0))
            else:
                losses.append((guess - numbers(leaf, target).flatten(2)).square().mean(-1))
        return torch.stack(losses).mean(0)


class _Categories(nn.Module):
    """The sum of one embedding for each component of `[..., n]` int64."""

    def __init__(self, counts: tuple[int, ...], d_model: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sum(counts), d_model)
        first = torch.tensor([0, *counts[:-1]]).cumsum(0)
        self.first: Tensor
        self.register_buffer("first", first, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding(x + self.first).sum(-2)


class _Image(nn.Module):
    """Convolutions over `[B, T, height, width, channels]` or channels first, then a layer to `d_model`."""

    def __init__(self, leaf: Leaf, d_model: int) -> None:
        super().__init__()
        self.leaf = leaf
        channels, height, width = leaf.shape if leaf.channels_first else (leaf.shape[2], *leaf.shape[:2])
        if min(height, width) >= LARGE_IMAGE:
            plan = [(32, 8, 4), (64, 4, 2), (64, 3, 1)]
        else:
            plan = [(32, 3, 1), (64, 3, 1)]
        layers: list[nn.Module] = []
        for out_channels, kernel, stride in plan:
            layers += [scaled(nn.Conv2d(channels, out_channels, kernel, stride), math.sqrt(2)), nn.ReLU()]
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            channels = out_channels
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.out_proj = scaled(nn.Linear(channels * height * width, d_model), math.sqrt(2))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor) -> Tensor:
        pictures = numbers(self.leaf, x).flatten(0, 1)
        if not self.leaf.channels_first:
            pictures = pictures.movedim(-1, 1)
        return self.norm(self.out_proj(self.convolutions(pictures))).unflatten(0, x.shape[:2])


def numbers(leaf: Leaf, x: Tensor) -> Tensor:
    """x as float32; bytes of pictures scaled to [0, 1]."""
    return x.float() / 255 if leaf.dtype == torch.uint8 else x.float()


def scaled(module: Layer, gain: float) -> Layer:
    """`module` with orthogonal weights of that gain and no bias at the start."""
    nn.init.orthogonal_(module.weight, gain)
    assert module.bias is not None
    nn.init.zeros_(module.bias)
    return module


def _input(leaf: Leaf, d_model: int) -> nn.Module:
    if leaf.kind == "image":
        return _Image(leaf, d_model)
    if leaf.kind == "categories":
        return _Categories(leaf.counts, d_model)
    # Each unit's weights have norm sqrt(2), as orthogonal ones have for an input as wide as the model. For two numbers
    # those would be near 0 beside the bias, and all observations would look alike.
    linear = nn.Linear(leaf.shape[0], d_model)
    nn.init.normal_(linear.weight, std=math.sqrt(2 / leaf.shape[0]))
    # An observation of zeros must not become a vector of zeros: the memory's layer norms would magnify its gradient.
    nn.init.normal_(linear.bias, std=0.5)
    return linear
