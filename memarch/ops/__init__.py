"""Operators: pure functions on tensors. `<op>_reference` defines the meaning, `<op>` is the fast one."""

from ._chunk_attention_inputs import ChunkAttentionWeights
from ._miras_rule import (
    DELTANET,
    ELASTIC_NET,
    F_DIVERGENCE,
    GATED_DELTANET,
    GLA,
    LINEAR_ATTENTION,
    MEMORA,
    MONETA,
    RETNET,
    SIGMOID_BREGMAN,
    TITANS_LMM,
    TTT_LINEAR,
    TTT_MLP,
    YAAD,
    MirasRule,
)
from ._miras_state import MirasState
from .attention_mass import attention_mass, attention_mass_reference
from .cache_rewrite import cache_add, cache_add_reference, cache_gather, cache_gather_reference
from .chunk_attention import chunk_attention, chunk_attention_reference
from .embedding_reset import embedding_reset, embedding_reset_reference
from .embedding_substitute import (
    embedding_substitute,
    embedding_substitute_reference,
    substitute_logits,
    substitute_logits_reference,
    substitute_rows,
    substituted_tokens,
)
from .miras import miras_memory, miras_memory_reference
from .miras_step import decoding_state, miras_step, miras_step_reference

__all__ = [
    "DELTANET",
    "ELASTIC_NET",
    "F_DIVERGENCE",
    "GATED_DELTANET",
    "GLA",
    "LINEAR_ATTENTION",
    "MEMORA",
    "MONETA",
    "RETNET",
    "SIGMOID_BREGMAN",
    "TITANS_LMM",
    "TTT_LINEAR",
    "TTT_MLP",
    "YAAD",
    "ChunkAttentionWeights",
    "MirasRule",
    "MirasState",
    "attention_mass",
    "attention_mass_reference",
    "cache_add",
    "cache_add_reference",
    "cache_gather",
    "cache_gather_reference",
    "chunk_attention",
    "chunk_attention_reference",
    "decoding_state",
    "embedding_reset",
    "embedding_reset_reference",
    "embedding_substitute",
    "embedding_substitute_reference",
    "miras_memory",
    "miras_memory_reference",
    "miras_step",
    "miras_step_reference",
    "substitute_logits",
    "substitute_logits_reference",
    "substitute_rows",
    "substituted_tokens",
]
