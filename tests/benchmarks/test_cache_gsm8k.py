import json

import pytest
import torch

from benchmarks import cache_gsm8k
from benchmarks._cache_gsm8k_runs import ProblemScores, paired_difference
from benchmarks._harness import read_rows

from ..cache._training import write_problems
from ..dialogue.generators._tiny_model import save_tiny_model


@pytest.fixture
def data(tmp_path):
    write_problems(tmp_path / "train.jsonl", count=12)
    write_problems(tmp_path / "test_dev.jsonl", count=6, seed=1)
    save_tiny_model(tmp_path / "tiny")
    return tmp_path


def options(data, *more):
    small = "--smoke --threads 1 --processor-dim 8 --mlp-dim 8 --top-k 2".split()
    return ["--data", str(data), "--model", str(data / "tiny"), "--out", str(data / "out"), *small, *more]


def test_smoke_run_writes_rows_where_told_and_does_nothing_twice(data, capsys, monkeypatch):
    path = data / "rows.csv"
    arms = ["--arms", "processor", "mean-shift", "--results", str(path)]
    cache_gsm8k.main(options(data, *arms))
    first = capsys.readouterr().out
    rows = read_rows(path)
    assert {row["arm"] for row in rows} == {"identity", "processor", "random-rewrite", "mean-shift"}
    after = {row["arm"]: row for row in rows if row["metric"].endswith("after the first boundary")}
    assert float(after["identity"]["value"]) > 0 and after["identity"]["samples"] == "4"
    for arm in ("processor", "random-rewrite", "mean-shift"):
        row = after[arm]
        assert row["metric"].startswith("NLL difference") and row["baseline"] == "identity"
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"]) and float(row["value"]) != 0
        assert row["spread"] == "bootstrap 95 %"
    assert any(row["metric"] == "NLL difference, line 2" for row in rows)
    settings = json.loads(rows[0]["settings"])
    assert settings["sft_steps"] == 1 and settings["model"] == "tiny"
    assert "[3/3] mean-shift seed 0" in first and "test: 4 of " in first and "two lines or more" in first

    monkeypatch.setattr("benchmarks._cache_gsm8k_runs.make_arm", None)
    cache_gsm8k.main(options(data, *arms))
    assert capsys.readouterr().out.splitlines()[-6:] == first.splitlines()[-6:]
    with pytest.raises(ValueError, match="holds runs with other options or data"):
        cache_gsm8k.main(options(data, "--top-k", "3"))


def test_no_rows_by_itself_and_no_test_problems(data, monkeypatch):
    monkeypatch.setattr(cache_gsm8k, "RESULTS", data / "results")
    cache_gsm8k.main(options(data, "--arms", "pause"))
    assert not (data / "results").exists()
    (data / "test_dev.jsonl").unlink()
    with pytest.raises(SystemExit, match=r"should be a directory with train\.jsonl and test\.jsonl or test_dev\.jsonl"):
        cache_gsm8k.main(options(data))


def scores(nats, tokens):
    return ProblemScores(torch.tensor(nats, dtype=torch.float64), torch.tensor(tokens))


def test_paired_differences_by_hand():
    """Two problems of 4 and 6 tokens after the boundary; one seed gains 2 nats on each, the other loses 1."""
    base = scores([[1, 5, 8], [1, 5, 9]], [[1, 2, 4], [1, 2, 6]])
    arm = [
        scores([[1, 5, 6], [1, 5, 7]], [[1, 2, 4], [1, 2, 6]]),
        scores([[1, 5, 9], [1, 5, 10]], [[1, 2, 4], [1, 2, 6]]),
    ]
    mean, low, high = paired_difference(arm, base, slice(2, None))
    assert mean == pytest.approx(-0.1) and low == pytest.approx(-0.5 / 4) and high == pytest.approx(-0.5 / 6)
    assert paired_difference(arm, base, slice(1, 2)) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="no problem has a token in these steps"):
        paired_difference(arm, base, slice(3, None))


def test_problems_without_such_a_step_do_not_count():
    base = scores([[0, 4.0], [0, 0]], [[1, 2], [1, 0]])
    assert paired_difference([scores([[0, 3.0], [0, 0]], [[1, 2], [1, 0]])], base, slice(1, None)) == (-0.5, -0.5, -0.5)
