import json
from dataclasses import replace

import pytest
import torch

from benchmarks import _recall_op, plot, recall
from benchmarks._harness import Row, append_rows, read_rows, settings_text
from benchmarks._recall_train import (
    ARMS,
    TASKS,
    Budget,
    build_model,
    count_params,
    loss_and_score,
    token_batch,
    train_run,
    vector_batch,
)
from memarch.data.recall import IGNORE

QUICK = ["--quick", "--steps", "3", "--arms", "attention"]


def test_recall_writes_rows_and_does_not_repeat_a_finished_run(tmp_path, capsys):
    path = tmp_path / "recall.csv"
    command = [*QUICK, "--tasks", "mqar", "noisy-vectors", "--results", str(path)]
    recall.main(command)
    first = read_rows(path)
    shown = capsys.readouterr().out
    assert "mqar accuracy@4" in shown and "noisy-vectors cosine@12" in shown and "[4/4]" in shown
    metrics = {(json.loads(r["settings"])["task"], json.loads(r["settings"])["seed"], r["metric"]) for r in first}
    assert len(metrics) == len(first) == 2 * 2 * 4  # tasks, seeds, three sizes and the time
    assert all(0 <= float(r["value"]) <= 1 for r in first if r["metric"].startswith("accuracy"))
    recall.main([*command, "--reuse", "any"])
    assert read_rows(path) == first
    again = capsys.readouterr().out
    assert "[1/" not in again and again.splitlines()[:3] == shown.splitlines()[4:7]
    recall.main([*command, "--reuse", "none", "--seeds", "1"])
    assert len(read_rows(path)) == len(first) * 3 // 2


def test_quick_run_writes_nothing_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(recall, "RESULTS", tmp_path)
    recall.main([*QUICK, "--tasks", "noisy-mqar", "--seeds", "1"])
    assert list(tmp_path.iterdir()) == []


def test_summary_by_hand():
    scores = {
        ("mqar", "accuracy@4", "yaad"): {0: 0.5, 1: 0.7},
        ("mqar", "accuracy@4", "l2-memory"): {0: 0.4, 1: 0.4},
    }
    lines = [line.split("|")[1:-1] for line in recall.summary(scores, ["yaad", "l2-memory"]).splitlines() if line]
    cells = [[cell.strip() for cell in line] for line in lines]
    # Deviation of 0.5 and 0.7: sqrt(0.02); half-width 12.7062 * sqrt(0.02 / 2) = 1.271, of the differences as well.
    assert cells[2] == ["yaad", "0.600 +- 1.271", "2"]
    assert cells[3] == ["l2-memory", "0.400 +- 0.000", "2"]
    assert cells[6] == ["yaad - l2-memory", "+0.200 +- 1.271", "2"]


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "memora-exact"])
def test_arms_have_equal_parameter_counts(arm):
    budget = Budget()
    assert count_params(build_model(arm, TASKS["mqar"], budget)) == pytest.approx(budget.num_params, rel=0.02)


def test_too_few_parameters_are_refused():
    with pytest.raises(ValueError, match="attention has .* more than --params 9000: raise it"):
        build_model("attention", TASKS["mqar"], Budget(num_params=9000))


def test_batches_hold_what_the_task_says():
    generator = torch.Generator().manual_seed(0)
    tokens, labels = token_batch(TASKS["noisy-mqar"], 5, 4, generator)
    assert tokens.shape == (5, 32) and (labels != IGNORE).sum(1).tolist() == [4] * 5
    given, wanted = vector_batch(TASKS["noisy-vectors"], 5, 4, generator)
    assert given.shape == (5, 16, 33) and wanted.shape == (5, 4, 16)
    assert given[:, :12, -1].eq(0).all() and given[:, 12:, -1].eq(1).all() and given[:, 12:, 16:32].eq(0).all()


def test_a_perfect_and_a_wrong_answer_score_one_and_zero():
    task = TASKS["mqar"]
    tokens, labels = token_batch(task, 3, 4, torch.Generator().manual_seed(0))

    def oracle(_, due):
        return torch.nn.functional.one_hot(labels[due], task.vocab_size) * 9.0

    assert loss_and_score(oracle, task, (tokens, labels))[1] == 1.0
    assert loss_and_score(lambda t, due: oracle(t, due).roll(1, -1), task, (tokens, labels))[1] == 0.0


def test_training_lowers_the_loss_of_attention():
    task = replace(TASKS["mqar"], num_pairs=(2,), vocab_size=9)
    budget = Budget(steps=60, num_params=60_000, eval_rows=64)
    untrained = train_run("attention", task, replace(budget, steps=1, lr=0.0), 0)
    assert train_run("attention", task, budget, 0)["accuracy@2"] > untrained["accuracy@2"] + 0.1


def test_operator_benchmark_prefers_a_robust_loss_under_outliers(tmp_path, capsys):
    scenario = _recall_op.Scenario("small", 8, 1, 1 / 8)
    rules = {name: _recall_op.RULES[name] for name in ("mlp l2", "mlp huber norm")}
    found = _recall_op.measure(scenario, num_seeds=6, rules=rules)
    assert found["mlp l2"]["no outliers"].cosine.shape == (1, 6)
    l2, huber = (found[name]["outliers, tuned with"].cosine.mean() for name in rules)
    assert found["mlp l2"]["no outliers"].cosine.mean() > l2 and huber > l2
    assert "minus l2" in _recall_op.show(found)
    append_rows(tmp_path / "recall_op.csv", _recall_op.rows_of(scenario, found, 6))
    assert len(read_rows(tmp_path / "recall_op.csv")) == 2 * 3 * 2
    plot.main(["--results", str(tmp_path)])
    assert (tmp_path / "recall_op.png").stat().st_size > 1000
    assert "miras_cpu: no rows" in capsys.readouterr().out


def test_plots_are_drawn_from_rows(tmp_path):
    recall.main([*QUICK, "--tasks", "mqar", "--results", str(tmp_path / "recall.csv")])
    speed = [
        Row(
            benchmark="miras_cpu", arm=arm, baseline="titans", metric=metric, unit="s", value=1.0, low=0.9, high=1.2,
            samples=3, ratio=ratio, ratio_low=ratio, ratio_high=ratio, settings=settings_text({"T": 64, "C": c}),
        )
        for arm, ratio in (("titans", 1.0), ("yaad-op", 3.0)) for metric in plot.SPEED_METRICS for c in (4, 16)
    ]  # fmt: skip
    append_rows(tmp_path / "miras_cpu.csv", speed)
    plot.main(["--results", str(tmp_path)])
    assert {p.name for p in tmp_path.glob("*.png")} == {"recall.png", "miras_cpu.png"}
    bars = plot.speed_figure(read_rows(tmp_path / "miras_cpu.csv")).axes[0].patches
    assert [bar.get_height() for bar in bars] == [3.0, 3.0]


def test_newest_row_of_a_setting_counts():
    rows = [{"arm": "a", "metric": "m", "settings": '{"s": 1}', "value": v} for v in ("1", "2")]
    assert [r["value"] for r in plot.newest(rows)] == ["2"]
