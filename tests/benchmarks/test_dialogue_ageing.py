"""The parts ageing and large of the dialogue benchmark, on short dialogues and with a made-up embedder."""

import argparse
import json

import numpy as np
import pytest

from benchmarks import _dialogue_ageing as ageing
from benchmarks import _dialogue_large as large
from benchmarks import plot
from benchmarks._dialogue_generated import generated
from benchmarks._dialogue_lives import Remembering, asker, found_at, live
from benchmarks._dialogue_prompts import Coverage, TokenCurve, coverage, window
from benchmarks._dialogue_scale_data import TextVectors
from benchmarks._harness import append_rows, read_rows
from memarch.dialogue.memory import DialogueMemory
from memarch.dialogue.salience import ForgettingPolicy

OPTIONS = argparse.Namespace(embedder="none", quick=False)


def test_ageing_writes_rows_from_which_figures_are_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ageing, "open_embedder", lambda _: TextVectors())
    rows = ageing.run(OPTIONS, num_turns=202, seeds=(0,))
    append_rows(tmp_path / "dialogue.csv", rows)
    found = {(r["arm"], r["metric"], json.loads(r["settings"])["of"]): r for r in read_rows(tmp_path / "dialogue.csv")}
    assert {arm for arm, metric, _ in found if metric == "R@5"} == {"BM25", "MiniLM", *ageing.POLICIES}
    ages = {of for arm, metric, of in found if metric == "R@10" and of.startswith("age")}
    assert ages <= set(ageing.age_names(202)) == {"age 0..99", "age 100..201"}
    archived = {arm: float(row["value"]) for (arm, metric, _), row in found.items() if metric == "turns archived"}
    # At turn 200: half a percent of two hundred, none, and ten percent; at turn 100 all are too young.
    assert (archived[ageing.OURS], archived["ours, forgets from the start"]) == (0, 1)
    assert archived["ours, forgets 20 times as much"] == 20
    tokens = found[ageing.OURS, "prompt tokens", "all"]
    assert 0 < float(tokens["low"]) < float(tokens["high"]) <= 3500
    assert {of for arm, metric, of in found if metric == "prompt tokens"} == {"all", "0", "50", "100", "150", "200"}
    shares = {
        arm: float(r["value"]) for (arm, m, of), r in found.items() if m == "evidence in the prompt" and of == "all"
    }
    assert shares["last 4,000 tokens"] == 100 and shares["both"] >= shares["compact only"]
    assert "of a budget of 3500" in capsys.readouterr().out
    plot.main(["--results", str(tmp_path)])
    assert (tmp_path / "dialogue.png").stat().st_size > 1000
    figure = plot.ageing_figure(read_rows(tmp_path / "dialogue.csv"))
    assert len(figure.axes[0].containers) == 2 + len(ageing.POLICIES)


def test_large_puts_dialogues_of_other_people_behind_each_other(capsys):
    conversation = large.concatenated(0, 2, 60)
    assert [chunk.chunk for chunk in conversation.chunks] == list(range(1, 121))
    assert len({chunk.source_id for chunk in conversation.chunks}) == 120
    assert all(a.time < b.time for a, b in zip(conversation.chunks, conversation.chunks[1:], strict=False))
    second = [q for q in conversation.questions if q.evidence[0] >= 60]
    assert second and all(any(name in q.text for name in large.NAMES[2:4]) for q in second)
    rows = {(r.arm, r.metric): r for r in large.run(OPTIONS, num_dialogues=2, num_turns=60, seeds=(0,))}
    assert rows["ours", "P@5"].value <= rows["ours", "P@5 ceiling"].value <= 40
    assert rows["ours", "R@50"].value >= rows["ours", "R@5"].value > 0
    assert rows["ours", large.METRICS[3]].samples == 1 and rows[large.FORGETS, "search, query vector given"].ratio > 0
    assert "the paper: -34%" in capsys.readouterr().out


def test_recall_counts_pieces_of_evidence():
    assert found_at(np.array([4, 2, 9]), (2, 3), 2).tolist() == [1.0, 0.0]
    assert found_at(np.array([4, 2, 9]), (2, 3), 1).tolist() == [0.0, 0.0]
    conversation = generated(120, 0, ageing.SPEAKERS)
    values: ageing.Values = {}
    perfect = [np.array(question.evidence) for question in conversation.questions]
    ageing._recall(values, "perfect", conversation, perfect)
    assert values and all(value == [100.0] for value in values.values())
    ageing._recall(values, "blind", conversation, [np.array([], int)] * len(perfect))
    assert values["blind", "R@5", "all"] == [0.0]


def test_lives_ask_and_forget(tmp_path, monkeypatch):
    conversation = generated(120, 1, ageing.SPEAKERS)
    policy = ForgettingPolicy(fraction=0.2, min_age_turns=10, min_chunks=0)
    with live(
        conversation, tmp_path / "a", None, policy, before_turn=asker(conversation, role="Maya")
    ).memory as memory:
        used = [c for c in memory.store.chunks() if c.retrieved_at]
        assert used and memory.stats().num_archived == 20
    everybody = []
    ask = asker(conversation)
    monkeypatch.setattr(DialogueMemory, "search", lambda self, query, k: everybody.append(query) or [])
    for place in (0, 1, 2, 3):
        ask(memory, place)
    assert everybody == [chunk.text for chunk in conversation.chunks[1:4]]
    monkeypatch.undo()
    silent = live(conversation, tmp_path / "b", TextVectors(), None, batch=40)
    with silent.memory as memory:
        assert not silent.archived and memory.stats().num_pending == 0
        assert not [c for c in memory.store.chunks() if c.retrieved_at]


def test_prompts_stay_in_budget_and_coverage_is_of_every_way(tmp_path):
    conversation = generated(100, 2, ageing.SPEAKERS)
    curve = TokenCurve(conversation, role="Daniel")
    life = live(conversation, tmp_path, None, None, before_turn=curve)
    with life.memory:
        shares = coverage(life, conversation)
    assert set(curve.tokens) == {i for i, chunk in enumerate(conversation.chunks) if chunk.role == "Daniel"}
    assert max(curve.tokens.values()) <= 3500
    assert all(len(each) == len(conversation.questions) for each in shares.values())
    assert sum(shares["vector only"]) > sum(shares["compact only"]) > 0


def test_coverage_accepts_reported_speech_and_nothing_less():
    measure = Coverage()
    bags = measure.bags(["2025-01-06: Maya sold Maya's boat in Ghent.", "Daniel: What about a boat?"])
    assert measure.covers(bags, "I sold my boat in Ghent. Oh well.")
    assert not measure.covers(bags, "I sold my car in Ghent.")
    assert not measure.covers(bags, "Daniel sold a boat in Ghent.")  # each line by itself


def test_the_window_holds_the_latest_turns():
    chunks = generated(50, 0, ageing.SPEAKERS).chunks
    lines = window(chunks, 60)
    assert 1 < len(lines) < 20
    assert lines == [f"{chunk.role}: {chunk.text}" for chunk in chunks[-len(lines) :]]
    assert len(window(chunks, 10**6)) == 50


def test_a_text_is_embedded_once():
    class Counting(TextVectors):
        num = 0

        def embed_documents(self, texts):
            self.num += len(texts)
            return super().embed_documents(texts)

    inner = Counting()
    embedder = Remembering(inner)
    first = embedder.embed_documents(["a", "b", "a"])
    np.testing.assert_array_equal(embedder.embed_documents(["b", "a"]), first[[1, 0]])
    assert inner.num == 2
    np.testing.assert_array_equal(embedder.embed_query("c"), embedder.embed_query("c"))
    assert inner.num == 3


@pytest.mark.parametrize("part", ["ageing", "large"])
def test_quick_needs_no_data_and_writes_nothing(part, monkeypatch):
    from benchmarks import dialogue

    module = {"ageing": ageing, "large": large}[part]
    seen = []
    monkeypatch.setattr(module, "generated", lambda n, seed, speakers: seen.append((n, seed)) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dialogue.main(["--part", part, "--quick", "--embedder", "none"])
    assert seen[0][0] <= 300
