"""The Triton kernels of cache_gather and cache_add against the references."""

from __future__ import annotations

import pytest
import torch

from memarch.ops import cache_add, cache_add_reference, cache_gather, cache_gather_reference
from memarch.testing import assert_close

from ._cache_rewrite_cases import BATCH, LAYERS, LENGTH, SELECTED, case, change_for
from ._triton_compile import compiled

kernels = pytest.importorskip("memarch_kernels.cache_rewrite", reason="needs triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def to(inputs, dtype):
    """Other precision, the layout of transformers kept."""
    return {
        name: [y.transpose(1, 2).to(dtype).transpose(1, 2) for y in x]
        if isinstance(x, list)
        else (x if name == "index" else x.to(dtype))
        for name, x in inputs.items()
    }


@pytest.mark.parametrize("num_heads, width", [(1, 64), (3, 96), (2, 128), (2, 6)])
@pytest.mark.parametrize("shared", [False, True], ids=["rows", "shared"])
def test_equal_the_references(num_heads, width, shared):
    sizes = {"num_heads": num_heads, "width": width, "scale": 1.3}
    exact = case(**sizes, shared=shared)
    inputs = to(case(**sizes, shared=shared, device=DEVICE), torch.float32)
    gathered = cache_gather(**inputs, backend="triton")
    assert_close(gathered, cache_gather_reference(**exact), rtol=1e-6)
    for parts in (2, 1):
        change, gate = change_for(parts, num_heads=num_heads, width=width)
        expected = cache_add_reference(**exact, change=change, gate=gate)
        inputs = to(case(**sizes, shared=shared, device=DEVICE), torch.float32)
        before = [x.clone() for x in inputs["keys"] + inputs["values"]]
        places = [x.data_ptr() for x in inputs["keys"] + inputs["values"]]
        keys, values = cache_add(
            **inputs, change=change.float().to(DEVICE), gate=gate.float().to(DEVICE), in_place=True, backend="triton"
        )
        assert [x.data_ptr() for x in keys + values] == places
        for now, old, want in zip(keys + values, before, expected[0] + expected[1], strict=True):
            assert_close(now, want, rtol=1e-6)
            untouched = torch.ones(BATCH, LENGTH, dtype=torch.bool)
            for layer in range(LAYERS):
                for row, slots in enumerate(exact["index"][layer]):
                    untouched[row, slots[slots >= 0]] = False
            assert torch.equal(now[untouched], old[untouched])
        if parts == 1:
            assert all(torch.equal(now, old) for now, old in zip(keys, before[:LAYERS], strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_exact_identity(dtype):
    inputs = case(dtype=dtype, width=64, device=DEVICE)
    ours, torchs = (cache_gather(**inputs, backend=backend) for backend in ("triton", "torch"))
    assert ours.dtype == dtype
    assert_close(ours, torchs, rtol=1e-6 if dtype == torch.float16 else 4e-3)  # the interpreter cuts bfloat16 off
    before = [x.clone() for x in inputs["keys"] + inputs["values"]]
    zero = torch.zeros(LAYERS, BATCH, SELECTED, 2 * 2 * 64, device=DEVICE)
    gate = torch.full((LAYERS,), 0.5, device=DEVICE)
    keys, values = cache_add(**inputs, change=zero, gate=gate, in_place=True, backend="triton")
    assert all(torch.equal(a, b) for a, b in zip(keys + values, before, strict=True))


def test_nothing_selected():
    inputs = to(case(device=DEVICE, width=64), torch.float32)
    inputs["index"] = inputs["index"][..., :0]
    assert cache_gather(**inputs, backend="triton").shape == (LAYERS, BATCH, 0, 256)
    empty = torch.zeros(LAYERS, BATCH, 0, 256, device=DEVICE)
    cache_add(**inputs, change=empty, gate=torch.ones(LAYERS, device=DEVICE), in_place=True, backend="triton")


def test_refusals():
    inputs = to(case(device=DEVICE, width=64), torch.float32)
    inputs["keys"] = [k.requires_grad_() for k in inputs["keys"]]
    with pytest.raises(ValueError, match="the kernels have no gradient"):
        cache_gather(**inputs, backend="triton")
    apart = to(case(device=DEVICE, width=64), torch.float32)
    apart["values"] = [v[..., 1:] for v in apart["values"]]
    apart["keys"] = [k[..., 1:] for k in apart["keys"]]
    with pytest.raises(ValueError, match="even width"):
        cache_gather(**apart, backend="triton")
    with pytest.raises(ValueError, match="not torch.float64"):
        cache_gather(**case(device=DEVICE), backend="triton")
    cut = to(case(device=DEVICE, width=64), torch.float32)
    for name in ("keys", "values"):
        cut[name] = [x[..., 2:] for x in cut[name]]
    cut["cos"], cut["sin"] = cut["cos"][..., 2:], cut["sin"][..., 2:]
    with pytest.raises(ValueError, match="multiple of 16 bytes"):
        cache_gather(**cut, backend="triton")


CALL = """index = torch.empty(4, 2, 52, dtype=torch.int64, device="meta")
        cos = torch.empty(2, 999, width, dtype=kind, device="meta")
        kernels.gather(layers, layers, index, cos, cos)
        for parts in (1, 2):
            change = torch.empty(4, 2, 52, parts * 3 * width, device="meta")
            kernels.add(layers, layers, index, change, torch.empty(4, device="meta"), cos, cos)"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_compiles_without_spills(target):
    assert compiled("cache_rewrite", target, CALL) == "add_entries gather_entries 9"


@pytest.mark.gpu
def test_automatic_choice_on_a_gpu(monkeypatch):
    calls = []
    for name in ("gather", "add"):
        real = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a, f=real: calls.append(1) or f(*a))
    inputs = case(dtype=torch.bfloat16, width=64, device="cuda")
    change = cache_gather(**inputs)
    cache_add(**inputs, change=change, gate=torch.ones(LAYERS, device="cuda"), in_place=True)
    assert len(calls) == 2
