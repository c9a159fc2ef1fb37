"""Tiny models with tied and untied heads, and a plain training loop."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

VOCAB, DIM = 23, 8


class TinyLM(nn.Module):
    """Bag of the past: enough of a language model for an optimiser to have something to do."""

    def __init__(self, *, tied: bool = True, padding_idx: int | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, DIM, padding_idx=padding_idx)
        self.body = nn.Linear(DIM, DIM)
        self.head = nn.Linear(DIM, VOCAB)
        if tied:
            self.head.weight = self.embed.weight

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        mean = x.cumsum(1) / torch.arange(1, ids.shape[1] + 1).view(1, -1, 1)
        return self.head(torch.tanh(self.body(mean)))


def batch(step: int, size: int = 6) -> torch.Tensor:
    return torch.randint(0, VOCAB, (size, 7), generator=torch.Generator().manual_seed(step))


def loss_of(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    logits = model(ids)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def tiny(**options: object) -> TinyLM:
    torch.manual_seed(4)
    return TinyLM(**options)


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
