"""Resets of an embedding: the definition, the torch path and the kernel write the same bits, whatever the sharding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memarch.ops import embedding_reset, embedding_reset_reference

pytest.importorskip("memarch_kernels.embedding_reset", reason="needs triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALVES = [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
"""The interpreter stores bfloat16 without rounding it as a GPU does."""


def tensors(num_rows: int, num_columns: int, half: torch.dtype, device: str) -> list[torch.Tensor]:
    torch.manual_seed(1)
    weight, first, second = (torch.randn(num_rows, num_columns) for _ in range(3))
    return [t.to(device) for t in (weight, first, second, weight.to(half))]


def reset(fn, num_rows, num_columns, half, device="cpu", keep=None, **options):
    weight, first, second, copy = tensors(num_rows, num_columns, half, device)
    pointers = [t.data_ptr() for t in (weight, first, second, copy)]
    fn(
        weight,
        std=0.02,
        keep=None if keep is None else keep.to(device),
        moments=(first, second),
        copies=(copy,),
        **{"seed": 3, "step": 9} | options,
    )
    assert [t.data_ptr() for t in (weight, first, second, copy)] == pointers
    return [t.cpu() for t in (weight, first, second, copy)]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("seed, step", [(3, 9), ((1 << 64) - 1, (1 << 56) - 1)])
@pytest.mark.parametrize("num_rows, num_columns", [(1, 1), (9, 4), (37, 19), (5, 300)])
def test_all_paths_write_the_same_bits(num_rows, num_columns, seed, step, half):
    keep = torch.rand(num_rows) < 0.3
    place = {"seed": seed, "step": step, "first_row": 11, "first_column": 8, "keep": keep}
    expected = reset(embedding_reset_reference, num_rows, num_columns, half, **place)
    for backend, device in [("torch", "cpu"), ("torch", DEVICE), ("triton", DEVICE)]:
        found = reset(embedding_reset, num_rows, num_columns, half, device, backend=backend, **place)
        for name, a, b in zip(("weight", "exp_avg", "exp_avg_sq", "copy"), found, expected, strict=True):
            assert torch.equal(a, b), (backend, device, name)


def test_what_is_written():
    keep = torch.tensor([True, False] * 50)
    before = tensors(100, 64, torch.float16, "cpu")
    weight, first, second, copy = reset(embedding_reset, 100, 64, torch.float16, keep=keep)
    for now, then in zip((weight, first, second, copy), before, strict=True):
        assert torch.equal(now[keep], then[keep])
    assert not first[~keep].any() and not second[~keep].any()
    assert torch.equal(copy[~keep], weight[~keep].half())
    assert 0.019 < weight[~keep].std() < 0.021


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_any_sharding_writes_what_one_rank_would(backend):
    whole = torch.zeros(12, 24, device=DEVICE)
    embedding_reset(whole, std=1.0, seed=5, step=2, backend=backend)
    parts = torch.zeros(12, 24, device=DEVICE)
    for rows, columns in [((0, 5), (0, 8)), ((0, 5), (8, 24)), ((5, 12), (0, 12)), ((5, 12), (12, 24))]:
        shard = parts[slice(*rows), slice(*columns)]
        embedding_reset(shard, std=1.0, seed=5, step=2, first_row=rows[0], first_column=columns[0], backend=backend)
    assert torch.equal(parts, whole)


def test_a_parameter_is_changed_in_place_and_outside_of_autograd():
    weight = torch.nn.Parameter(torch.zeros(4, 8))
    tied = weight
    embedding_reset(weight, std=1.0, seed=0, step=0)
    assert tied is weight and weight.grad_fn is None and weight.requires_grad and weight.abs().min() > 0


GOOD = {"std": 1.0, "seed": 0, "step": 0}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"std": -1.0}, "std must be finite and at least 0; got -1.0"),
        ({"std": float("nan")}, "std must be finite"),
        ({"seed": -1}, r"seed must be in \[0, 2\^64\); got -1"),
        ({"step": 1 << 56}, r"step must be in \[0, 2\^56\)"),
        ({"keep": torch.zeros(4)}, r"keep must be bool \[4\]; got torch.float32 \[4\]"),
        ({"keep": torch.zeros(5, dtype=torch.bool)}, r"keep must be bool \[4\]; got torch.bool \[5\]"),
        ({"moments": (torch.zeros(4, 7),)}, r"moments must be floating-point \[4, 8\] like weight"),
        ({"copies": (torch.zeros(4, 8, dtype=torch.int64),)}, "copies must be floating-point"),
        ({"first_column": 2}, "first_column must be a multiple of 4, at least 0; got 2"),
        ({"first_row": -1}, "first_row=-1"),
        ({"backend": "fast"}, "backend must be one of"),
    ],
)
def test_bad_input_changes_nothing(options, message):
    weight = torch.zeros(4, 8)
    for fn in (embedding_reset, embedding_reset_reference):
        if "backend" in options and fn is embedding_reset_reference:
            continue
        with pytest.raises(ValueError, match=message):
            fn(weight, **GOOD | options)
    assert not weight.any()


def test_a_weight_of_integers_or_of_one_dimension_is_refused():
    for weight in (torch.zeros(4, 8, dtype=torch.int64), torch.zeros(4)):
        with pytest.raises(ValueError, match=r"weight must be a floating-point \[V, D\]"):
            embedding_reset(weight, **GOOD)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_machine_code_neither_fuses_nor_spills(target):
    """Same bits on a GPU: nothing but the correctly rounded square root may use fused multiply-adds (19 of them)."""
    root = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(root / "kernels")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).parent / "_embedding_compile.py", target],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["kernel"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {"_reset", "_lookup"}
    for row in rows.values():
        assert (row["error"], row["spills"]) == ("", 0)
        assert row["additions"] > 200 and row["fused"] < 40
