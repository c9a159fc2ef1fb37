import argparse
import json

import pytest
import torch

from benchmarks import _chunk_attention_arms as arms
from benchmarks import chunk_attention as benchmark
from benchmarks._harness import Row, read_rows

SMALL = arms.Size(B=2, T=3, M=4, C=3, D=8, H=2, k=2, dtype="float64")


def row(arm, value, ratio, num_chunks, metric="forward time"):
    size = arms.Size(B=1, T=2, M=num_chunks)
    figures = {"value": value, "low": value, "high": value, "samples": 1, "ratio": ratio, "settings": size.text()}
    return Row(benchmark="chunk_attention", arm=arm, metric=metric, unit="s", **figures)


def test_the_released_algorithm_is_the_operators_function_and_others_are_not():
    differences = benchmark.check(torch.device("cpu"))
    assert {"released", "ours-dense", "ours-absorbed"} <= set(differences)
    assert max(d for arm, d in differences.items() if arm != "htm") < 1e-12
    i = arms.make_inputs(SMALL, torch.device("cpu"), grad=False)
    assert not torch.allclose(arms.full_attention(i), arms.released(i), rtol=1e-3)


def test_full_attention_is_one_softmax_over_all_rows():
    """With one chunk there is nothing to select: the same as the released algorithm."""
    i = arms.make_inputs(arms.Size(B=2, T=3, M=1, C=5, D=8, H=2, dtype="float64"), torch.device("cpu"), grad=False)
    torch.testing.assert_close(arms.full_attention(i), arms.released(i))


def test_a_step_leaves_the_gradients_of_training_and_none_for_the_memory():
    i = arms.make_inputs(SMALL, torch.device("cpu"), grad=True)
    arms.step_of("released", i, "forward")()
    assert i.x.grad is None
    found = {}
    for arm in ("released", "ours"):
        arms.step_of(arm, i, "forward+backward")()
        found[arm] = [leaf.grad for leaf in (i.x, *i.weights)]
    for mine, theirs in zip(found["ours"], found["released"], strict=True):
        torch.testing.assert_close(mine, theirs)
    assert i.contents.grad is None


def test_quick_run_writes_rows_where_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    path = tmp_path / "rows.csv"
    benchmark.main(["--quick", "--arms", "ours", "sdpa", "--no-memory", "--results", str(path)])
    rows = read_rows(path)
    assert len(rows) == 2 * 2 * 3 and {r["arm"] for r in rows} == {"released", "ours", "sdpa"}
    assert all(r["ratio"] == "1" for r in rows if r["arm"] == "released")
    assert {arms.Size(**json.loads(r["settings"])).M for r in rows} == {4, 32}
    shown = capsys.readouterr().out
    assert "same function (float64" in shown and "released / ours >= 8" in shown
    with pytest.raises(SystemExit, match="nothing was measured: no size has --only 'T=7' in its name"):
        benchmark.main(["--quick", "--only", "T=7", "--arms", "ours"])


def test_peak_memory_of_a_fresh_process():
    """In processes of their own: here, memory that earlier tests freed would be used again and hide the growth."""
    size = arms.Size(B=2, T=64, M=8, C=32, D=64)
    options = argparse.Namespace(threads=1)
    rows = benchmark.fresh_peaks(size, "forward+backward", ["released", "ours", "flex"], options)
    assert [(r.arm, r.metric) for r in rows] == [(a, "forward+backward peak memory") for a in ("released", "ours")]
    released, ours = rows
    # Rows of 8 MiB, their keys and values are gathered for every query, and kept.
    assert released.value > 16 and released.value > ours.value
    assert ours.ratio == pytest.approx(released.value / ours.value)


def test_aims_by_hand():
    rows = [row("ours", 2.0, 7.0, 4), row("ours", 2.0, 9.0, 128), row("sdpa", 1.0, 18.0, 128), row("sdpa", 1.0, 1.0, 4)]
    cpu = benchmark.show_aims(rows, "cpu").splitlines()[2:]
    assert [(line.split("|")[4].strip(), line.split("|")[5].strip()) for line in cpu] == [
        ("7.00", "missed"),
        ("9.00", "reached"),
    ]
    gpu = benchmark.show_aims(rows, "cuda").splitlines()[2:]
    assert [line.split("|")[3:6] for line in gpu][-1][0].strip() == "sdpa / ours >= 1"
    assert [line.split("|")[5].strip() for line in gpu] == ["reached", "reached", "missed"]


def test_sizes_go_from_128_rows_to_64k_and_flex_has_no_backward_on_a_cpu():
    for device in ("cpu", "cuda"):
        rows = [s.M * s.C for s in benchmark.sizes(device, False) if s.T > 1]
        assert min(rows) == 128 and max(rows) == 2**16
    learn = benchmark.sizes("cpu", False)[0]
    assert benchmark.runs("flex", learn, "forward", "cpu") and not benchmark.runs(
        "flex", learn, "forward+backward", "cpu"
    )
    assert benchmark.runs("flex", learn, "forward+backward", "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_says_so():
    with pytest.raises(SystemExit, match="--device cuda: torch sees no CUDA GPU here"):
        benchmark.main(["--device", "cuda"])
