"""The Triton kernels of `chunk_attention`: in the interpreter without a GPU, compiled with one, by the same tests."""

from __future__ import annotations

import csv
import importlib
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

import memarch
from memarch.ops import _chunk_attention_triton, chunk_attention, chunk_attention_reference
from memarch.testing import assert_close, relative_rms

from ._chunk_attention_cases import call, make, results, to

kernels = pytest.importorskip("memarch_kernels.chunk_attention", reason="needs triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FACTOR, FLOOR = 6.0, 3e-6
"""Errors against the float64 reference may be this multiple of the torch path's at the same dtype, or this small."""
FORMS = ("dense", "absorbed")
NOT_A_NUMBER = pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning")
"""numpy, which interprets the kernels, warns of inf - inf."""
SMALL = {"batch": 2, "time": 3, "num_chunks": 4}


@cache
def inputs(**sizes):
    """The case in float64."""
    return make(**{**SMALL, **sizes})


@cache
def expected(masks: bool = True, options: tuple = (), **sizes) -> dict[str, torch.Tensor]:
    """What the reference says of the case."""
    return results(chunk_attention_reference, case(masks, **sizes), stop_gradient=False, **dict(options))


def case(masks: bool, **sizes):
    """The case, with or without masks and bias."""
    i = inputs(**sizes)
    return i if masks else i._replace(visible=None, row_valid=None, router_bias=None)


def check(form: str, *, dtype=torch.float32, factor=FACTOR, floor=FLOOR, masks=True, sizes=None, **options) -> None:
    """Output and every gradient of the kernels against the float64 reference, beside the torch path's own error."""
    sizes = sizes or {}
    want = expected(masks, tuple(sorted(options.items())), **sizes)
    given = to(case(masks, **sizes), dtype, DEVICE)
    ours, torchs = (
        results(chunk_attention, given, form=form, backend=backend, stop_gradient=False, **options)
        for backend in ("triton", "torch")
    )
    wrong = []
    for name, exact in want.items():
        error, usual = relative_rms(ours[name], exact), relative_rms(torchs[name], exact)
        if not error <= factor * usual + floor:
            wrong.append(f"{name}: {error:.2e}, torch path {usual:.2e}")
    assert not wrong, "; ".join(wrong)


def launch_with(monkeypatch, name: str, **changes) -> None:
    launch = getattr(kernels, name)
    monkeypatch.setattr(kernels, name, lambda *a, **k: {**launch(*a, **k), **changes})


@pytest.mark.parametrize("form, normalize", [("dense", "top_k"), ("absorbed", "all")])
def test_output_and_every_gradient(form, normalize):
    check(form, normalize=normalize)


@pytest.mark.parametrize("form", FORMS)
def test_without_masks_and_more_chunks_wanted_than_there_are(form):
    check(form, masks=False, top_k=9, sizes={"batch": 1, "time": 2, "num_chunks": 2})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows, width, inner", [(16, 16, 32), (1, 17, 34)])
def test_sizes(form, rows, width, inner):
    """Exactly a tile, and no tile's multiple."""
    check(form, sizes={"batch": 1, "time": 2, "num_chunks": 4, "rows": rows, "width": width, "inner": inner}, top_k=2)


def test_several_tiles_of_queries(monkeypatch):
    """17 queries in tiles of 16, whose second one weighs no chunk but the first."""
    launch_with(monkeypatch, "dense_launch", BT=16)
    sizes = {"batch": 1, "time": 17, "num_chunks": 2}
    i = inputs(**sizes)
    i.visible[0, 16] = torch.tensor([True, False])
    i.row_valid[0, 0] = True
    check("dense", num_heads=1, sizes=sizes, top_k=2)


def test_several_tiles_of_heads():
    check("absorbed", num_heads=17, top_k=2, sizes={"batch": 1, "time": 2, "num_chunks": 3, "inner": 17})


def test_rows_in_slices(monkeypatch):
    """33 columns in slices of 16: twice through the memory, weights kept in between."""
    launch_with(monkeypatch, "sparse_launch", BS=16)
    launch_with(monkeypatch, "memory_launch", BS=16)
    check("absorbed", top_k=2, sizes={"time": 2, "num_chunks": 3, "width": 33})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_inputs(form, dtype, monkeypatch):
    """The interpreter multiplies bfloat16's bits as integers: there its products are float32's, on a GPU its own."""
    if DEVICE == "cpu" and dtype == torch.bfloat16:
        monkeypatch.setitem(kernels.OPERANDS, dtype, kernels.OPERANDS[torch.float32])
    check(form, dtype=dtype, floor=1e-3, sizes={"batch": 1, "num_chunks": 3})


@pytest.mark.parametrize("form", FORMS)
def test_no_visible_chunk_gives_exactly_zero_and_no_gradient(form):
    i = to(inputs(), torch.float32, DEVICE)
    y = call(chunk_attention, i, form=form, backend="triton")
    assert torch.all(y[-1, 2] == 0) and y[-1, 1].abs().sum() > 0
    leaves = [i.x, i.router_bias, *i.weights]
    grads = torch.autograd.grad(y[-1, 2].sum(), leaves, retain_graph=True)
    assert all(torch.all(g == 0) for g in grads)


@pytest.mark.parametrize("form", FORMS)
def test_what_nobody_sees_may_hold_anything_and_runs_repeat(form):
    i = to(inputs(batch=1), torch.float32, DEVICE)
    visible = i.visible.clone()
    visible[:, :, 3] = False
    i = i._replace(visible=visible)
    options = {"form": form, "backend": "triton", "stop_gradient": False}
    first = results(chunk_attention, i, **options)
    with torch.no_grad():
        i.contents[~i.row_valid] = float("nan")
        i.contents[:, 3], i.summaries[:, 3] = float("inf"), float("nan")
    for name, again in results(chunk_attention, i, **options).items():
        assert torch.equal(again, first[name]), name


@NOT_A_NUMBER
@pytest.mark.parametrize("form", FORMS)
def test_a_query_that_is_not_a_number_stays_alone(form):
    i = to(inputs(), torch.float32, DEVICE)
    with torch.no_grad():
        y = call(chunk_attention, i, form=form, backend="triton")
        i.x[0, 1] = float("nan")
        broken = call(chunk_attention, i, form=form, backend="triton")
    assert broken[0, 1].isnan().all()
    broken[0, 1] = y[0, 1]
    assert torch.equal(broken, y)


def test_equal_scores_take_the_lower_index():
    i = to(inputs(), torch.float32, DEVICE)._replace(visible=None, row_valid=None, router_bias=None)
    i = i._replace(summaries=torch.zeros_like(i.summaries))
    first = i._replace(summaries=i.summaries[:, :2], contents=i.contents[:, :2])
    for form in FORMS:
        both = (call(chunk_attention, z, form=form, backend="triton", top_k=2) for z in (i, first))
        assert torch.equal(*both)


def test_a_memory_without_gradients_takes_no_pass_for_them(monkeypatch):
    monkeypatch.setattr(kernels, "sparse_backward_memory", None)
    i = to(inputs(batch=1, time=1), torch.float32, DEVICE)._replace(visible=None)
    detached = results(chunk_attention, i, form="absorbed", backend="triton")
    assert detached["contents"].abs().sum() == 0 and detached["weights.key"].abs().sum() > 0
    with pytest.raises(TypeError, match="'NoneType' object is not subscriptable"):
        results(chunk_attention, i, form="absorbed", backend="triton", stop_gradient=False)


@pytest.mark.parametrize("form", FORMS)
def test_second_derivatives_are_refused(form):
    i = to(inputs(batch=1, time=1, num_chunks=2), torch.float32, DEVICE)
    y = call(chunk_attention, i, form=form, backend="triton")
    with pytest.raises(RuntimeError, match="first derivatives only on its kernels.*use backend='torch'"):
        torch.autograd.grad(y.sum(), i.x, create_graph=True)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch.compile looks at it itself
def test_a_layer_runs_on_the_kernels_and_compiles(monkeypatch):
    sizes = {"chunk_size": 2, "top_k": 2, "num_chunks": 2, "local_window": 2}
    layer = memarch.HCAM(8, 2, **sizes, gradient_window=True).to(DEVICE)
    x = torch.randn(1, 5, 8, device=DEVICE)
    want, _ = layer(x)
    monkeypatch.setenv("MEMARCH_BACKEND", "triton")
    y, _ = layer(x)
    compiled, _ = torch.compile(layer, backend="eager")(x)
    assert_close(y, want, rtol=1e-5, name="layer")
    assert_close(compiled, y, rtol=1e-6, name="compiled layer")
    y.sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in layer.parameters())


REASONS = {
    "take float32, bfloat16 and float16, not torch.float64": ({}, {"dtype": torch.float64}),
    "chunks up to 64 rows; got 65": ({"rows": 65}, {}),
    "no kernel for form='gather'": ({}, {"form": "gather"}),
    "dense kernels hold heads up to 128 wide; got 129": ({"inner": 258}, {"form": "dense"}),
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_the_kernels_cannot_serve(reason):
    sizes, options = REASONS[reason]
    i = to(make(batch=1, time=1, num_chunks=2, **sizes), options.pop("dtype", torch.float32), DEVICE)
    with pytest.raises(ValueError, match=f"backend='triton' for chunk_attention: .*{reason}.*use 'auto' or 'torch'"):
        call(chunk_attention, i, backend="triton", **options)
    options["dtype"] = i.x.dtype


def test_cpu_tensors_need_the_interpreter(monkeypatch):
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    with pytest.raises(ValueError, match="x is on cpu: the kernels need CUDA tensors.*TRITON_INTERPRET=1"):
        call(chunk_attention, to(inputs(), torch.float32), backend="triton")


def test_the_kernel_follows_the_sizes(monkeypatch):
    def taken(time, num_chunks, inner=16, form=None):
        sizes = {"batch": 1, "time": time, "num_chunks": num_chunks, "rows": 4, "inner": inner}
        i, called = to(make(**sizes), torch.float32), []
        for name in ("dense_chunks", "sparse_chunks"):
            monkeypatch.setattr(kernels, name, lambda *a, name=name: called.append(name) or torch.zeros_like(a[0]))
        call(chunk_attention, i, backend="triton", form=form)
        return called

    assert taken(16, 4) == ["dense_chunks"] and taken(2, 4) == ["sparse_chunks"]
    assert taken(16, 1025) == ["sparse_chunks"] and taken(16, 1025, form="dense") == ["dense_chunks"]
    assert taken(16, 4, inner=258) == ["sparse_chunks"]


BUGS = {
    "share of the sum in dS": ("_chunk_dense.py", "(g - share[:, None])", "(g - 0.0 * share[:, None])", "dense"),
    "weight in dQ": ("_chunk_dense.py", "(w * scale)[:, None], k_", "(w * 0.0 + scale)[:, None], k_", "dense"),
    "weight in dV": ("_chunk_dense.py", "tl.trans(p * w[:, None])", "tl.trans(p)", "dense"),
    "rows that are not real": ("_chunk_dense.py", "other=0) != 0", "other=0) != 2", "dense"),
    "scale": ("_chunk_dense.py", "DOT, PRECISION) * scale, valid)", "DOT, PRECISION), valid)", "dense"),
    "skips where there is weight": ("_chunk_dense.py", "(w != 0.0).to", "(w > 0.5).to", "dense"),
    "head's rows": ("_chunk_dense.py", "return b, h * D, queries", "return b, h * 0, queries", "dense"),
    "positions of the scores": ("_chunk_sparse.py", "base = mm(q_", "base = 0.0 * mm(q_", "absorbed"),
    "positions of the sum": ("_chunk_sparse.py", "acc += mm(total, p_", "acc += 0.0 * mm(total, p_", "absorbed"),
    "another sequence's memory": ("_chunk_sparse.py", "(b * M + tl.load(chunk", "(0 * M + tl.load(chunk", "absorbed"),
    "weight of the router": ("_chunk_sparse.py", "share = w * chunk_softmax", "share = chunk_softmax", "absorbed"),
    "gradient of the weight": ("_chunk_sparse.py", "tl.sum(along, 0))", "tl.max(along, 0))", "absorbed"),
    "keys in the memory's gradient": ("_chunk_sparse.py", "acc += mm(tl.trans(ds)", "mm(tl.trans(ds)", "absorbed"),
    "a slice left out": ("_chunk_sparse.py", "range(0, D, BS):", "range(0, D - BS, BS):", "sliced"),
}


@NOT_A_NUMBER
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_noticed(bug, tmp_path, monkeypatch):
    """The same check that passes on the kernels fails on a copy with one change."""
    file, old, new, form = BUGS[bug]
    shutil.copytree(Path(kernels.__file__).parent, tmp_path / "mutant_kernels")
    source = (tmp_path / "mutant_kernels" / file).read_text()
    assert old in source, f"{file} no longer has {old!r}: update the planted bug"
    (tmp_path / "mutant_kernels" / file).write_text(source.replace(old, new))
    monkeypatch.syspath_prepend(tmp_path)
    mutant = importlib.import_module("mutant_kernels.chunk_attention")
    if form == "sliced":
        launch = mutant.sparse_launch
        monkeypatch.setattr(mutant, "sparse_launch", lambda *a, **k: {**launch(*a, **k), "BS": 16})
    monkeypatch.setattr(_chunk_attention_triton, "kernels", lambda op: mutant)
    sizes = {"time": 2, "num_chunks": 3, "width": 33 if form == "sliced" else 11}
    try:
        with pytest.raises(AssertionError, match="torch path"):
            check("dense" if form == "dense" else "absorbed", factor=0.0, floor=1e-3, sizes=sizes, top_k=2)
    finally:
        for module in [m for m in sys.modules if m.partition(".")[0] == "mutant_kernels"]:
            del sys.modules[module]


@pytest.mark.slow
@pytest.mark.parametrize("form, width", [("dense", "32"), ("sparse", "128")])
def test_training_step_compiles_for_a_gpu(form, width, tmp_path):
    """Forward and backward to machine code, without a GPU; benchmarks.chunk_attention_resources has all."""
    path = tmp_path / "rows.csv"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.chunk_attention_resources", "--form", form, "--widths", width]
    command += ["--jobs", "1", "--only", "C=32 bf16", "--results", str(path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["target"] for row in rows} == {"sm_80", "sm_90"}
    wanted = {"dense": ("forward", "backward_queries", "backward_chunks")}.get(
        form, ("forward", "backward", "backward_memory")
    )
    assert {row["kernel"] for row in rows} == {f"{form}_{name}" for name in wanted}
    for row in rows:
        assert (row["fits"], row["error"], row["spill_stores"]) == ("true", "", "0") and int(row["registers"]) > 32


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows, width, num_heads", [(8, 64, 4), (32, 96, 2), (64, 256, 8), (32, 512, 8)])
def test_real_widths_on_a_gpu(form, dtype, rows, width, num_heads):
    sizes = {"time": 70, "num_chunks": 9, "rows": rows, "width": width, "inner": width}
    i = make(**sizes)
    # Scores near 1, as a trained layer has them.
    scaled = type(i.weights)(*(w.detach().div(width**0.5).requires_grad_() for w in i.weights))
    exact = i._replace(weights=scaled)
    options = {"num_heads": num_heads, "form": form, "stop_gradient": False}
    want = results(chunk_attention, to(exact, torch.float64), backend="torch", **options)
    given = to(exact, dtype, DEVICE)
    ours, torchs = (results(chunk_attention, given, backend=backend, **options) for backend in ("triton", "torch"))
    for name, value in want.items():
        bound = FACTOR * relative_rms(torchs[name], value) + (1e-5 if dtype == torch.float32 else 2e-2)
        assert_close(ours[name], value, rtol=bound, name=name)


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS)
def test_auto_takes_the_kernels_on_a_gpu_and_runs_repeat(form, monkeypatch):
    calls = []
    name = "dense_chunks" if form == "dense" else "sparse_chunks"
    kernel = getattr(kernels, name)
    monkeypatch.setattr(kernels, name, lambda *a: calls.append(name) or kernel(*a))
    i = to(make(time=70, num_chunks=40, rows=32, width=128, inner=128), torch.bfloat16, DEVICE)
    first, second = (results(chunk_attention, i, form=form, stop_gradient=False) for _ in range(2))
    assert calls == [name, name]
    assert all(torch.equal(first[n], second[n]) for n in first)
