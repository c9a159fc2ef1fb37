"""The Triton kernel of attention_mass: relative errors, also where one entry has nearly all mass, the rest little."""

from __future__ import annotations

import pytest
import torch

from memarch.ops import attention_mass, attention_mass_reference
from memarch.testing import assert_close, relative_rms

from ._attention_mass_cases import SIZES, case
from ._triton_compile import compiled

kernels = pytest.importorskip("memarch_kernels.attention_mass", reason="needs triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = SIZES | {"num_layers": 2, "num_queries": 3, "length": 41}


@pytest.fixture(autouse=True)
def several_tiles(monkeypatch):
    """Tiles of 16 slots and 16 queries, so that 41 slots take three and most cases several of queries."""
    real = kernels.launch
    monkeypatch.setattr(kernels, "launch", lambda *a: real(*a) | {"BT": 16, "BM": 16})


def check(inputs, rtol):
    ours = attention_mass(**inputs, backend="triton")
    expected = attention_mass_reference(**inputs)
    assert_close(ours, expected, rtol=rtol)
    # Each mass by itself: an absolute tolerance would pass whatever the small ones are.
    some = expected > 1e-12
    assert ((ours - expected).abs()[some] <= 50 * rtol * expected[some]).all()
    assert ours[~some].abs().max() < 1e-9 if (~some).any() else True


@pytest.mark.parametrize("group", [1, 3, 4, 8])
@pytest.mark.parametrize("peaked", [False, True], ids=["even", "peaked"])
def test_groups_of_query_heads(group, peaked):
    check(case(**SMALL | {"num_heads": 2 * group}, peaked=peaked, device=DEVICE), 2e-6)


@pytest.mark.parametrize("head_dim", [64, 96, 128])
def test_head_widths_on_peaked_attention(head_dim):
    inputs = case(**SMALL | {"head_dim": head_dim}, peaked=True, device=DEVICE)
    check(inputs, 2e-6)
    # Every part of the head counts: without its last quarter the masses are others.
    part = inputs | {"queries": inputs["queries"].clone()}
    part["queries"][..., head_dim * 3 // 4 :] = 0
    whole = attention_mass(**inputs, backend="triton")
    assert relative_rms(attention_mass(**part, backend="triton"), whole) > 0.1


def test_half_precision():
    check(case(**SMALL, dtype=torch.float16, device=DEVICE), 1e-4)


def test_without_masks_and_with_rows_that_ask_nothing():
    inputs = case(**SMALL, device=DEVICE) | {"valid": None, "exclude": None}
    check(inputs, 2e-6)
    inputs["query_slots"][0] = -1
    mass = attention_mass(**inputs, backend="triton")
    assert mass[:, 0].eq(0).all() and mass[:, 1].sum() > 0


def test_what_nobody_sees_is_not_read():
    inputs = case(**SMALL, device=DEVICE)
    expected = attention_mass(**inputs, backend="triton")
    for key in inputs["keys"]:
        key.masked_fill_(~inputs["valid"][..., None, None], torch.nan)
        key[:, int(inputs["query_slots"].max()) + 1 :] = torch.nan
    assert torch.equal(attention_mass(**inputs, backend="triton"), expected)


def test_more_slots_than_are_filled():
    """A StaticCache: the filled slots are a view of longer tensors."""
    inputs = case(**SMALL, device=DEVICE)
    padded = [torch.nn.functional.pad(k.transpose(1, 2), (0, 0, 0, 8), value=torch.nan) for k in inputs["keys"]]
    views = [k[:, :, :41].transpose(1, 2) for k in padded]
    ours = attention_mass(**inputs | {"keys": views}, backend="triton")
    assert torch.equal(ours, attention_mass(**inputs, backend="triton"))


def test_the_same_in_every_run():
    inputs = case(**SMALL, device=DEVICE)
    assert torch.equal(attention_mass(**inputs, backend="triton"), attention_mass(**inputs, backend="triton"))


def test_refusals_and_automatic_choice():
    inputs = case(**SMALL, device=DEVICE)
    with pytest.raises(ValueError, match="equal strides"):
        keys = [inputs["keys"][0], inputs["keys"][1].contiguous()]
        attention_mass(**inputs | {"keys": keys}, backend="triton")
    wide = case(**SMALL | {"head_dim": 258}, device=DEVICE)
    with pytest.raises(ValueError, match="head widths up to 256; got 258"):
        attention_mass(**wide, backend="triton")
    double = inputs | {"queries": inputs["queries"].double(), "keys": [k.double() for k in inputs["keys"]]}
    with pytest.raises(ValueError, match="float32, bfloat16 and float16, not torch.float64"):
        attention_mass(**double, backend="triton")


CALL = """queries = torch.empty(4, 2, 20, 9, width, dtype=kind, device="meta")
        slots = torch.empty(2, 20, dtype=torch.int64, device="meta")
        mask = torch.empty(2, 999, dtype=torch.bool, device="meta")
        kernels.mass(queries, layers, 0.1, slots, mask, mask)"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_compiles_without_spills(target):
    assert compiled("attention_mass", target, CALL) == "attention_masses attention_sums 6"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [64, 96, 128])
def test_on_a_gpu(head_dim, dtype, monkeypatch):
    monkeypatch.undo()
    sizes = {"num_layers": 4, "num_queries": 40, "length": 999, "num_heads": 9, "num_key_heads": 3}
    inputs = case(**SIZES | sizes | {"head_dim": head_dim}, peaked=True, dtype=dtype, device="cuda")
    host = {
        name: x.cpu() if torch.is_tensor(x) else [k.cpu() for k in x] if isinstance(x, list) else x
        for name, x in inputs.items()
    }
    expected = attention_mass(**host, backend="torch")
    assert_close(attention_mass(**inputs), expected, rtol=2e-4 if dtype == torch.float32 else 2e-3)
    assert torch.equal(attention_mass(**inputs), attention_mass(**inputs))
