"""Batches of contiguous pieces of one long token stream, in a seeded order that can be stopped and taken up again.

B batch, T time.
"""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor


class BatchState(TypedDict):
    """Where a `TextBatches` stands: epochs finished and pieces read of the current one."""

    epoch: int
    index: int


class TextBatches:
    """Endless training batches: each epoch reads every piece of the stream once, in a new order and from a new offset.

    Args:
        tokens: `[N]` int64, the whole stream.
        batch_size: pieces per batch (B).
        seq_len: tokens per piece (T).
        seed: of order and offset; the batches are a function of seed and state alone.

    Raises:
        ValueError: a size below 1, or a stream shorter than one batch.
    """

    def __init__(self, tokens: Tensor, *, batch_size: int, seq_len: int, seed: int) -> None:
        if batch_size < 1 or seq_len < 1:
            raise ValueError(f"batch_size and seq_len must be at least 1; got {batch_size} and {seq_len}")
        # One piece's length is given up to the moving offset and the last target.
        needed = (batch_size + 1) * seq_len
        if tokens.numel() < needed:
            raise ValueError(
                f"the training text has {tokens.numel():,} tokens, but batches of {batch_size} x {seq_len} need "
                f"at least {needed:,}: give more text, or lower the batch size or the sequence length"
            )
        self.tokens, self.batch_size, self.seq_len, self.seed = tokens, batch_size, seq_len, seed
        self._epoch, self._index = 0, 0
        self._start_epoch()

    @property
    def batches_per_epoch(self) -> int:
        """Full batches in one pass over the stream."""
        return (self.tokens.numel() - self.seq_len) // self.seq_len // self.batch_size

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batch: inputs `[B, T]` and, for each, the token that follows it `[B, T]`."""
        if self._index + self.batch_size > self.batches_per_epoch * self.batch_size:
            self._epoch, self._index = self._epoch + 1, 0
            self._start_epoch()
        pieces = self._order[self._index : self._index + self.batch_size]
        self._index += self.batch_size
        at = self._offset + pieces[:, None] * self.seq_len + torch.arange(self.seq_len + 1)
        piece = self.tokens[at]
        return piece[:, :-1], piece[:, 1:]

    def state(self) -> BatchState:
        """What `restore` needs to go on with the batch after the last one."""
        return {"epoch": self._epoch, "index": self._index}

    def restore(self, state: BatchState) -> None:
        """Go on where `state()` was taken, on the same tokens, sizes and seed.

        Raises:
            ValueError: a position that this stream does not have.
        """
        epoch, index = state["epoch"], state["index"]
        if epoch < 0 or not 0 <= index <= self.batches_per_epoch * self.batch_size or index % self.batch_size:
            raise ValueError(
                f"position {dict(state)} does not exist in this text with batches of {self.batch_size} x "
                f"{self.seq_len}: resume with the text and sizes that the training began with"
            )
        self._epoch, self._index = epoch, index
        self._start_epoch()

    def _start_epoch(self) -> None:
        # int64 arithmetic of manual_seed wraps; distinct epochs get distinct streams.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._epoch)
        self._offset = int(torch.randint(0, self.seq_len, (), generator=generator))
        self._order = torch.randperm(self.batches_per_epoch * self.batch_size, generator=generator)


def validation_windows(tokens: Tensor, *, seq_len: int) -> tuple[Tensor, Tensor]:
    """All whole pieces of the stream, in order: inputs `[N, T]` and targets `[N, T]`; T shrinks for a short stream.

    Raises:
        ValueError: fewer than two tokens.
    """
    if tokens.numel() < 2:
        raise ValueError(f"the validation text has {tokens.numel()} tokens; expected at least 2: give more text")
    seq_len = min(seq_len, tokens.numel() - 1)
    count = (tokens.numel() - 1) // seq_len
    return tokens[: count * seq_len].view(count, seq_len), tokens[1 : count * seq_len + 1].view(count, seq_len)
