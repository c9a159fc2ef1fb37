"""Operators: pure functions on tensors. `<op>_reference` defines the meaning, `<op>` is the fast one."""

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
    "MirasRule",
    "MirasState",
    "decoding_state",
    "miras_memory",
    "miras_memory_reference",
    "miras_step",
    "miras_step_reference",
]
