"""Tiny random models of the Llama family, and a tokenizer of characters, many of them newlines."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from memarch.cache import CacheProcessor

VOCAB, NEWLINES = 37, tuple(range(3, 13))
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 29,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
KINDS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "llama3-rope": (
        LlamaForCausalLM,
        LlamaConfig,
        {
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "yarn": (
        LlamaForCausalLM,
        LlamaConfig,
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 500.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"num_key_value_heads": 4}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 10}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": None}),
}


class Characters:
    """As much of a tokenizer as triggers need."""

    def __len__(self) -> int:
        return VOCAB - 2

    def batch_decode(self, ids: list[list[int]], **options: Any) -> list[str]:
        """Texts; some of them have a newline."""
        return ["\n" if i in NEWLINES else chr(97 + i % 26) for (i,) in ids]


def make_model(kind: str = "llama", *, seed: int = 0, **options: Any) -> Any:
    """In evaluation mode, weights large enough to have opinions."""
    torch.manual_seed(seed)
    model_class, config_class, own = KINDS[kind]
    model = model_class(config_class(**{**SIZES, **own, **options})).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 2:
                p.mul_(8.0)
    return model


def make_processor(model: Any, *, active: bool = True, seed: int = 1, **options: Any) -> CacheProcessor:
    """A small one; active: its changes are as large as the entries, not zero."""
    torch.manual_seed(seed)
    processor = CacheProcessor(model.config, **{"processor_dim": 12, "mlp_dim": 19, "num_heads": 3, **options})
    if active:
        torch.nn.init.normal_(processor.w_out, std=0.3)
        torch.nn.init.normal_(processor.gate_logit)
    return processor.requires_grad_(False)


def prompts(*lengths: int, seed: int = 2) -> dict[str, torch.Tensor]:
    """Random prompts without newlines or special tokens, padded on the left to the longest."""
    g = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.randint(13, VOCAB - 2, (len(lengths), longest), generator=g)
    mask = torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]
    return {"input_ids": ids.masked_fill(~mask, 0), "attention_mask": mask.long()}
