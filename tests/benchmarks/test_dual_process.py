"""The dual-process benchmark at toy size: every arm runs, rows and curves are written once, probes leave no trace."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch

from benchmarks import dual_process
from benchmarks._dual_process_train import ARMS, METRICS, Budget, Run
from benchmarks._harness import read_rows

pytest.importorskip("transformers")
TINY = replace(
    Budget(), num_words=40, num_layers=1, hidden_dim=8, mlp_dim=8, batch_size=8, active_every=2, temporary_every=1,
    stop_after=2, eval_rows=20,
)  # fmt: skip


def test_rows_and_curves_are_written_and_finished_runs_not_repeated(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    command = ["--quick", "--arms", "vanilla", "temporary-none-1", "--results", str(path)]
    dual_process.main(command)
    rows = read_rows(path)
    assert {(row["arm"], row["metric"]) for row in rows} == {
        (arm, metric) for arm in ("vanilla", "temporary-none-1") for metric in (*METRICS, "training time")
    }
    with (tmp_path / "rows_curves.csv").open() as file:
        curve = list(csv.DictReader(file))
    assert [(row["arm"], row["step"]) for row in curve] == [
        ("vanilla", "2"), ("vanilla", "4"), ("temporary-none-1", "2"), ("temporary-none-1", "4"),
    ]  # fmt: skip
    assert "[2/2] temporary-none-1" in capsys.readouterr().out
    dual_process.main(command)
    assert read_rows(path) == rows
    shown = capsys.readouterr().out
    assert "[1/" not in shown and "temporary-none-1" in shown


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_trains_and_forgets_in_its_way(name):
    arm = ARMS[name]
    run = Run(arm, TINY, seed=0)
    before = run.embedding.weight.detach().clone()
    run.train(2)
    scale = float(run.embedding.weight.detach().std())
    if arm.mode in ("active", "temporary"):
        assert run.resets.last_reset == 2 and scale == pytest.approx(arm.std, rel=0.2)
        moment = run.optimizer.state[run.embedding.weight]["exp_avg"]
        assert moment.any() == (arm.state == "none")
        body = run.optimizer.state[run.model.cls.predictions.bias]["exp_avg"]
        assert body.any() == (arm.state != "all")
    else:
        assert 0.015 < scale < 0.025
    now = run.embedding.weight.detach().clone()
    assert not torch.equal(before, now)
    run.train(1)
    assert not torch.equal(now, run.embedding.weight)
    if arm.mode == "temporary":
        assert run.resets.num_resets == 2
    if arm.mode == "probabilistic":
        # The fourth step forgets: the body learns from it, the embedding does not.
        body, now = run.model.cls.predictions.bias.detach().clone(), run.embedding.weight.detach().clone()
        run.train(1)
        assert torch.equal(now, run.embedding.weight)
        assert not torch.equal(body, run.model.cls.predictions.bias)


def test_probes_leave_the_model_as_it_was():
    run = Run(ARMS["vanilla"], TINY, seed=0)
    run.train(3)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    scores = run.scores()
    assert set(scores) == set(METRICS) and all(0 <= score <= 1 for score in scores.values())
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert run.scores() == scores
