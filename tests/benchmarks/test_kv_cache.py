import json

import pytest
import torch

from benchmarks import kv_cache
from benchmarks._harness import read_rows
from benchmarks._kv_cache_arms import CacheSize, mass_arms
from benchmarks._kv_cache_model import decode_arms, load_model


def test_quick_run_writes_rows_where_told(tmp_path, capsys):
    path = tmp_path / "kv_cache.csv"
    kv_cache.main(["--quick", "--results", str(path), "--threads", "1", "--prompt", "8", "--clock", "cpu"])
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
