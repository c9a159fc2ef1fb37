import re
import subprocess
import sys
import types
from dataclasses import replace

import pytest
import torch

from benchmarks import _miras_gpu_check as checking
from benchmarks import _miras_gpu_peers as peers
from benchmarks import _miras_gpu_run as running
from benchmarks import _miras_gpu_tune as tuning
from benchmarks import miras_gpu
from benchmarks._harness import RESULTS, Row, machine, read_rows
from benchmarks._miras_gpu_arms import RULES, draw_inputs
from benchmarks._miras_gpu_cases import Aim, Case, aims, default_cases, full_cases, judge, tiny_cases
from benchmarks._miras_gpu_check import check_all, limit
from benchmarks._miras_gpu_lab import ArmLost, DeviceLost, Lab, time_limit
from benchmarks._miras_gpu_roofline import Peaks, bound_seconds, data_sheet, find_peaks, flop, least_bytes
from benchmarks._miras_gpu_warm import compile_ahead

CPU = torch.device("cpu")
TINY = Case(memory="matrix", head_dim=5, batch_heads=2, tokens=6, chunk=3, rules=(), peers=("sdpa",))
H100 = Peaks(989e12, 3.35e12, 3.0e12, "data sheet")
QUICK = running.Options(rounds=2, layers=2)


def run_case(case, lab=None, options=QUICK):
    return running.CaseRun(case, Lab(CPU) if lab is None else lab, H100, options).run()


def program(*arguments):
    command = [sys.executable, "-W", "error::DeprecationWarning", "-m", "benchmarks.miras_gpu", *arguments]
    return subprocess.run(command, cwd=RESULTS.parent.parent, capture_output=True, text=True, check=False)


def test_dry_run_times_ours_in_every_case_and_writes_nothing(tmp_path):
    path = tmp_path / "rows.csv"
    done = program("--interpret", "--results", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    for case in tiny_cases():
        if case.kind != "titans":
            passes = ("decode",) if case.kind == "decode" else ("forward", "forward+backward")
            for arm in (*case.rules, *(["l2-graph"] if case.kind == "decode" else [])):
                for which in passes:
                    line = rf"^\| {re.escape(case.label)} +\| +{re.escape(which)} \| +{arm} \| +[\d.]+ ms .*\d%"
                    assert re.search(line, done.stdout, re.M), (case.label, arm, which, done.stdout)
    assert "matrix l2 C=16: o " in done.stdout and "WRONG" not in done.stdout and "ours, wrong" not in done.stdout
    assert "MLP memory C=16: 20x titans-pytorch" in done.stdout and "rows: not written" in done.stdout
    assert not path.exists()


def test_tuning_prints_the_winners_of_both_directions():
    done = program("--dry-run", "--tune", "--only", "matrix d")
    assert done.returncode == 0, done.stdout + done.stderr
    winners = [line for line in done.stdout.splitlines() if line.startswith("| matrix")]
    assert [line.split("|")[2].strip() for line in winners] == ["forward", "backward"]
    assert "num_warps=2, BV=16: " in done.stdout and "num_warps=4: " in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_is_needed(capsys):
    with pytest.raises(SystemExit) as stopped:
        miras_gpu.main([])
    assert stopped.value.code == 2
    assert "torch sees none here" in (text := capsys.readouterr().err) and "--interpret" in text


def test_operations_of_the_headline_are_the_specified_ones():
    mlp = Case(memory="mlp")
    # 524,288 tokens and heads: 56 * 64^2 + 20 * 64 * 64 operations each, 0.165 ms at an H100's peak.
    assert flop(mlp, "forward") == 524_288 * (229_376 + 81_920)
    assert bound_seconds(mlp, "forward", H100) == pytest.approx(0.165e-3, rel=2e-3)
    backward = flop(mlp, "forward+backward") - flop(mlp, "forward")
    assert backward / H100.flops == pytest.approx(0.46e-3, rel=2e-3)
    matrix = Case(memory="matrix")
    assert flop(matrix, "forward") == 524_288 * (6 * 4096 + 4 * 4096)
    assert flop(matrix, "forward+backward") == 524_288 * (24 * 4096 + 18 * 4096)


def test_a_matrix_memory_is_bound_by_its_bytes():
    matrix = Case(memory="matrix")
    # Four rows of 64 bf16 numbers and two float32 gates a token, 64 x 64 float32 a head at the end.
    assert least_bytes(matrix, "forward", num_gates=2) == 128 * (4096 * (512 + 8) + 16_384)
    assert least_bytes(matrix, "forward+backward", num_gates=3) == 128 * (4096 * (1408 + 36) + 16_384)
    assert bound_seconds(matrix, "forward", H100) == least_bytes(matrix, "forward", num_gates=2) / 3.35e12


def test_decoding_is_bound_by_three_passes_over_the_state_at_the_copys_bandwidth():
    mlp = Case(kind="decode", memory="mlp", batch_heads=128)
    assert bound_seconds(mlp, "decode", H100) == 3 * 128 * 131_072 / 3.0e12


@pytest.mark.parametrize(
    "name, expected",
    [
        ("NVIDIA H100 80GB HBM3", (989e12, 3.35e12)),
        ("NVIDIA H100 PCIe", (756e12, 2.0e12)),
        ("NVIDIA H200", (989e12, 4.8e12)),
        ("NVIDIA A100-SXM4-80GB", (312e12, 2.0e12)),
        ("NVIDIA L4", None),
    ],
)
def test_peaks_of_known_devices(name, expected):
    assert data_sheet(name) == expected


def test_peaks_of_an_unknown_device_are_measured():
    peaks = find_peaks(Lab(CPU))
    assert peaks.source == "measured" and peaks.flops > 0 and peaks.bandwidth == peaks.copied > 0


def a_row(arm, metric, value, ratio=None):
    return Row(
        benchmark="b", arm=arm, metric=metric, unit="s", value=value, low=value, high=value, samples=1, ratio=ratio
    )


def test_aims_are_judged_by_their_own_case_arm_and_metric():
    fast = Aim("fast", "case", "l2", "forward time", "value", 1e-3, at_most=True)
    times = Aim("times", "case", "l2", "forward time", "ratio", 8.0)
    assert judge(fast, [("case", a_row("l2", "forward time", 0.9e-3))]) == ("reached", "0.9 ms")
    assert judge(fast, [("case", a_row("l2", "forward time", 1.1e-3))]) == ("missed", "1.1 ms")
    assert judge(times, [("case", a_row("l2", "forward time", 1.0, ratio=8.0))]) == ("reached", "8x")
    assert judge(times, [("case", a_row("l2", "forward time", 1.0, ratio=7.9))]) == ("missed", "7.9x")
    others = [("other", a_row("l2", "forward time", 1.0)), ("case", a_row("yaad", "forward time", 1.0))]
    assert judge(fast, others) == ("not measured", "") == judge(times, [("case", a_row("l2", "forward time", 1.0))])


def test_every_aim_names_a_measured_case_and_arm():
    cases = {case.label: case for case in default_cases()}
    assert len(cases) == len(default_cases()) and len(aims()) == 13
    assert all(aim.arm.removesuffix("-graph") in cases[aim.case].rules for aim in aims())
    assert len({case.label for case in full_cases()}) == len(full_cases())
    assert all(rule in RULES[case.memory] for case in full_cases() for rule in case.rules)


def test_a_missing_peer_is_one_line_and_the_case_goes_on(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fla", None)
    outcome = run_case(replace(TINY, peers=("fla-gdr", "sdpa")))
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(lines) == 1 and "fla-gdr: all not measured" in lines[0]
    assert "pip install flash-linear-attention" in lines[0]
    assert [(r.arm, r.metric, r.ratio) for r in outcome.rows] == [
        ("sdpa", "forward time", None),
        ("sdpa", "forward+backward time", None),
        ("sdpa", "forward+backward peak memory", None),
    ]
    assert outcome.failed == []


def fake_fla(monkeypatch, **operators):
    for name in ("fla", "fla.ops", "fla.ops.gated_delta_rule", "fla.ops.kda", "fla.ops.ttt"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**operators))


def test_peers_run_by_the_first_call_that_their_version_takes(monkeypatch):
    called = []

    def old_gdr(q, k, v, g, beta):
        called.append("gdr")
        return q * k * v * g.unsqueeze(-1) * beta.unsqueeze(-1), None

    def kda(*, q, k, v, g, beta, scale, output_final_state):
        called.append(("kda", list(g.shape), scale))
        return q * k * v * g * beta.unsqueeze(-1), None

    def ttt(q, k, v, w, b, eta, *, scale, chunk_size, output_final_state):
        called.append(("ttt", chunk_size, list(w.shape)))
        return q * k * v * eta * w + b, None, None

    def recurrent(*, q, k, v, g, beta, scale, initial_state, output_final_state):
        called.append(("step", list(initial_state.shape)))
        return q * k * v, initial_state

    fake_fla(
        monkeypatch, chunk_gated_delta_rule=old_gdr, chunk_kda=kda, chunk_ttt_linear=ttt,
        fused_recurrent_gated_delta_rule=recurrent,
    )  # fmt: skip
    rows = run_case(replace(TINY, peers=("fla-gdr", "fla-kda", "fla-ttt", "sdpa"))).rows
    timed = {row.arm: row for row in rows if row.metric == "forward+backward time"}
    assert list(timed) == ["fla-gdr", "fla-kda", "fla-ttt", "sdpa"] and timed["fla-gdr"].ratio == 1.0
    assert timed["sdpa"].baseline == "fla-gdr" and timed["sdpa"].ratio > 0
    assert ("kda", [1, 6, 2, 5], 1.0) in called and ("ttt", 3, [2, 5]) in called and "gdr" in called
    rows = run_case(replace(TINY, kind="decode", peers=("fla-gdr", "sdpa"))).rows
    assert {row.arm for row in rows} == {"fla-gdr", "sdpa", "fla-gdr-graph", "sdpa-graph"}
    assert ("step", [1, 2, 5, 5]) in called


def test_a_peer_that_takes_no_call_names_every_error(monkeypatch, capsys):
    def broken(*_, **named):
        raise RuntimeError(f"no kernel for {named['beta'].dtype if named else 'these'}")

    fake_fla(monkeypatch, chunk_gated_delta_rule=broken)
    run_case(replace(TINY, peers=("fla-gdr",)))
    text = capsys.readouterr().out
    assert text.count("\n") == 1 and "no kernel for torch.float32" in text and "plain: RuntimeError" in text


def test_a_failing_arm_of_ours_is_reported_and_the_others_are_timed(monkeypatch, capsys):
    def raise_error(*_, **__):
        raise RuntimeError("ptxas exploded")

    monkeypatch.setattr(running, "own_arm", raise_error)
    outcome = run_case(replace(TINY, rules=("l2",)))
    assert outcome.failed == [f"{TINY.label}: l2 all"] and {row.arm for row in outcome.rows} == {"sdpa"}
    assert "l2: all not measured: RuntimeError: ptxas exploded" in capsys.readouterr().out


def test_out_of_memory_is_one_line(monkeypatch, capsys):
    def raise_error(*_, **__):
        raise torch.OutOfMemoryError("tried to allocate 300 GiB " * 20)

    monkeypatch.setattr(running, "sdpa_arm", raise_error)
    assert run_case(TINY).rows == []
    assert capsys.readouterr().out == "  sdpa: all not measured: out of memory\n"


def test_what_failed_the_check_is_not_timed(capsys):
    options = replace(QUICK, refused=frozenset({("matrix", "l2", 3)}))
    assert {row.arm for row in run_case(replace(TINY, rules=("l2",)), options=options).rows} == {"sdpa"}
    assert "l2: not timed, it failed the check" in capsys.readouterr().out


def test_limits_of_the_check():
    assert limit(2e-3, float32=False) == pytest.approx(9e-3)
    assert limit(0.0, float32=True) == pytest.approx(3e-2)


def test_a_lost_device_names_the_arm_and_is_worked_around(monkeypatch, capsys):
    class Lost(Lab):
        def free(self):
            raise DeviceLost("illegal memory access")

    monkeypatch.setitem(sys.modules, "fla", None)
    with pytest.raises(ArmLost) as lost:
        run_case(replace(TINY, peers=("fla-gdr", "sdpa")), lab=Lost(CPU))
    assert lost.value.key == f"{TINY.label}: fla-gdr"
    calls = []
    monkeypatch.setattr(miras_gpu.os, "execv", lambda _, command: calls.append(command))
    options = miras_gpu.parse(["--without", "an: arm"])
    miras_gpu.start_again(["--only", "m"], options, "some case", lost.value.key, 60.0)
    assert calls[0][-5:] == ["--budget-seconds", "60", "--without", "an: arm", lost.value.key]
    without = replace(QUICK, skipped=frozenset({lost.value.key}))
    assert {row.arm for row in run_case(replace(TINY, peers=("fla-gdr", "sdpa")), options=without).rows} == {"sdpa"}


def test_a_check_that_loses_the_device_is_named_and_left_out_afterwards(monkeypatch, capsys):
    class Lost(Lab):
        def free(self):
            raise DeviceLost("illegal memory access")

    def raise_error(*_, **__):
        raise RuntimeError("illegal memory access")

    monkeypatch.setattr(checking, "check_rule", raise_error)
    with pytest.raises(ArmLost) as lost:
        check_all([("matrix", "l2", 16)], Lost(CPU))
    assert lost.value.key == "matrix l2 C=16"
    assert check_all([("matrix", "l2", 16)], Lab(CPU), without=[lost.value.key]) == {("matrix", "l2", 16)}
    assert "the device was lost under it -> WRONG, not timed" in capsys.readouterr().out
    assert miras_gpu.lost_after(Lost(CPU), [TINY]) == (TINY.label, "nothing more of this case")
    assert miras_gpu.lost_after(Lost(CPU), []) is None is miras_gpu.lost_after(Lab(CPU), [TINY])


def test_cases_are_chosen_by_name_and_resumed():
    chosen = miras_gpu.choose_cases(miras_gpu.parse(["--only", "decode mlp"]))
    assert [case.kind for case in chosen] == ["decode"] * len(chosen) and len(chosen) == 2
    resumed = miras_gpu.choose_cases(miras_gpu.parse(["--only", "decode", "--from-case", chosen[1].label]))
    assert resumed[0] == chosen[1]


def test_a_slow_warm_up_is_stopped():
    def spin():
        while True:
            pass

    with pytest.raises(TimeoutError, match="longer than 0.05 s"):
        Lab(CPU).warm_up(spin, 0.05)
    with time_limit(60.0):
        pass


def test_compiling_ahead_names_what_did_not_finish():
    assert compile_ahead(["a", "b"], ["--no-such-option"], jobs=2) == ["a", "b"]
    assert compile_ahead(["a"], [], jobs=1, limit_seconds=-1.0) == ["a"]
    assert compile_ahead(["no such case"], ["--interpret"], jobs=1) == []


def test_tasks_of_tuning_are_each_size_once_in_both_directions():
    sizes = [Case(memory="mlp"), Case(memory="mlp", rules=("yaad",)), Case(memory="matrix", head_dim=128)]
    found = tuning.tasks([*sizes, Case(kind="decode", memory="mlp")])
    assert [(t.case.memory, t.backward) for t in found] == [
        ("matrix", False), ("matrix", True), ("mlp", False), ("mlp", True)
    ]  # fmt: skip
    assert len(found[2].candidates) == 12 and found[1].candidates == [{"num_warps": w} for w in (2, 4, 8, 16)]


def test_a_forced_launch_holds_for_one_direction_and_ends(monkeypatch):
    module = types.SimpleNamespace(mlp_launch=lambda sizes, rule, *, backward: {"num_warps": 8, "BN": 64})
    monkeypatch.setitem(sys.modules, "memarch_kernels.miras", module)
    shipped = module.mlp_launch
    with tuning.forced(tuning.Task(Case(memory="mlp"), True), {"num_warps": 2}):
        assert module.mlp_launch(None, None, backward=True) == {"num_warps": 2, "BN": 64}
        assert module.mlp_launch(None, None, backward=False) == {"num_warps": 8, "BN": 64}
    assert module.mlp_launch is shipped


def test_inputs_have_unit_keys_and_the_cases_shape():
    x = draw_inputs(TINY, CPU)
    assert list(x.q.shape) == [1, 6, 2, 5] and x.log_decay.dtype == torch.float32 and bool((x.log_decay < 0).all())
    torch.testing.assert_close(x.k.norm(dim=-1), torch.ones(1, 6, 2))


def test_neural_memory_around_ours_computes_the_same_function():
    pytest.importorskip("titans_pytorch")
    assert peers.titans_difference() < 1e-9


def test_rows_name_their_device_and_a_file_of_another_layout_stops_nothing(tmp_path, capsys):
    assert machine("NVIDIA H100").device == "NVIDIA H100" != machine().device
    path = tmp_path / "rows.csv"
    assert miras_gpu.write(path, [a_row("l2", "forward time", 1.0)], "NVIDIA H100") == path
    assert read_rows(path)[0]["device"] == "NVIDIA H100"
    path.write_text("speed\n")
    assert miras_gpu.write(path, [a_row("l2", "forward time", 1.0)], "NVIDIA H100") is None
    assert "rows are not written from here on" in capsys.readouterr().out
