"""Question answering over a made-up miniature in LoCoMo's format, with a model that reads its prompts."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import dialogue_qa, plot
from benchmarks._dialogue_lives import live
from benchmarks._dialogue_locomo import load
from benchmarks._dialogue_qa_answers import MAX_TOKENS, Answers
from benchmarks._dialogue_qa_prompts import ARMS, BOTH, COMPACT, EVIDENCE, LAST, NO_MEMORY, VECTOR, Prompts, sample
from benchmarks._dialogue_qa_rows import judge, rows_of, show
from benchmarks._dialogue_qa_scores import f1, refused, tokens, told
from benchmarks._harness import read_rows
from memarch.dialogue.generators.base import Generator
from memarch.dialogue.generators.extractive import NOTHING, ExtractiveGenerator
from memarch.dialogue.tokens import estimate_tokens

CHAT = "The weather is fine and the garden grows {i} tomatoes on day {i}, so we might have a salad again soon."


class Reader(Generator):
    """Answers with the colour of the kite that its prompt tells of; counts what it is asked."""

    name, context_tokens = "reader", 8192

    def __init__(self):
        self.num_asked, self.limits = 0, set()

    def count_tokens(self, text):
        return estimate_tokens(text)

    def count_prompt(self, messages):
        return 8 + sum(6 + estimate_tokens(message["content"]) for message in messages)

    def stream(self, messages, *, hits=(), max_tokens=512, temperature=0.0, stop=None):
        self.num_asked += 1
        self.limits.add((max_tokens, temperature))
        found = re.search(r"painted my kite (\w+)", messages[-1]["content"])
        yield f"The {found[1]} one" if found else "It was not mentioned."


def entry(name, colour):
    """A fact on day 1, then small talk of about 6,000 tokens."""
    sessions = {}
    for number in range(1, 13):
        said = [{"speaker": "Bob", "dia_id": f"D{number}:{i}", "text": CHAT.format(i=i)} for i in range(1, 16)]
        if number == 1:
            said[1] = {"speaker": "Ann", "dia_id": "D1:2", "text": f"I painted my kite {colour} for the festival."}
        sessions |= {f"session_{number}": said, f"session_{number}_date_time": f"1:56 pm on {number} May, 2023"}
    questions = [
        {"question": "Which colour is Ann's kite?", "category": 4, "evidence": ["D1:2"], "answer": colour},
        {
            "question": "What did Ann paint for the festival?",
            "category": 1,
            "evidence": ["D1:2"],
            "answer": "kite, fan",
        },
        {"question": "Which colour is Bob's kite?", "category": 5, "evidence": ["D1:2"], "adversarial_answer": colour},
    ]
    return {"sample_id": name, "conversation": sessions, "qa": questions}


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "mini.json"
    colours = ("crimson", "emerald", "amber", "violet")
    path.write_text(json.dumps([entry(f"mini-{c}", c) for c in colours]), encoding="utf-8")
    return path


@pytest.fixture
def reader(monkeypatch):
    reader = Reader()
    monkeypatch.setattr(dialogue_qa, "open_generator", lambda spec, num_threads: reader)
    return reader


def test_f1_is_locomos():
    assert tokens("The Dogs, and a cat!") == ["dog", "cat"]
    # Two of three given tokens, two of four wanted: 2 * 2 / (3 + 4).
    assert f1("Running in parks", "she ran, running the park", 4) == pytest.approx(2 * 2 / 7)
    # Each wanted item takes the best of the given ones: 1 and 0.
    assert f1("pottery, a hike", "Hikes, swimming", 1) == pytest.approx(0.5)
    assert f1("pottery, a hike", "Hikes, swimming", 4) == pytest.approx(2 * 1 / 4)
    assert f1("likely no", "Likely no; it went badly", 3) == 1 and f1("", "x", 4) == f1("x", "", 4) == 0
    assert told("Bob said that it is red and blue", "red blue green", 4) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="refused"):
        f1("x", "y", 5)


def test_refusals():
    assert refused("Not mentioned.") and refused(NOTHING) and refused("No information available")
    assert not refused("He mentioned it")


def test_a_sample_holds_its_share_of_everything_and_a_smaller_one(data):
    conversations = load(data)
    assert [sorted(each) for each in sample(conversations, 0, seed=3)] == [[0, 1, 2]] * 4
    small, large = (sample(conversations, count, seed=3) for count in (4, 9))
    assert sum(map(len, small)) == 4 and sum(map(len, large)) == 9
    assert all(b[: len(a)] == a for a, b in zip(small, large, strict=True))
    assert sample(conversations, 4, seed=4) != small


def test_what_each_prompt_holds(data, tmp_path):
    conversation = load(data)[0]
    life = live(conversation, tmp_path / "memory", None, None, batch=1000)
    prompts = Prompts(life, conversation, ExtractiveGenerator())
    question = conversation.questions[0]
    asked = {arm: prompts.ask(arm, question, 3500) for arm in ARMS}
    evidence = {arm: each.evidence for arm, each in asked.items()}
    assert evidence[NO_MEMORY] == evidence[LAST] == 0 and evidence[VECTOR] == evidence[BOTH] == evidence[EVIDENCE] == 1
    texts = {arm: "\n".join(m["content"] for m in each.prompt.messages) for arm, each in asked.items()}
    assert "<memory>\n" not in texts[NO_MEMORY] and "<summary>\n" not in texts[VECTOR] + texts[LAST] + texts[EVIDENCE]
    assert "<summary>\n" in texts[COMPACT] and "<summary>\n" in texts[BOTH]
    assert texts[EVIDENCE].count("<said ") == 1 and texts[COMPACT].count("<said ") == 8
    assert not asked[COMPACT].prompt.hits and asked[VECTOR].prompt.hits[0].source_id == "D1:2"
    assert 3300 < asked[LAST].prompt.report.used_tokens <= 3500
    assert all(prompts.ask(arm, question, 500).prompt.report.used_tokens <= 500 for arm in ARMS)


def test_prompts_of_the_last_turns_begin_alike(data, tmp_path):
    conversation = load(data)[0]
    life = live(conversation, tmp_path / "memory", None, None, batch=1000)
    prompts = Prompts(life, conversation, ExtractiveGenerator())
    texts = [prompts.ask(LAST, q, 900).prompt.messages[-1]["content"] for q in conversation.questions]
    assert len({text.removesuffix(q.text) for text, q in zip(texts, conversation.questions, strict=True)}) == 1


def test_answers_are_kept_and_asked_once(data, tmp_path):
    conversation = load(data)[0]
    prompts = Prompts(live(conversation, tmp_path / "memory", None, None, batch=1000), conversation, Reader())
    asked = prompts.ask(VECTOR, conversation.questions[0], 800)
    path, reader = tmp_path / "kept" / "answers.jsonl", Reader()
    assert Answers(path).ask(reader, asked, note={"arm": VECTOR}) == "The crimson one"
    path.write_text(path.read_text(encoding="utf-8") + '{"key": "cut o', encoding="utf-8")
    again = Answers(path)
    assert again.ask(reader, asked, note={}) == "The crimson one" and again.num_asked == 0
    assert reader.num_asked == 1 and reader.limits == {(MAX_TOKENS, 0.0)}
    other = prompts.ask(VECTOR, conversation.questions[1], 800)
    again.ask(reader, other, note={})
    assert reader.num_asked == 2
    row = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    assert (row["arm"], row["wanted"], row["tokens"]) == (VECTOR, "crimson", asked.prompt.report.used_tokens)


def test_rows_and_tables_by_hand(data, tmp_path):
    conversation = load(data)[0]
    prompts = Prompts(live(conversation, tmp_path / "memory", None, None, batch=1000), conversation, Reader())
    found = {
        arm: [
            judge(prompts.ask(arm, q, 800), answer) for q, answer in zip(conversation.questions, answers, strict=True)
        ]
        for arm, answers in (
            (LAST, ("green", "not mentioned", "crimson")),
            (VECTOR, ("crimson", "fan", "not mentioned")),
        )
    }
    rows = rows_of(found, {"model": "reader"}, baseline=LAST)
    value = {(r.arm, r.metric, json.loads(r.settings)["of"]): r.value for r in rows}
    assert value[LAST, "F1", "answerable"] == 0 and value[VECTOR, "F1", "answerable"] == 75
    assert value[VECTOR, "F1", "multi-hop"] == 50 and value[VECTOR, "F1 gain", "answerable"] == 75
    assert value[VECTOR, "refused", "adversarial"] == 100 and value[LAST, "refused", "answerable"] == 50
    assert value[VECTOR, "evidence in the prompt", "all"] == 100 and value[LAST, "evidence in the prompt", "all"] == 0
    assert (LAST, "F1 gain", "answerable") not in value and (LAST, "F1", "adversarial") not in value
    shown = show(rows)
    assert "| vector only " in shown and "75.0 (50.0 to 100.0)" in shown and "multi-hop (1)" in shown


def test_the_command_writes_rows_and_goes_on_where_it_was(data, tmp_path, reader, capsys):
    results, cache = tmp_path / "qa.csv", tmp_path / "answers.jsonl"
    command = ["--data", str(data), "--models", "extractive", "some-model", "--embedder", "none", "--budgets", "600"]
    command += ["--questions", "7", "--cache", str(cache), "--results", str(results)]
    dialogue_qa.main(command)
    first, asked = read_rows(results), reader.num_asked
    value = {
        (json.loads(r["settings"])["model"], json.loads(r["settings"])["split"], r["arm"], r["metric"]): r
        for r in first
        if json.loads(r["settings"])["of"] in ("all", "answerable")
    }
    assert float(value["reader", "all", VECTOR, "F1"]["value"]) > float(value["reader", "all", LAST, "F1"]["value"])
    assert value["reader", "all", BOTH, "prompt tokens"]["samples"] == "7"
    assert value["extractive", "all", BOTH, "prompt tokens"]["samples"] == "12"
    assert all(float(r["high"]) <= 600 for r in first if r["metric"] == "prompt tokens")
    assert {json.loads(r["settings"])["split"] for r in first} == {"tuned on", "report", "all"}
    dialogue_qa.main(command)
    assert reader.num_asked == asked and [r["value"] for r in read_rows(results)[len(first) :]] == [
        r["value"] for r in first
    ]
    assert "7 of 7 questions; 0 new answers" in capsys.readouterr().out


def test_bad_options(data, tmp_path, capsys):
    for options, message in (
        (["--data", str(tmp_path / "none.json")], "is not a file"),
        (["--data", str(data), "--questions", "-1"], "--questions must be at least 0; got -1"),
        (["--data", str(data), "--arms", "all of it"], "invalid choice"),
    ):
        with pytest.raises(SystemExit):
            dialogue_qa.main(options)
        assert message in capsys.readouterr().err


def test_quick_writes_no_rows(data, reader, tmp_path, monkeypatch):
    monkeypatch.setattr(dialogue_qa, "RESULTS", tmp_path / "results")
    options = [
        "--quick",
        "--models",
        "m",
        "--embedder",
        "none",
        "--budgets",
        "300",
        "--cache",
        str(Path(tmp_path, "c")),
    ]
    dialogue_qa.main(["--data", str(data), *options])
    assert not (tmp_path / "results").exists() and reader.num_asked


def test_the_figure_has_a_bar_an_arm_and_model(data, reader, tmp_path, capsys):
    results = tmp_path / "results"
    options = ["--quick", "--models", "extractive", "m", "--embedder", "none", "--cache", str(tmp_path / "c")]
    dialogue_qa.main(["--data", str(data), *options, "--results", str(results / "dialogue_qa.csv")])
    plot.main(["--results", str(results)])
    assert (results / "dialogue_qa.png").stat().st_size > 10_000
    axes = plot.answers_figure(read_rows(results / "dialogue_qa.csv")).axes
    assert [len(axis.patches) for axis in axes] == [2 * len(ARMS)] * 3
    evidence = dict(zip(ARMS, (patch.get_width() for patch in axes[2].patches), strict=False))
    assert evidence[NO_MEMORY] == 0 and evidence[VECTOR] == 100
