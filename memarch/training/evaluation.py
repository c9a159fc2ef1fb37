"""How well a language model predicts held-out text: bits per byte, and perplexity per token."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from memarch.data.batches import validation_windows
from memarch.models import MemoryLMForCausalLM


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        loss: mean nats per token.
        perplexity: exp(loss), per token: comparable between models with the same tokenizer only.
        bits_per_byte: bits per byte of text: comparable between any tokenizers.
        num_tokens: tokens predicted.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    num_tokens: int


@torch.no_grad()
def evaluate(
    model: MemoryLMForCausalLM,
    tokens: Tensor,
    bytes_per_token: Tensor,
    *,
    seq_len: int,
    batch_size: int,
    max_tokens: int | None = None,
) -> Evaluation:
    """Predict `tokens` in windows of `seq_len`, each from an empty memory.

    Args:
        model: on any device.
        tokens: `[N]` held-out stream.
        bytes_per_token: `[V]` bytes that each token stands for.
        seq_len: tokens per window.
        batch_size: windows at a time.
        max_tokens: stop after this many (at least one window); None for all.

    Raises:
        ValueError: fewer than two tokens.
    """
    inputs, targets = validation_windows(tokens, seq_len=seq_len)
    if max_tokens is not None:
        count = max(1, max_tokens // inputs.shape[1])
        inputs, targets = inputs[:count], targets[:count]
    device = next(model.parameters()).device
    nats = 0.0
    for x, y in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
        logits = model(x.to(device)).logits
        nats += F.cross_entropy(logits.flatten(0, 1).float(), y.flatten().to(device), reduction="sum").item()
    loss = nats / targets.numel()
    num_bytes = int(bytes_per_token[targets].sum())
    perplexity = math.exp(loss) if loss < 700 else math.inf
    return Evaluation(loss, perplexity, nats / math.log(2) / num_bytes, targets.numel())
