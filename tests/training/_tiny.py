"""A training small enough for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from memarch.data import TextSource
from memarch.models import MemoryLMConfig, MemoryLMForCausalLM
from memarch.training import LMData, LMSettings, LMTrainer, TrainerCallback, prepare_text

TEXT = "".join(f"The cat number {i} sat on the mat number {i * i % 17}.\n" for i in range(150))


def tiny_data(text: str = TEXT) -> LMData:
    """`TEXT` under a small bpe tokenizer."""
    return prepare_text(TextSource(text, "cats", "CC0"), tokenizer="bpe", vocab_size=270)


def tiny_model(mixer: str = "attention", seed: int = 0, **options: Any) -> MemoryLMForCausalLM:
    """One that fits `tiny_data`."""
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "num_layers": 2, "num_heads": 2, "mlp_dim": 16, "chunk_size": 4, "tokenizer": "bpe"}
    return MemoryLMForCausalLM(MemoryLMConfig(270, mixer=mixer, **{**sizes, **options}))


def tiny_trainer(
    out_dir: Path | None, *, mixer: str = "attention", callbacks: Sequence[TrainerCallback] = (), **settings: Any
) -> LMTrainer:
    """Ten steps of it."""
    options = {"num_steps": 10, "batch_size": 2, "seq_len": 12, "warmup_steps": 3, "max_eval_tokens": 100}
    return LMTrainer(
        tiny_model(mixer),
        tiny_data(),
        LMSettings(**{**options, **settings}),
        out_dir=out_dir,
        callbacks=callbacks,
        notes={"who": "test"},
    )
