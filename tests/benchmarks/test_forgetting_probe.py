"""The forgetting-probe benchmark at toy size: every arm forgets in its way, rows are written once, pairs share data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import forgetting_probe, plot
from benchmarks._forgetting_probe_run import ARMS, Budget, Corpus, Pretraining
from benchmarks._harness import read_rows
from memarch.data.text import TextSource

pytest.importorskip("tokenizers")
pytest.importorskip("matplotlib")
TINY = replace(
    Budget(), vocab_size=300, d_model=16, num_layers=1, num_heads=2, seq_len=16, batch_size=4, steps=6, short_steps=2,
    active_every=2, temporary_every=1, stop_after=3, num_items=5, item_tokens=8,
)  # fmt: skip
TEXT = "\n".join(f"Line {i} says that {i * 7919 % 1000} comes before {i * 104729 % 1000}." for i in range(400))


@pytest.fixture(scope="module")
def corpus():
    return Corpus(TextSource(TEXT, "lines", "none"), TINY)


def test_rows_are_written_and_finished_runs_not_repeated(tmp_path, capsys):
    text, path = tmp_path / "text.txt", tmp_path / "rows.csv"
    text.write_text(TEXT)
    command = ["--quick", "--arms", "vanilla", "active", "--data", str(text), "--results", str(path)]
    forgetting_probe.main(command)
    rows = read_rows(path)
    assert {row["arm"] for row in rows} == {"vanilla", "active"}
    asked = {row["metric"] for row in rows}
    assert {
        "validation loss",
        "time",
        "recall@1+2",
        "exact@0+0",
        "recognition, novel@1+0",
        "change, random@1+1",
    } <= asked
    assert len(rows) == 2 * len(asked) == 2 * (2 + 4 * 6)
    assert "text.txt" in rows[0]["settings"] and str(tmp_path) not in rows[0]["settings"]
    shown = capsys.readouterr().out
    assert "active seed 0: loss" in shown and "active - vanilla" in shown
    forgetting_probe.main(command)
    assert read_rows(path) == rows and "seed 0" not in capsys.readouterr().out
    figure = plot.probe_figure(rows)
    assert [[line.get_label() for line in axis.lines] for axis in figure.axes] == [["vanilla", "active"]] * 2
    wanted = [float(row["value"]) for row in rows if row["arm"] == "active" and row["metric"].startswith("recall@")]
    assert list(figure.axes[0].lines[1].get_ydata()) == wanted and len(wanted) == 4


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_and_forgets_in_its_way(arm, corpus):
    training = Pretraining(arm, TINY, corpus, seed=1)
    weight = training.model.model.embedding.weight
    before, loss = weight.detach().clone(), training.validation_loss()
    calls = []
    training.optimizer.register_step_post_hook(lambda *_: calls.append(weight.detach().clone()))
    training.run()
    if training.resets is None:  # six steps after a reset have not caught up yet
        assert training.validation_loss() < loss
    assert len(calls) == (2 if arm == "vanilla-short" else 6)
    same = [torch.equal(a, b) for a, b in zip([before, *calls], calls, strict=False)]
    resets = training.resets.num_resets if training.resets else 0
    assert resets == {"active": 2, "temporary": 3}.get(arm, 0)
    # A step that forgets by substitution leaves the embedding as it is: every other one.
    assert same == ([False, True] * 3 if arm == "probabilistic" else [False] * len(calls))
    # What is probed has learned since its last reset.
    assert torch.equal(weight, calls[-1])


def test_a_seed_draws_the_same_windows_for_every_arm(corpus):
    one, again, other = (corpus.probe(TINY, seed) for seed in (3, 3, 4))
    assert one.study == again.study and one.foils == again.foils and one.others == again.others
    assert one.study != other.study
    for studied, shuffled in zip(one.study, one.foils["random"], strict=True):
        assert sorted(studied) == sorted(shuffled)
    windows = [*one.study, *one.foils["novel"], *one.others]
    held_out = corpus.held_out.tolist()
    assert sorted(sum(map(list, windows), [])) == sorted(held_out[: len(windows) * 8])
    pieces = [corpus.train[i : i + 8].tolist() for i in range(0, len(corpus.train) - 8)]
    assert not any(list(studied) in pieces for studied in one.study)


def test_differences_are_taken_seed_by_seed():
    budget = replace(TINY, exposures=(0,), updates=())
    names = ["validation loss", "recall@0+0", "recognition, novel@0+0", "change, novel@0+0", "recognition, random@0+0"]
    found = [
        (arm, seed, dict.fromkeys(names, base + gain))
        for seed, base in ((0, 0.1), (1, 0.5)) for arm, gain in (("vanilla", 0.0), ("active", 0.25))
    ]  # fmt: skip
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in forgetting_probe.summary(found, budget).split("\n")
    ]
    assert ["active - vanilla", "0.25 +- 0.00", "0.25 +- 0.00"] in lines
    assert ["active", "0.55 +- 2.54", "0.55 +- 2.54"] in lines  # 12.7062 x 0.4 / 2
