"""Models in the style of transformers: a config, a body, a causal language model."""

from .memory_lm import (
    MemoryLMForCausalLM,
    MemoryLMModel,
    MemoryLMOutput,
    MemoryLMState,
    count_parameters,
    match_num_parameters,
)
from .memory_lm_config import MemoryLMConfig

__all__ = [
    "MemoryLMConfig",
    "MemoryLMForCausalLM",
    "MemoryLMModel",
    "MemoryLMOutput",
    "MemoryLMState",
    "count_parameters",
    "match_num_parameters",
]
