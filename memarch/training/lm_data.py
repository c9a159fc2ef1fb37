"""A text made ready for a language model: tokenizer, training and validation tokens, and what identifies the text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from memarch.data import TextSource, Tokenizer, split_text, train_tokenizer


@dataclass(frozen=True)
class LMData:
    """What an `LMTrainer` trains on.

    Attributes:
        source: where the text comes from, and its licence, in words.
        digest: SHA-256 of the text; a resumed training must see the same.
        tokenizer: learned from the training part only.
        train: `[N]` int64.
        validation: `[M]` int64, the text's last tenth.
        bytes_per_token: `[V]` int64.
    """

    source: str
    digest: str
    tokenizer: Tokenizer
    train: Tensor
    validation: Tensor
    bytes_per_token: Tensor


def prepare_text(source: TextSource, *, tokenizer: str | Tokenizer = "bpe", vocab_size: int = 1024) -> LMData:
    """Split and encode a text.

    Args:
        source: the text.
        tokenizer: "byte", "bpe" (trained here), or one that exists already.
        vocab_size: of a new bpe tokenizer.

    Raises:
        ImportError: "bpe" without the package tokenizers.
        ValueError: a text too short to split, or an unknown tokenizer.
    """
    train, validation = split_text(source.text)
    if isinstance(tokenizer, str):
        tokenizer = train_tokenizer(tokenizer, train, vocab_size=vocab_size)
    return LMData(
        source=f"{source.name} ({source.licence})",
        digest=hashlib.sha256(source.text.encode("utf-8")).hexdigest(),
        tokenizer=tokenizer,
        train=torch.tensor(tokenizer.encode(train), dtype=torch.int64),
        validation=torch.tensor(tokenizer.encode(validation), dtype=torch.int64),
        bytes_per_token=torch.tensor([len(tokenizer.token_bytes(t)) for t in range(tokenizer.vocab_size)]),
    )
