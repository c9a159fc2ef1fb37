"""The models of the Miras paper's Table 1 by name, each a point of the framework (arXiv 2504.13173).

A point is a rule and its gates; convolution, normalisation and output are those of `Miras` for all of them, so that
they differ in the memory alone.
"""

from __future__ import annotations

from memarch.ops import (
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

from .miras import Decay, Gates, Miras, Step

_POINTS: dict[str, tuple[MirasRule, Decay, Step, Gates]] = {
    "moneta": (MONETA, "data", "data", "channel"),
    "yaad": (YAAD.replace(huber="norm"), "data", "data", "channel"),
    "memora": (MEMORA, "data", "data", "channel"),
    "l2-memory": (MirasRule(), "data", "data", "channel"),
    "linear-attention": (LINEAR_ATTENTION, "none", "one", "head"),
    "retnet": (RETNET, "fixed", "one", "head"),
    "gla": (GLA, "data", "one", "channel"),
    "deltanet": (DELTANET, "none", "data", "head"),
    "gated-deltanet": (GATED_DELTANET, "data", "data", "head"),
    "ttt-linear": (TTT_LINEAR, "none", "data", "head"),
    "ttt-mlp": (TTT_MLP, "none", "data", "head"),
    "titans-lmm": (TITANS_LMM, "data", "data", "head"),
    "elastic-net": (ELASTIC_NET, "data", "data", "channel"),
    "f-divergence": (F_DIVERGENCE, "data", "data", "channel"),
    "sigmoid-bregman": (SIGMOID_BREGMAN, "data", "data", "channel"),
}
MIRAS_POINTS = tuple(_POINTS)
"""Names that `miras_point` builds: the models of the paper's Table 1 inside this layer."""


def miras_point(name: str, d_model: int, num_heads: int, *, head_dim: int | None = None, chunk_size: int = 16) -> Miras:
    """A named model of the framework as a layer (its recurrence and gates, in this layer's convolution and output).

    Raises: ValueError for a name that is not in `MIRAS_POINTS`.
    """
    if name not in _POINTS:
        raise ValueError(f"no Miras point is called {name!r}; there are: {', '.join(MIRAS_POINTS)}")
    rule, decay, step, gates = _POINTS[name]
    return Miras(
        d_model,
        num_heads,
        rule=rule,
        head_dim=head_dim,
        chunk_size=chunk_size,
        gates=gates,
        decay=decay,
        step=step,
    )
