import json

import pytest
import torch

from benchmarks import kv_cache
from benchmarks._harness import read_rows
from benchmarks._kv_cache_arms import CacheSize, mass_arms
from benchmarks._kv_cache_model import TRAINING_ARMS, decode_arms, load_model, training_step


def test_quick_run_writes_rows_where_told(tmp_path, capsys):
    path = tmp_path / "kv_cache.csv"
    parts = ["--part", "mass", "overhead", "training"]
    kv_cache.main(["--quick", "--results", str(path), "--threads", "1", "--prompt", "8", "--clock", "cpu", *parts])
    rows = read_rows(path)
    arms = {(row["metric"], row["arm"]) for row in rows}
    assert {("mass time", "memarch"), ("mass time", "kvpress"), ("overhead time", "processor")} <= arms
    assert {("training time", f"processor, bptt {n}") for n in (1, 2, 8)} <= arms and len(rows) == 3 + 3 + 4
    assert {json.loads(row["settings"])["clock"] for row in rows} == {"cpu"}
    assert all(float(row["value"]) > 0 and row["baseline"] for row in rows)
    shown = capsys.readouterr().out
    assert "baseline / arm" in shown and "rewrites in 24 tokens: 1" in shown


def test_quick_run_writes_nothing_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(kv_cache, "RESULTS", tmp_path)
    kv_cache.main(["--quick", "--part", "mass", "--threads", "1"])
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_arm_is_not_timed(monkeypatch):
    real = kv_cache.mass_arms

    def wrong(*args, **options):
        arms, masses = real(*args, **options)
        return arms, masses | {"eager": lambda: 1.01 * masses["eager"]()}

    monkeypatch.setattr(kv_cache, "mass_arms", wrong)
    with pytest.raises(SystemExit, match="do not compute the same masses: they differ by 1.0e-02"):
        kv_cache.main(["--quick", "--part", "mass", "--threads", "1"])


def test_masses_agree_and_decoding_is_the_same_text():
    _, masses = mass_arms(CacheSize(50, num_layers=2), dtype=torch.float32, device="cpu")
    assert torch.allclose(masses["eager"](), masses["memarch"](), rtol=1e-4)
    model, tokenizer = load_model("cpu", quick=True)
    arms, counts = decode_arms(model, tokenizer, prompt_tokens=5, num_tokens=45, every=20)
    for arm in arms.values():
        arm()
    assert counts["identity"]() == counts["processor"]() == 2


def test_memory_of_a_step_is_measured_in_fresh_processes(tmp_path, monkeypatch):
    """What `run_fresh` would run in a process, run here: the arms, sizes and kinds of step that it is asked for."""
    asked = []

    def fresh(arguments):
        assert arguments[:2] == ["benchmarks.kv_cache", "--measure-memory"]
        task = json.loads(arguments[2])
        asked.append((task["arm"], task["num_problems"], task["optimise"]))
        return {"bytes": 2.0**20 * (6 if task["arm"] == "sft" else 2)}

    monkeypatch.setattr(kv_cache, "run_fresh", fresh)
    path = tmp_path / "rows.csv"
    kv_cache.main(["--quick", "--part", "memory", "--threads", "1", "--results", str(path)])
    assert set(asked) == {(arm, 4, optimise) for arm in TRAINING_ARMS for optimise in (False, True)}
    rows = read_rows(path)
    assert {(r["metric"], r["arm"]): float(r["ratio"]) for r in rows} == {
        (f"{kind} peak memory", arm): 1.0 if arm == "sft" else 3.0
        for kind in ("gradient", "step")
        for arm in TRAINING_ARMS
    }
    assert all(float(r["value"]) == (6 if r["arm"] == "sft" else 2) and r["unit"] == "MiB" for r in rows)


@pytest.mark.parametrize("name", TRAINING_ARMS)
def test_a_training_step_moves_what_the_arm_learns_and_only_if_wanted(name):
    model, tokenizer = load_model("cpu", quick=True)
    for optimise in (False, True):
        before = {n: p.clone() for n, p in model.named_parameters()}
        warm_up, step = training_step(name, model, tokenizer, num_problems=3, optimise=optimise)
        warm_up()
        step()
        moved = any(not torch.equal(before[n], p) for n, p in model.named_parameters())
        assert moved == (optimise and name == "sft") and all(p.grad is None for p in model.parameters())


def test_the_fresh_process_prints_its_peak(capsys):
    task = {"arm": "processor, bptt 1", "num_problems": 2, "optimise": True, "quick": True, "threads": 1}
    kv_cache.main(["--measure-memory", json.dumps(task)])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bytes"] >= 0
