"""The reweaver benchmark at toy size: every arm runs on the same backbone, rows are written once, tasks are as said."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import reweaver
from benchmarks._harness import read_rows
from benchmarks._reweaver_train import (
    ARMS,
    BACKBONES,
    Budget,
    RandomReweaver,
    arm_batches,
    backbone_batches,
    build_arm,
    build_backbone,
    evaluate,
    train,
    trained_backbone,
    zipf_mqar,
)
from memarch.cache import Reweaver
from memarch.data.recall import IGNORE

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # by peft
TINY = Budget(
    num_pairs=(2, 3), num_keys=5, num_values=80, d_model=16, mlp_dim=16, batch_size=5, eval_rows=10, backbone_steps=1,
    steps=2, width=8, lengths=(1, 2), span=4, memory_tokens=48, top_k=3,
)  # fmt: skip


def test_rows_are_written_as_runs_end_and_finished_runs_not_repeated(tmp_path, capsys):
    pytest.importorskip("peft")
    path = tmp_path / "rows.csv"
    command = ["--quick", "--results", str(path)]
    reweaver.main(command)
    rows = read_rows(path)
    runs = {(json.loads(row["settings"])["backbone"], row["arm"]) for row in rows}
    assert runs == {(kind, arm) for kind in BACKBONES for arm in ARMS}
    assert len(rows) == len(runs) * (2 * 4 + 4 + 1)  # accuracies, nats, the time
    first = capsys.readouterr().out
    assert "[10/10] span reweaver" in first
    reweaver.main(command)
    again = capsys.readouterr().out
    assert read_rows(path) == rows and "[1/" not in again and again[again.index("|") :] == first[first.index("|") :]
    reweaver.main([*command, "--again", "--arms", "backbone", "--backbones", "span"])
    assert len(read_rows(path)) == len(rows) + 13


def test_quick_run_writes_nothing_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(reweaver, "RESULTS", tmp_path)
    reweaver.main(["--quick", "--arms", "backbone", "--backbones", "length"])
    assert list(tmp_path.iterdir()) == []


def test_values_follow_zipf_and_a_key_s_label_is_its_value():
    generator = torch.Generator().manual_seed(0)
    budget = replace(TINY, zipf=1.0)
    tokens, labels = zipf_mqar(budget, 1500, seq_len=24, num_pairs=3, generator=generator)
    for row, (text, due) in enumerate(zip(tokens.tolist(), labels.tolist(), strict=True)):
        pairs = dict(zip(text[0:6:2], text[1:6:2], strict=True))
        asked = {key: value for key, value in zip(text, due, strict=True) if value != IGNORE}
        assert asked == pairs, row
    rank = labels[labels != IGNORE] - budget.first_value + 1
    assert rank.min() == 1 and rank.max() == 80
    share = [(rank == r).double().mean().item() for r in (1, 2, 4)]
    assert share[0] == pytest.approx(1 / sum(1 / r for r in range(1, 81)), rel=0.1)
    assert share[0] / share[1] == pytest.approx(2, rel=0.2) and share[0] / share[2] == pytest.approx(4, rel=0.3)


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("arm", ARMS)
def test_arms_train_what_they_say(kind, arm):
    if arm == "lora":
        pytest.importorskip("peft")
    torch.manual_seed(0)
    model = build_backbone(kind, TINY)
    weights = {name: p.clone() for name, p in model.named_parameters()}
    size = sum(p.numel() for p in Reweaver(model.config, capture=[0], weave=[1], width=8).parameters())
    adapted, woven, learned = build_arm(arm, model, TINY)
    count = sum(p.numel() for p in learned)
    if arm == "lora":
        assert size <= count < 2 * size
    else:
        assert count == {"backbone": 0, "sft": sum(p.numel() for p in model.parameters())}.get(arm, size)
    assert (woven is None) == (arm in ("backbone", "sft", "lora"))
    if learned and woven is None:
        train(adapted, learned, arm_batches(TINY, 0), steps=2, lr=0.01)
    moved = any(not torch.equal(weights[n], p) for n, p in model.named_parameters() if n in weights)
    assert moved == (arm == "sft")


def test_the_span_ends_where_it_says():
    """A token far back changes nothing in a single layer with a span, and all that follows with full attention."""
    changed = {}
    for kind in BACKBONES:
        torch.manual_seed(0)
        model = build_backbone(kind, replace(TINY, num_layers=1)).eval()
        ids = torch.randint(1, 80, (1, 12))
        other = ids.clone()
        other[0, 7] += 1
        with torch.no_grad():
            a, b = (model(x, use_cache=False).logits[0] for x in (ids, other))
        changed[kind] = [not torch.allclose(x, y, atol=1e-7) for x, y in zip(a, b, strict=True)]
    assert changed["length"][7:] == [True] * 5
    assert changed["span"][7:] == [True] * 4 + [False]


@torch.no_grad()
def test_the_control_reads_as_many_tokens_by_lot():
    torch.manual_seed(0)
    config = build_backbone("length", TINY).config
    control = RandomReweaver(config, capture=[0], weave=[1], memory_tokens=48, top_k=3, width=8)
    torch.nn.init.ones_(control.norm)
    hidden, memory = torch.randn(1, 1, 16), [torch.randn(1, 30, 16)]
    allowed = torch.ones(1, 1, 30, dtype=torch.bool)
    found = torch.stack([control(0, hidden, memory, allowed) for _ in range(5)])
    assert len({tuple(x.flatten().tolist()) for x in found}) == 5
    plain = Reweaver.forward(control, 0, hidden, memory, allowed)
    few = allowed & (torch.arange(30) < 3)
    assert torch.equal(control(0, hidden, memory, few), Reweaver.forward(control, 0, hidden, memory, few))
    assert not any(torch.equal(x, plain) for x in found)


def test_scores_by_frequency_by_hand(monkeypatch):
    """A model that always says the most frequent value: all of that rank are right, no rare one."""

    def says_first(tokens, *, use_cache):
        logits = torch.zeros(*tokens.shape, 6 + 80)
        logits[..., 6] = 2.0
        return type("Output", (), {"logits": logits})

    scores = evaluate(says_first, replace(TINY, common=1, middle=10, eval_rows=50))
    assert scores["accuracy@1x, common"] == scores["accuracy@2x, common"] == 1.0
    assert scores["accuracy@1x, middle"] == scores["accuracy@2x, rare"] == 0.0 < scores["accuracy@1x, all"] < 1
    logsum = torch.tensor([2.0] + [0.0] * 85).logsumexp(0).item()
    assert scores["nats@1x, common"] == pytest.approx(logsum - 2) and scores["nats@1x, rare"] == pytest.approx(logsum)


def test_arms_of_a_seed_share_one_backbone():
    budget = replace(TINY, steps=1)
    first = trained_backbone("length", budget, 3)
    again = trained_backbone("length", budget, 3)
    other = trained_backbone("length", budget, 4)
    assert first is again
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_arms_learn_on_longer_texts_than_the_backbone_which_begins_with_few_pairs():
    budget = replace(TINY, backbone_steps=4, steps=4, arm_batch_size=7, arm_times=3)
    shapes = [[tuple(tokens.shape) for tokens, _ in make(budget, 0)] for make in (backbone_batches, arm_batches)]
    assert shapes == [[(5, 8), (5, 8), (5, 8), (5, 12)], [(7, 24), (7, 36)] * 2]
