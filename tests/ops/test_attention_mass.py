"""attention_mass against its reference: groups of heads, padding, excluded slots, each row's own queries."""

from __future__ import annotations

import math

import pytest
import torch

from memarch.ops import attention_mass, attention_mass_reference
from memarch.testing import assert_close, relative_rms

from ._attention_mass_cases import SIZES, case


@pytest.mark.parametrize("heads, key_heads", [(3, 3), (6, 2), (5, 1)])
@pytest.mark.parametrize("peaked", [False, True], ids=["even", "peaked"])
def test_equals_the_reference(heads, key_heads, peaked):
    inputs = case(**SIZES | {"num_heads": heads, "num_key_heads": key_heads}, peaked=peaked)
    mass = attention_mass(**inputs, backend="torch")
    assert mass.dtype == torch.float32
    assert_close(mass, attention_mass_reference(**inputs), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keys(dtype):
    inputs = case(**SIZES, dtype=dtype)
    assert_close(attention_mass(**inputs, backend="torch"), attention_mass_reference(**inputs), rtol=1e-5)


def test_by_hand():
    """One head, two queries: the first sees slot 0 only; the second sees both, at odds exp(log 3) to 1."""
    queries = torch.tensor([1.0, 1.0]).view(1, 1, 2, 1, 1)
    keys = [torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1)]
    mass = attention_mass(queries, keys, scale=1.0, query_slots=torch.tensor([[0, 1]]))
    assert torch.allclose(mass, torch.tensor([[[(1 + 0.75) / 2, 0.25 / 2]]]))


def test_rows_sum_to_one():
    inputs = case(**SIZES) | {"exclude": None}
    assert torch.allclose(attention_mass(**inputs).sum(-1), torch.ones(()), atol=1e-5)


def test_what_nobody_sees_may_hold_anything():
    inputs = case(**SIZES)
    expected = attention_mass(**inputs)
    for key in inputs["keys"]:
        key.masked_fill_(~inputs["valid"][..., None, None], torch.inf)
    last = int(inputs["query_slots"].max())
    for key in inputs["keys"]:
        key[:, last + 1 :] = torch.nan
    assert torch.equal(attention_mass(**inputs), expected)


def test_a_row_without_queries_has_no_mass():
    inputs = case(**SIZES)
    inputs["query_slots"][0] = -1
    for key in inputs["keys"]:
        key[0] = torch.nan
        key[1, 0] = torch.nan
    inputs["valid"][1, 0] = False
    mass = attention_mass(**inputs)
    assert mass[:, 0].eq(0).all() and mass[:, 1].sum() > 0
    assert relative_rms(mass, attention_mass_reference(**inputs)) < 1e-5


def test_rows_do_not_touch_each_other():
    inputs = case(**SIZES)
    whole = attention_mass(**inputs)
    for b in range(SIZES["batch_size"]):
        one = {name: x[b : b + 1] for name, x in inputs.items() if name in ("query_slots", "valid", "exclude")}
        alone = attention_mass(
            inputs["queries"][:, b : b + 1], [k[b : b + 1] for k in inputs["keys"]], scale=inputs["scale"], **one
        )
        assert_close(whole[:, b : b + 1], alone, rtol=1e-6)


def test_empty():
    inputs = case(**SIZES | {"num_queries": 0})
    assert attention_mass(**inputs).eq(0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": torch.zeros(2, 3)}, r"queries must be a floating-point \[L, B, R, H, D\]; got"),
        ({"keys": []}, "one tensor per layer of queries, 3; got 0"),
        ({"query_slots": torch.zeros(2, 5)}, r"query_slots must be int64 \[B=2, R=5\]; got torch.float32"),
        ({"valid": torch.ones(2, 3, dtype=torch.bool)}, r"valid must be bool \[B=2, T=23\]"),
        ({"exclude": torch.ones(2, 23)}, "exclude must be bool"),
        ({"backend": "cuda"}, "backend must be one of"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        attention_mass(**case(**SIZES) | change)


def test_bad_keys():
    inputs = case(**SIZES)
    with pytest.raises(ValueError, match=r"keys\[1\] must be \[B=2, T, G, D=7\]"):
        attention_mass(**inputs | {"keys": [k[..., :5] if i == 1 else k for i, k in enumerate(inputs["keys"])]})
    with pytest.raises(ValueError, match=r"keys\[0\] must be torch.float32 on cpu like queries; got torch.float64"):
        attention_mass(**inputs | {"keys": [k.double() for k in inputs["keys"]]})
    with pytest.raises(ValueError, match="multiple of key heads; got 6 and 4"):
        attention_mass(**inputs | {"keys": [torch.zeros(2, 23, 4, 7)] * 3})
