import json
from dataclasses import replace

import pytest
import torch

from benchmarks import cache_mechanism
from benchmarks._cache_mechanism_train import (
    REGIMES,
    TASKS,
    Budget,
    Task,
    build_arm,
    build_model,
    evaluate,
    problems_of,
    train_run,
)
from benchmarks._harness import read_rows
from memarch.cache.training_data import IGNORE
from memarch.data.state_tracking import END, NEWLINE

TINY = Budget(steps=2, batch_size=4, d_model=16, processor_dim=8, mlp_dim=8, eval_rows=4, top_k=2)
PRODUCT = replace(TASKS["multiplication"], num_digits=3)
SHORT = Task(name="S3", group="S3", train_lines=3, test_lines=(2, 4))
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # by peft


def test_quick_run_writes_rows_where_told_and_continues(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    arguments = ["--quick", "--results", str(path), "--tasks", "parity", "--arms", "processor", "identity", "vanilla"]
    cache_mechanism.main([*arguments, "--regimes", "joint"])
    first = capsys.readouterr().out
    rows = read_rows(path)
    metrics = [f"accuracy@{n}" for n in (8, 16)]
    found = {(row["arm"], row["metric"]) for row in rows}
    assert found == {(arm, m) for arm in ("vanilla", "processor") for m in [*metrics, "training time"]} | {
        ("processor", f"{m}, random rewrite") for m in metrics
    }
    settings = json.loads(rows[0]["settings"])
    assert settings["regime"] == "joint" and settings["group"] == "parity" and settings["seed"] == 0
    assert "processor, random rewrite" in first and "[2/2] parity joint processor seed 0" in first
    cache_mechanism.main([*arguments, "--reuse", "any"])
    second = capsys.readouterr().out
    assert "[2/2] parity frozen processor seed 0" in second and "parity joint processor seed" not in second
    table = first[first.index("|") : first.rindex("|")]
    assert table in second and "| identity" in second
    frozen = [row for row in read_rows(path) if json.loads(row["settings"])["regime"] == "frozen"]
    assert {row["arm"] for row in frozen} == {"identity", "processor"}


def test_quick_run_writes_nothing_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_mechanism, "RESULTS", tmp_path)
    cache_mechanism.main(["--quick", "--tasks", "multiplication", "--arms", "values-only", "random-selection"])
    assert list(tmp_path.iterdir()) == []


def test_steps_begin_with_newlines_and_labels_are_there():
    (problem, *_) = problems_of(SHORT, 2, 3, torch.Generator().manual_seed(0))
    assert problem.steps[0] == (END,) and [len(s) for s in problem.steps] == [1, 1, 2, 2, 1]
    assert all(step[0] == NEWLINE for step in problem.steps[2:])
    assert [[y != IGNORE for y in labels] for labels in problem.labels] == [
        [False], [False], [True, False], [True, False], [True]
    ]  # fmt: skip


def test_multiplication_is_cut_from_its_equals_sign_on():
    (problem, *_) = problems_of(PRODUCT, 2, 1, torch.Generator().manual_seed(0))
    assert [len(s) for s in problem.steps] == [7, 2, 2, 2] and problem.steps[1][0] == 11
    assert set(problem.labels[0]) == {IGNORE} and IGNORE not in sum(problem.labels[1:], ())


@pytest.mark.parametrize(("regime", "name"), [(r, name) for r, names in REGIMES.items() for name in names])
def test_every_arm_learns_and_is_scored(regime, name):
    if name == "lora":
        pytest.importorskip("peft")
    scores = train_run(regime, name, SHORT, TINY, 0)
    assert {"accuracy@2", "accuracy@4"} <= scores.keys() and all(0 <= x <= 1 for x in scores.values())
    torch.manual_seed(0)
    model = build_model(SHORT, TINY)
    build_arm(name, model, SHORT, TINY)
    assert any(p.requires_grad for p in model.parameters()) == (name in ("vanilla", "vanilla-larger", "sft", "lora"))


def test_whole_cache_is_rewritten_before_every_part_of_a_product():
    task = PRODUCT
    arm = build_arm("processor", build_model(task, TINY), task, TINY)
    seen = []
    arm.options = arm.options | {"on_rewrite": lambda r: seen.append((r.length, r.index.shape[-1]))}
    problems = problems_of(task, 2, 1, torch.Generator().manual_seed(0))
    arm.score(problems, learn=False)
    assert seen == [(7, 7), (9, 9), (11, 11)]


def test_scores_count_the_lines_of_the_second_half():
    """An arm that knows the first three of four lines."""

    class Knows:
        def score(self, problems, *, learn):
            labels = torch.tensor([[sum(y != IGNORE for y in step) for step in p.labels] for p in problems])
            correct = labels.clone()
            correct[:, 5] = 0
            return type("Scores", (), {"correct": correct, "tokens": labels})

    assert evaluate(Knows(), SHORT, TINY) == {"accuracy@2": 1.0, "accuracy@4": 0.5}


def test_the_larger_model_has_the_processor_s_parameters_more():
    def size(extra):
        return sum(p.numel() for p in build_model(SHORT, TINY, extra=extra).parameters())

    assert 1000 <= size(1000) - size(0) < 1000 + 3 * TINY.d_model * TINY.num_layers
