"""The named points: what each is made of. How they behave is tested in test_miras.py, for every name."""

from __future__ import annotations

from memarch.layers import MIRAS_POINTS, miras_point
from memarch.ops import MirasRule

MADE_OF = {
    "linear-attention": ("dot", "matrix", "none", "one"),
    "retnet": ("dot", "matrix", "fixed", "one"),
    "gla": ("dot", "matrix", "data", "one"),
    "deltanet": ("l2", "matrix", "none", "data"),
    "gated-deltanet": ("l2", "matrix", "data", "data"),
    "ttt-linear": ("l2", "matrix", "none", "data"),
    "ttt-mlp": ("l2", "mlp", "none", "data"),
    "titans-lmm": ("l2", "mlp", "data", "data"),
    "moneta": ("lp", "mlp", "data", "data"),
    "yaad": ("huber", "mlp", "data", "data"),
    "memora": ("l2", "mlp", "data", "data"),
    "l2-memory": ("l2", "mlp", "data", "data"),
    "elastic-net": ("l2", "mlp", "data", "data"),
    "f-divergence": ("l2", "mlp", "data", "data"),
    "sigmoid-bregman": ("l2", "mlp", "data", "data"),
}


def test_every_point_is_what_the_table_says():
    built = {name: miras_point(name, 16, 2) for name in MIRAS_POINTS}
    assert {n: (m.rule.bias, m.rule.memory, m.decay, m.step) for n, m in built.items()} == MADE_OF
    links = {n: m.rule.link for n, m in built.items() if m.rule.link != "identity"}
    assert links == {
        "moneta": "lq",
        "memora": "softmax",
        "elastic-net": "soft_threshold",
        "f-divergence": "f_divergence",
        "sigmoid-bregman": "sigmoid",
    }
    assert built["titans-lmm"].rule.momentum and built["l2-memory"].rule == MirasRule()
    assert built["gated-deltanet"].rule.gradient_at == "token" and built["ttt-linear"].rule.gradient_at == "chunk"


def test_sizes_are_passed_on():
    layer = miras_point("yaad", 16, 2, head_dim=5, chunk_size=7)
    assert (layer.head_dim, layer.chunk_size) == (5, 7)
