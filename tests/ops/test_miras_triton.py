"""The Triton kernels of `miras_memory`: in the interpreter without a GPU, compiled with one, by the same tests."""

from __future__ import annotations

import csv
import importlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import memarch
from memarch.ops import DELTANET, MEMORA, MONETA, YAAD, MirasRule, _dispatch, _miras_triton, miras_memory
from memarch.testing import assert_close, miras_inputs

from ._miras_cases import CLOSED_FORM, RULES, call, cut, leaves, loss_of
from ._miras_triton_cases import DEVICE, OVERFLOW, check_against_reference, results, to_device

kernels = pytest.importorskip("memarch_kernels.miras", reason="needs triton")
pytestmark = OVERFLOW
SMALL = {"batch_size": 1, "seq_len": 9, "num_heads": 2, "head_dim": 7, "hidden_dim": 19}


@pytest.fixture(autouse=True)
def several_tiles(monkeypatch):
    """Hidden tiles of 16, so that 19 hidden units already take two; values in slices of 16 where they can be sliced."""
    mlp, matrix = kernels.mlp_launch, kernels.matrix_launch

    def sliced(sizes, rule, *, backward):
        launch = matrix(sizes, rule, backward=backward)
        return launch | {"BV": 16} if backward and rule.link not in ("lq", "pnorm_dual", "softmax") else launch

    monkeypatch.setattr(kernels, "mlp_launch", lambda *a, **k: {**mlp(*a, **k), "BN": 16})
    monkeypatch.setattr(kernels, "matrix_launch", sliced)


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_every_rule_channelwise(name):
    check_against_reference(RULES[name], channelwise=True, **SMALL | {"num_heads": 1})


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_every_rule_per_head_cut_inside_a_chunk(name):
    check_against_reference(RULES[name], cut_at=6, **SMALL | {"num_heads": 1})


@pytest.mark.parametrize(
    "name", ["moneta", "yaad", "memora", "matrix-huber-norm", "matrix-lq-running", "matrix-huber-coordinate"]
)
@pytest.mark.parametrize("dim, hidden, chunk", [(16, 64, 16), (20, 33, 3), (33, 24, 1)])
def test_sizes(name, dim, hidden, chunk):
    """Exactly a tile, and no tile's multiple; chunks of 16, 3 and 1."""
    sizes = {"seq_len": 5, "head_dim": dim, "hidden_dim": hidden}
    check_against_reference(RULES[name], chunk_size=chunk, **SMALL | {"num_heads": 1} | sizes)


@pytest.mark.parametrize("name", ["moneta", "mlp-huber-norm", "matrix-l2"])
def test_long_enough_for_several_checkpoint_groups(name):
    """17 chunks: groups of four chunks are recomputed from each checkpoint, the last one of them alone.

    Not the mixture: over 17 chunks its tanh(10 e) amplifies rounding up to 4e-3, in any order of sums.
    """
    assert kernels.make_plan(torch.tensor([0, 34]), None, 2, torch.device("cpu")).group == 4
    check_against_reference(RULES[name], chunk_size=2, **SMALL | {"num_heads": 1, "seq_len": 34})


@pytest.mark.parametrize("name", ["yaad", "memora", "matrix-huber-mixture"])
def test_packed_sequences_of_unequal_length(name):
    rule = RULES[name]
    check_against_reference(
        rule, cu_seqlens=torch.tensor([0, 1, 8, 13]), chunk_size=4, **SMALL | {"seq_len": 13, "num_heads": 1}
    )


@pytest.mark.parametrize("name", ["yaad", "matrix-l2"])
def test_packed_sequences_continue_from_unequal_positions(name):
    """Packed states at positions 1, 3 and 0 of their chunks, continued packed: the same as sequence by sequence."""
    rule = RULES[name]
    inputs = to_device(miras_inputs(rule, **SMALL | {"seq_len": 18}), torch.float32, requires_grad=False)
    options = {"chunk_size": 4, "backend": "triton"}
    bounds = [0, 5, 8, 12]
    _, state = call(miras_memory, cut(inputs, 0, 12), rule, cu_seqlens=torch.tensor(bounds), **options)
    assert state.position.tolist() == [1, 3, 0]
    o, end = call(
        miras_memory, cut(inputs, 12, 18), rule, cu_seqlens=torch.tensor([0, 2, 4, 6]), state=state, **options
    )
    start = 0
    for i, size in enumerate((2, 2, 2)):
        _, alone = call(miras_memory, cut(inputs, bounds[i], bounds[i + 1]), rule, **options)
        expected, last = call(miras_memory, cut(inputs, 12 + start, 12 + start + size), rule, state=alone, **options)
        assert torch.equal(o[:, start : start + size], expected)
        assert torch.equal(end.select([i]).running[0], last.running[0])
        assert torch.equal(end.select([i]).anchor[0], last.anchor[0])
        start += size


@pytest.mark.parametrize("name", ["yaad", "moneta", "matrix-lp"])
def test_causal_to_the_bit_and_the_same_in_every_run(name):
    rule = RULES[name]
    inputs = to_device(miras_inputs(rule, **SMALL), torch.float32, requires_grad=False)
    o, _ = call(miras_memory, inputs, rule, chunk_size=4, backend="triton")
    again, _ = call(miras_memory, inputs, rule, chunk_size=4, backend="triton")
    assert torch.equal(o, again)
    changed = inputs._replace(v=inputs.v.clone())
    changed.v[:, 6:] += 1
    later, _ = call(miras_memory, changed, rule, chunk_size=4, backend="triton")
    assert torch.equal(o[:, :6], later[:, :6])
    assert not torch.equal(o[:, 6:], later[:, 6:])


@pytest.mark.parametrize("name", ["yaad", "matrix-huber-norm"])
def test_float16_inputs(name):
    """Their products are float32's. bfloat16 is a GPU test: the interpreter multiplies its bits as integers."""
    check_against_reference(RULES[name], dtype=torch.float16, factor=6.0, floor=1e-3, **SMALL)


def test_the_last_anchor_has_a_gradient_of_its_own():
    """A loss on nothing but the anchor of an unfinished chunk, and on nothing but an output."""
    for rule in (YAAD, MirasRule(memory="matrix")):
        inputs = to_device(miras_inputs(rule, **SMALL | {"num_heads": 1}), torch.float32, requires_grad=True)
        grads = {}
        for backend in ("torch", "triton"):
            o, state = call(miras_memory, inputs, rule, chunk_size=4, backend=backend)
            losses = {"anchor": state.anchor[0].square().sum(), "o": o.square().sum()}
            for what, loss in losses.items():
                grads[backend, what] = torch.autograd.grad(loss, [inputs.k, *inputs.weights], retain_graph=True)
        for what in losses:
            for mine, theirs in zip(grads["triton", what], grads["torch", what], strict=True):
                assert_close(mine, theirs, rtol=2e-5, name=f"{rule.memory} {what}")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch.compile looks at it itself
def test_a_layer_runs_on_the_kernels_and_compiles(monkeypatch):
    layer = memarch.Yaad(d_model=16, num_heads=2, chunk_size=4).to(DEVICE)
    x = torch.randn(2, 6, 16, device=DEVICE)
    expected, _ = layer(x)
    monkeypatch.setenv("MEMARCH_BACKEND", "triton")
    y, _ = layer(x)
    compiled, _ = torch.compile(layer, backend="eager")(x)
    assert_close(y, expected, rtol=1e-4, name="layer")
    assert_close(compiled, y, rtol=1e-6, name="compiled layer")
    y.sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in layer.parameters())


@pytest.mark.parametrize("name", ["yaad", "matrix-lq-running"])
def test_one_token_without_gradients_takes_the_decoding_kernel(name, monkeypatch):
    """Prefill, then token by token across a chunk's end, through the plain operator: the same as the whole."""
    rule = RULES[name]
    inputs = to_device(miras_inputs(rule, **SMALL), torch.float32, requires_grad=False)
    options = {"chunk_size": 4, "backend": "triton"}
    whole, end = call(miras_memory, inputs, rule, **options)
    _, state = call(miras_memory, cut(inputs, 0, 3), rule, **options)
    monkeypatch.setattr(kernels, "scan", None)
    outputs = []
    for t in range(3, 9):
        o, state = call(miras_memory, cut(inputs, t, t + 1), rule, state=state, **options)
        outputs.append(o)
    assert_close(torch.cat(outputs, 1), whole[:, 3:], rtol=1e-5, name="o")
    assert state.position.tolist() == [1]
    for mine, theirs in zip((*state.running, *state.anchor), (*end.running, *end.anchor), strict=True):
        assert_close(mine, theirs, rtol=1e-5, name="state")
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        call(
            miras_memory, to_device(cut(inputs, 8, 9), torch.float32, requires_grad=True), rule, state=state, **options
        )


def test_second_derivatives_are_refused():
    inputs = to_device(miras_inputs(YAAD, **SMALL | {"seq_len": 3}), torch.float32, requires_grad=True)
    o, _ = call(miras_memory, inputs, YAAD, chunk_size=4, backend="triton")
    with pytest.raises(RuntimeError, match="first derivatives only.*miras_memory_reference"):
        torch.autograd.grad(o.sum(), inputs.k, create_graph=True)


REASONS = {
    "no kernel for momentum=True": (MirasRule(momentum=True), {}, {}),
    "no kernel for gradient_at='token'": (DELTANET, {}, {}),
    "read='exact' has no form": (MEMORA.replace(read="exact"), {}, {}),
    "take float32, bfloat16 and float16, not torch.float64": (YAAD, {"dtype": torch.float64}, {}),
    "head widths up to 128; got 129": (YAAD, {"head_dim": 129}, {}),
    "chunks up to 64 tokens; got chunk_size=65": (YAAD, {}, {"chunk_size": 65}),
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_the_kernels_cannot_serve(reason):
    rule, sizes, options = REASONS[reason]
    inputs = miras_inputs(rule, **SMALL | {"dtype": torch.float32, "seq_len": 3} | sizes)
    with pytest.raises(ValueError, match=f"backend='triton' for miras: .*{reason}.*use 'auto' or 'torch'"):
        call(miras_memory, inputs, rule, backend="triton", **options)


def test_channelwise_decay_beyond_the_range_is_refused_or_left_to_torch(caplog, monkeypatch):
    rule = MirasRule(memory="matrix")
    inputs = miras_inputs(rule, channelwise=True, **SMALL | {"dtype": torch.float32})
    strong = inputs._replace(log_decay=torch.full_like(inputs.log_decay, -40.0))
    with pytest.raises(ValueError, match="falls beyond float32's range within a chunk; use a smaller chunk_size"):
        call(miras_memory, strong, rule, backend="triton", chunk_size=4)
    o, _ = call(miras_memory, strong, rule, backend="triton", chunk_size=1)
    assert_close(o, call(miras_memory, strong, rule, chunk_size=1)[0], rtol=1e-5, name="o")
    late = inputs._replace(log_decay=torch.zeros_like(inputs.log_decay))
    late.log_decay[:, 7] = -50.0
    assert not _miras_triton._falls_too_far(late.log_decay, late.step_size, 4)
    late.log_decay[:, 6] = -50.0
    assert _miras_triton._falls_too_far(late.log_decay, late.step_size, 4)
    _dispatch._log_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="memarch"):
        monkeypatch.setattr(_dispatch, "BACKENDS", ("auto", "torch", "triton"))
        reason = _miras_triton.no_kernel_for(rule, strong.q, strong.log_decay, strong.step_size, 4, kernels)
        assert "beyond float32's range" in reason


def test_cpu_tensors_need_the_interpreter(monkeypatch):
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    inputs = miras_inputs(YAAD, **SMALL | {"dtype": torch.float32, "seq_len": 3})
    with pytest.raises(ValueError, match="q is on cpu: the kernels need CUDA tensors.*TRITON_INTERPRET=1"):
        call(miras_memory, inputs, YAAD, backend="triton")


BUGS = {
    "LayerNorm's second-order term": (
        "_miras_mlp_backward.py", "- d_log_std * rstd * y_hat", "+ 0.0 * d_log_std * rstd * y_hat", "yaad",
    ),
    "gelu''": ("_miras_mlp_passes.py", "gelu_curvature(z, gate) * x", "0.0 * gelu_curvature(z, gate) * x", "mlp-l2"),
    "inner error reaches the keys": (
        "_miras_mlp_backward.py", "        dk_ += de\n", "        dk_ += 0.0 * de\n", "mlp-l2",
    ),
    "norm path of Moneta's link": (
        "_miras_mlp_backward.py", "(share1 + dscale1)", "(0.0 * share1 + dscale1)", "moneta",
    ),
    "scale of the running read": ("_miras_mlp_backward.py", "(share2 + dscale2)", "share2", "moneta"),
    "mass term of the softmax": ("_miras_mlp_backward.py", "share1 / MASS", "0.0 * share1 / MASS", "memora"),
    "decay of the state's gradient": ("_miras_mlp_passes.py", "D, N, FIRST) * decay_end\n", "D, N, FIRST)\n", "mlp-l2"),
    "scores transposed": (
        "_miras_mlp.py", "load_hidden(work, hidden, BC, N, True)", "load_hidden(work, hidden, BC, N, False)", "mlp-l2",
    ),
    "own token not read": (
        "_miras_gates.py", "rows[:, None] >= rows[None, :], b[", "rows[:, None] > rows[None, :], b[", "matrix-l2",
    ),
    "checkpoints of the chunk before": ("_miras_matrix.py", "if j % G == 0:", "if j % G == G - 1:", "matrix-l2"),
    "anchor not renewed": (
        "_miras_mlp.py", "renewed = (last - origin) % C == 0", "renewed = (last - origin) % C < 0", "mlp-packed",
    ),
    "norm of Yaad's clipped error": ("_miras_math.py", "(dg - unit * along)", "dg", "matrix-huber-norm"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_noticed(bug, tmp_path, monkeypatch):
    """The same check that passes on the kernels fails on a copy with one change."""
    file, old, new, name = BUGS[bug]
    packed = name == "mlp-packed"
    rule = RULES["mlp-l2" if packed else name]
    sizes = {**SMALL, "num_heads": 1, "seq_len": 10}
    options = {"cu_seqlens": torch.tensor([0, 4, 10])} if packed else {}
    options["chunk_size"] = 2 if rule.memory == "matrix" else 4  # five chunks: groups of two

    def check() -> None:
        check_against_reference(rule, factor=0.0, floor=1e-3, **sizes, **options)

    check()
    shutil.copytree(Path(kernels.__file__).parent, tmp_path / "mutant_kernels")
    source = (tmp_path / "mutant_kernels" / file).read_text()
    assert old in source, f"{file} no longer has {old!r}: update the planted bug"
    (tmp_path / "mutant_kernels" / file).write_text(source.replace(old, new))
    monkeypatch.syspath_prepend(tmp_path)
    mutant = importlib.import_module("mutant_kernels.miras")
    launch = mutant.mlp_launch
    monkeypatch.setattr(mutant, "mlp_launch", lambda *a, **k: {**launch(*a, **k), "BN": 16})
    monkeypatch.setattr(_miras_triton, "kernels", lambda op: mutant)
    try:
        with pytest.raises((AssertionError, IndexError)):
            check()
    finally:
        for module in [m for m in sys.modules if m.partition(".")[0] == "mutant_kernels"]:
            del sys.modules[module]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("memory", ["matrix", "mlp"])
def test_training_step_compiles_for_a_gpu(memory, target, tmp_path):
    """Forward and backward through the compiler to machine code, without a GPU; benchmarks.miras_resources has all."""
    path = tmp_path / "rows.csv"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [
        sys.executable,
        "-m",
        "benchmarks.miras_resources",
        "--memory",
        memory,
        "--target",
        target,
        "--jobs",
        "1",
    ]
    command += ["--head-dims", "48", "--only", f"ward {memory} D=48 C=16 bf16 yaad head", "--results", str(path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with path.open(newline="") as file:
        rows = {row["kernel"]: row for row in csv.DictReader(file)}
    assert set(rows) == {f"{memory}_forward", f"{memory}_backward"}
    for row in rows.values():
        assert (row["target"], row["fits"], row["error"]) == (target, "true", "")
        assert int(row["registers"]) > 32
    assert rows[f"{memory}_forward"]["spill_stores"] == "0"


@pytest.mark.gpu
@pytest.mark.parametrize("channelwise", [False, True], ids=["head", "channel"])
@pytest.mark.parametrize("dim, chunk", [(32, 16), (48, 16), (64, 16), (64, 32), (64, 64), (96, 32), (128, 64)])
@pytest.mark.parametrize("name", ["yaad", "moneta", "memora", "matrix-huber-norm", "matrix-lq-running"])
def test_bfloat16_on_a_gpu(name, dim, chunk, channelwise):
    """At real widths: outputs, states and gradients no worse than a multiple of the torch path's own bfloat16 error."""
    sizes = {"batch_size": 2, "seq_len": 200, "num_heads": 2, "head_dim": dim, "hidden_dim": 4 * dim}
    check_against_reference(
        RULES[name], dtype=torch.bfloat16, channelwise=channelwise, chunk_size=chunk, factor=6.0, floor=2e-2, **sizes
    )


@pytest.mark.gpu
@pytest.mark.parametrize(
    "rule", [YAAD, MONETA, MEMORA, MirasRule(memory="matrix")], ids=["yaad", "moneta", "memora", "matrix"]
)
def test_cuda_graph_and_determinism(rule):
    """Forward and backward captured once, replayed on other numbers: to the bit what a plain call gives."""
    first, second = (
        to_device(
            miras_inputs(rule, batch_size=2, seq_len=128, num_heads=2, head_dim=64, hidden_dim=256, seed=seed),
            torch.bfloat16,
            requires_grad=True,
        )
        for seed in (0, 1)
    )

    def step(inputs):
        o, state = call(miras_memory, inputs, rule, chunk_size=64, backend="triton")
        loss = o.float().square().sum() + sum(r.square().sum() for r in state.running)
        return (o, *torch.autograd.grad(loss, list(leaves(inputs).values())))

    expected = step(second)
    assert all(torch.equal(a, b) for a, b in zip(expected, step(second), strict=True))
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step(first)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(first)
    with torch.no_grad():
        for mine, theirs in zip(leaves(first).values(), leaves(second).values(), strict=True):
            mine.copy_(theirs)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


@pytest.mark.gpu
def test_auto_takes_the_kernels_on_a_gpu(monkeypatch):
    calls = []
    scan = kernels.scan
    monkeypatch.setattr(kernels, "scan", lambda *a: calls.append(a) or scan(*a))
    inputs = to_device(miras_inputs(YAAD, head_dim=64, hidden_dim=256), torch.bfloat16, requires_grad=True)
    o, state = call(miras_memory, inputs, YAAD)
    loss_of(o.double().cpu(), None).backward()
    assert len(calls) == 1 and state.running[0].is_cuda
    assert results(miras_memory, inputs, YAAD, cut_at=None)["o"].is_cuda
