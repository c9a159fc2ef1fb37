"""The dialogue benchmark on a made-up miniature file in LoCoMo's format."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import _dialogue_generated, _dialogue_retrieval, _dialogue_tune, dialogue
from benchmarks._dialogue_arms import Vectors, ask, embed, minilm_neighbours, recipe, rrf
from benchmarks._dialogue_locomo import load
from benchmarks._dialogue_metrics import METRICS, bootstrap, score
from benchmarks._harness import read_rows
from memarch.dialogue.embedders import EmbedderError
from memarch.dialogue.ranking import Ranker, RankingWeights

TOPICS = ("kite", "stew", "harp")


class FakeEmbedder:
    """A direction for each topic and one for all texts."""

    name, dim = "fake", 4

    def __init__(self):
        self.calls = 0

    def embed_documents(self, texts):
        self.calls += 1
        raw = np.array([[*(text.lower().count(topic) for topic in TOPICS), 0.5] for text in texts], np.float32)
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)

    def embed_query(self, text):
        return self.embed_documents([text])[0]


def entry(name, evidence=("D1:2",)):
    return {
        "sample_id": name,
        "conversation": {
            "speaker_a": "Ann",
            "speaker_b": "Bob",
            "session_2_date_time": "3:05 pm on 9 June, 2023",
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [
                {"speaker": "Ann", "dia_id": "D1:1", "text": "What did you build?"},
                {"speaker": "Bob", "dia_id": "D1:2", "text": "I built a red kite for my niece."},
            ],
            "session_2": [
                {"speaker": "Ann", "dia_id": "D2:1", "text": "Look at this!", "blip_caption": "a photo of a harp"},
                {"speaker": "Bob", "dia_id": "D2:2", "text": "Lovely. We cooked a stew."},
            ],
            "session_3_date_time": "no session of this number",
        },
        "qa": [
            {"question": "What did Bob build?", "category": 4, "evidence": list(evidence)},
            {"question": "When was there a harp and a stew?", "category": 2, "evidence": ["D2:1; D2:02"]},
            {"question": "Who knows?", "category": 5, "evidence": []},
            {"question": "Who else knows?", "category": 1, "evidence": ["D", "D9:9"]},
        ],
    }


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "mini.json"
    path.write_text(json.dumps([entry(f"mini-{i}") for i in range(4)]), encoding="utf-8")
    return path


def test_conversations_are_read_and_evidence_normalised(data):
    first = load(data)[0]
    assert [c.source_id for c in first.chunks] == ["D1:1", "D1:2", "D2:1", "D2:2"]
    assert first.chunks[2].text == "Look at this! [image: a photo of a harp]"
    assert f"{first.chunks[3].time:%Y-%m-%d %H:%M}" == "2023-06-09 15:05"
    assert [(q.category, q.evidence) for q in first.questions] == [(4, (1,)), (2, (2, 3))]
    assert (first.num_without_evidence, first.num_bad_evidence) == (2, 2)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "other.json"
    for text in ('[{"qa": []}]', "{", "[3]"):
        path.write_text(text)
        with pytest.raises(ValueError, match="not in LoCoMo's format.*snap-research/locomo"):
            load(path)


def test_metrics_by_hand():
    sessions = ["a", "a", "b", "c"]
    found = dict(zip(METRICS, score(np.array([0, 3, 2]), [2, 1], sessions), strict=True))
    # One of two pieces of evidence, in third place: gain 1/2 of an ideal 1 + 1/log2(3).
    assert (found["R@5"], found["all@5"], found["any@5"]) == (0.5, 0.0, 1.0)
    assert found["NDCG@10"] == pytest.approx(0.5 / (1 + 1 / np.log2(3)))
    assert found["session R@5"] == 1.0
    low, high = bootstrap(np.array([[0.0, 100.0], [100.0, 100.0]]))
    assert low.tolist() == [0.0, 100.0] and high.tolist() == [100.0, 100.0]


def test_retrieval_writes_rows_of_every_arm_and_split(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_dialogue_retrieval, "open_embedder", lambda _: FakeEmbedder())
    results = tmp_path / "dialogue.csv"
    dialogue.main(["--data", str(data), "--results", str(results)])
    rows = read_rows(results)
    settings = [json.loads(row["settings"]) for row in rows]
    assert {row["arm"] for row in rows} == set(_dialogue_retrieval.ORDER)
    assert {s["split"] for s in settings} == {"tuned on", "report", "all"}
    assert {s["category"] for s in settings} == {"all", 2, 4}
    report = [s["conversations"] for s in settings if s["split"] == "report"]
    assert report[0] == ["mini-3"]
    ours = [row for row in rows if row["arm"] == "ours" and row["metric"] == "R@5"]
    assert all(float(row["value"]) == 100.0 for row in ours) and ours[0]["samples"] == "6"
    shown = capsys.readouterr().out
    assert "8 questions scored; 8 questions without usable evidence left out; 8 evidence strings name no turn" in shown
    assert "2 temporal (4)" in shown and "report: 1 conversations, 2 questions" in shown


def test_without_an_embedder_words_are_measured(data, tmp_path, capsys):
    dialogue.main(["--data", str(data), "--embedder", "none", "--results", str(tmp_path / "rows.csv")])
    assert {row["arm"] for row in read_rows(tmp_path / "rows.csv")} == {"BM25", "ours, words only"}
    dialogue.main(["--data", str(data), "--embedder", "none", "--quick"])
    assert "written to nowhere" in capsys.readouterr().out


def test_generated_dialogues_need_no_data(tmp_path, monkeypatch, capsys):
    def small(options):
        return _dialogue_generated.run(options, num_turns=120, seeds=(0,))

    part = replace(dialogue.PARTS["generated"], run=small)
    monkeypatch.setitem(dialogue.PARTS, "generated", part)
    monkeypatch.setattr(_dialogue_generated, "open_embedder", lambda _: FakeEmbedder())
    dialogue.main(["--part", "generated", "--results", str(tmp_path / "rows.csv")])
    arms = {row["arm"] for row in read_rows(tmp_path / "rows.csv")}
    assert arms == {*_dialogue_generated.ORDER, "ours, words only"}
    assert "user and assistant: 1 dialogues" in capsys.readouterr().out


def test_tuning_moves_what_helps_and_shrinks_what_does_not(capsys):
    conversations = [_dialogue_generated.generated(120, 0, ("Maya", "Daniel"))]
    start = replace(RankingWeights(), words=0.0, told=1e-4)
    grid = {
        "words": (lambda weights, value: replace(weights, words=value), (0.0, 3.0)),
        "told": (lambda weights, value: replace(weights, told=value), (0.0, 1e-4)),
    }
    tuned = _dialogue_tune.tune(conversations, [None], start, grid=grid)
    assert (tuned.words, tuned.told) == (3.0, 0.0)
    before, after = (_dialogue_tune.objective(conversations, [None], w) for w in (start, tuned))
    assert after > before + 5
    shown = capsys.readouterr().out
    assert "-> 3" in shown and "shrunk told -> 0" in shown


def test_tuning_sees_only_the_first_three_conversations(data, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(_dialogue_tune, "tune", lambda c, v, start: seen.extend(c) or start)
    dialogue.main(["--data", str(data), "--part", "tune", "--embedder", "none"])
    assert [c.name for c in seen] == ["mini-0", "mini-1", "mini-2"]
    assert "RankingWeights.told = 0.0  (default 0.6)" in capsys.readouterr().out


def test_the_grid_changes_what_it_names():
    for name, (change, values) in _dialogue_tune.GRID.items():
        assert len({change(_dialogue_tune.START, value) for value in values}) == len(values), name
    assert _dialogue_tune.GRID["share after"][0](_dialogue_tune.START, 0.6).lexical.before[:2] == (0.3, 0.18)
    assert _dialogue_tune.GRID["before over after"][0](_dialogue_tune.START, 0.7).lexical.before[0] == 0.35


def test_decay_of_neighbours():
    assert _dialogue_tune.decaying(0.5, 0.5, count=2) == ((0.5, 0.25), (0.25, 0.125))


def test_neighbours_and_fusion_by_hand(data):
    conversation = load(data)[0]
    vectors = embed(conversation, FakeEmbedder())
    flat = np.array([[1, 0, 0, 0]], np.float32)
    turns = np.array([[0.1, 0, 0, 0], [0.5, 0, 0, 0], [0.2, 0, 0, 0], [0.3, 0, 0, 0]], np.float32)
    one = replace(conversation, questions=conversation.questions[:1])
    scores = minilm_neighbours(one, Vectors(flat, turns, turns))
    np.testing.assert_allclose(scores, [[0.1 + 0.2, 0.5 + 0.04, 0.2 + 0.12, 0.3 + 0.08]], rtol=1e-6)
    assert rrf(conversation, vectors).shape == recipe(conversation, vectors).shape == (2, 4)


def test_ours_uses_the_vectors(data):
    conversation = load(data)[0]
    ranker = Ranker(replace(RankingWeights(), words=0.0, told=0.0, substance=0.0, speaker=0.0))
    for chunk in conversation.chunks:
        ranker.add(chunk)
    query = replace(conversation, questions=(replace(conversation.questions[0], text="kite?"),))
    assert ask(ranker, query, embed(query, FakeEmbedder()))[0][0] == 1


def test_vectors_are_kept_in_the_cache(data, tmp_path):
    conversation, embedder = load(data)[0], FakeEmbedder()
    first = embed(conversation, embedder, tmp_path / "cache")
    calls = embedder.calls
    again = embed(conversation, embedder, tmp_path / "cache")
    assert embedder.calls == calls > 0
    np.testing.assert_array_equal(first.turns, again.turns)
    np.testing.assert_array_equal(first.questions, again.questions)


@pytest.mark.parametrize("arguments", [[], ["--data", "nowhere.json"], ["--part", "tune"], ["--part", "nothing"]])
def test_wrong_arguments_end_with_an_explanation(arguments, capsys):
    with pytest.raises(SystemExit):
        dialogue.main(arguments)
    assert "--data" in capsys.readouterr().err or "nothing" in arguments


def test_a_failing_embedder_is_not_hidden(data, monkeypatch):
    class Broken(FakeEmbedder):
        def embed_documents(self, texts):
            raise EmbedderError("no memory left")

    monkeypatch.setattr(_dialogue_retrieval, "open_embedder", lambda _: Broken())
    with pytest.raises(EmbedderError, match="no memory left"):
        dialogue.main(["--data", str(data), "--quick"])
