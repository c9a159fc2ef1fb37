"""Replaying a recorded dialogue: storing once, prompts turn by turn, evidence found or not, recall."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from memarch.data.dialogues import GeneratedDialogue, generate_dialogue, write_jsonl
from memarch.dialogue.formats import Entry
from memarch.dialogue.generators.extractive import ExtractiveGenerator
from memarch.dialogue.memory import DialogueMemory
from memarch.dialogue.questions import Question
from memarch.dialogue.replay import Evidence, Found, Replay, read_recording, recall, recall_by_age

from ._scripted import ScriptedGenerator

NUM_TURNS = 150


@pytest.fixture(scope="module")
def dialogue() -> GeneratedDialogue:
    return generate_dialogue(NUM_TURNS, seed=3, speakers=("user", "assistant"))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[DialogueMemory]:
    with DialogueMemory(tmp_path / "memory", embedder="none") as memory:
        yield memory


def entries(dialogue: GeneratedDialogue) -> list[Entry]:
    return [(turn.role, turn.text, turn.session, turn.time, turn.source_id) for turn in dialogue.turns]


def test_every_turn_is_stored_as_it_was_said(dialogue: GeneratedDialogue, memory: DialogueMemory) -> None:
    seen = []
    fed = Replay(memory, ExtractiveGenerator()).feed(entries(dialogue), progress=lambda *done: seen.append(done))
    assert (fed.num_added, fed.num_known) == (NUM_TURNS, 0)
    stored = [(turn.role, turn.text, turn.session, turn.time, turn.source_id) for turn in memory.turns()]
    assert stored == entries(dialogue)
    assert seen[-1] == (NUM_TURNS, NUM_TURNS)


def test_prompts_are_those_of_a_chat_at_that_turn(dialogue: GeneratedDialogue, tmp_path: Path) -> None:
    turns, generator = entries(dialogue), ExtractiveGenerator()
    with DialogueMemory(tmp_path / "a", embedder="none") as memory:
        fed = Replay(memory, generator, budget_tokens=700).feed(turns)
    places = [place for place, _, _ in fed.prompt_tokens]
    assert places == [i for i, turn in enumerate(turns) if i and turn[0] == "user"]
    assert all(0 < tokens <= 700 for _, tokens, _ in fed.prompt_tokens)
    with DialogueMemory(tmp_path / "b", embedder="none") as memory:
        place, tokens, whole = fed.prompt_tokens[30]
        memory.add_all(turns[:place])
        report = memory.compose(
            turns[place][1], 700, count_tokens=generator.count_tokens, count_prompt=generator.count_prompt
        ).report
        assert report.used_tokens == tokens
        assert whole == sum(generator.count_tokens(f"{role}: {text}\n") for role, text, *_ in turns[:place])


def test_prompts_looked_at_are_few_and_spread(dialogue: GeneratedDialogue, memory: DialogueMemory) -> None:
    fed = Replay(memory, ExtractiveGenerator()).feed(entries(dialogue), max_prompts=5)
    places = [place for place, _, _ in fed.prompt_tokens]
    assert len(places) == 5 and places[-1] > NUM_TURNS * 0.8 and places[0] > NUM_TURNS * 0.1
    assert [turn.source_id for turn in memory.turns()] == [turn.source_id for turn in dialogue.turns]


def test_a_second_replay_stores_nothing_and_a_broken_one_goes_on(
    dialogue: GeneratedDialogue, memory: DialogueMemory
) -> None:
    turns = entries(dialogue)
    memory.add_all(turns[:40])
    replay = Replay(memory, ExtractiveGenerator())
    fed = replay.feed(turns, max_prompts=3)
    assert (fed.num_added, fed.num_known) == (NUM_TURNS - 40, 40)
    assert all(place >= 40 for place, _, _ in fed.prompt_tokens)
    again = replay.feed(turns)
    assert (again.num_added, again.num_known, again.prompt_tokens) == (0, NUM_TURNS, ())
    assert memory.stats().num_turns == NUM_TURNS


def test_erased_turns_stay_erased(dialogue: GeneratedDialogue, memory: DialogueMemory) -> None:
    replay = Replay(memory, ExtractiveGenerator())
    replay.feed(entries(dialogue), max_prompts=0)
    memory.erase(source_id="S1:3")
    assert replay.feed(entries(dialogue), max_prompts=0).num_added == 0
    assert not memory.store.find_turns(source_id="S1:3")


def test_another_text_of_the_same_name_is_refused(dialogue: GeneratedDialogue, memory: DialogueMemory) -> None:
    memory.add("user", "something else", source_id="S2:1")
    with pytest.raises(ValueError, match="turn 'S2:1' of the recording has another text"):
        Replay(memory, ExtractiveGenerator()).feed(entries(dialogue))
    assert memory.stats().num_turns == 1


def test_a_message_over_the_budget_is_stored_without_a_prompt(memory: DialogueMemory) -> None:
    turns = [("user", "hello", None, None, "a"), ("user", "long " * 300, None, None, "b")]
    fed = Replay(memory, ExtractiveGenerator(), budget_tokens=200).feed(turns)
    assert fed.num_added == 2 and fed.prompt_tokens == ()


def test_evidence_is_told_by_part_rank_and_age(memory: DialogueMemory) -> None:
    turns = [("user", f"A plain remark, number {i}.", "1", None, f"t{i}") for i in range(60)]
    turns[10] = ("user", "My kite is crimson.", "1", None, "t10")
    turns[58] = ("user", "The kite flew away.", "1", None, "t58")
    replay = Replay(memory, ExtractiveGenerator())
    replay.feed(turns, max_prompts=0)
    found = replay.find(Question("Which colour is the kite?", "crimson", ("t10", "t58", "t30", "gone")))
    first, recent, missed, unknown = found.evidence
    assert (first.turn, first.age_turns, first.part) == (11, 49, "retrieved") and first.rank in (1, 2)
    assert (recent.age_turns, recent.part) == (1, "recent")
    assert missed == Evidence("t30", 31, 29, None, None, "A plain remark, number 30.")
    assert unknown == Evidence("gone", None, None, None, None)
    assert found.recall == pytest.approx(2 / 3)
    assert "crimson" in "".join(replay.answer(found))


def test_asking_changes_nothing(dialogue: GeneratedDialogue, memory: DialogueMemory) -> None:
    replay = Replay(memory, ExtractiveGenerator())
    replay.feed(entries(dialogue), max_prompts=0)
    before = [chunk.retrieved_at for chunk in memory.store.chunks()]
    for asked in dialogue.questions[:5]:
        "".join(replay.answer(replay.find(Question(asked.question))))
    memory.flush()
    assert [chunk.retrieved_at for chunk in memory.store.chunks()] == before == [None] * NUM_TURNS
    assert memory.stats().num_turns == NUM_TURNS


def test_feeding_is_what_forgetting_sees_as_use(dialogue: GeneratedDialogue, memory: DialogueMemory) -> None:
    Replay(memory, ExtractiveGenerator()).feed(entries(dialogue))
    memory.flush()
    assert any(chunk.retrieved_at for chunk in memory.store.chunks())


def test_the_model_gets_prompt_and_memories(memory: DialogueMemory) -> None:
    memory.add("user", "My kite is crimson.", source_id="a")
    memory.add("user", "Good night.", session="2")
    generator = ScriptedGenerator("It is crimson.")
    replay = Replay(memory, generator, system="Be brief.")
    found = replay.find(Question("Which colour is my kite?", evidence=("a",)))
    assert "".join(replay.answer(found)) == "It is crimson."
    assert generator.seen == [found.prompt.messages] and generator.hits == [found.prompt.hits]
    assert found.prompt.messages[0]["content"].startswith("Be brief.") and found.recall == 1


def test_recall_by_hand() -> None:
    def found(*pieces: tuple[int | None, str | None]) -> Found:
        evidence = tuple(
            Evidence(str(i), None if age is None else 1, age, None, part) for i, (age, part) in enumerate(pieces)
        )
        return Found(Question("?"), None, evidence, 0.0)  # type: ignore[arg-type]

    questions = [found((5, "recent"), (400, None)), found((29, None)), found((30, "retrieved")), found((None, None))]
    assert recall(questions) == pytest.approx((0.5 + 0 + 1) / 3)
    assert recall([found()]) is None
    assert recall_by_age(questions) == [(0, 30, 1, 2), (30, 100, 1, 1), (300, 1000, 0, 1)]
    assert recall_by_age([found((9000, None))]) == [(3000, None, 0, 1)]


def test_a_long_dialogue_is_remembered(dialogue: GeneratedDialogue, memory: DialogueMemory) -> None:
    replay = Replay(memory, ExtractiveGenerator())
    replay.feed(entries(dialogue), max_prompts=0)
    found = [replay.find(Question(q.question, q.answer, q.evidence, q.kind)) for q in dialogue.questions]
    score = recall(found)
    assert score is not None and score > 0.6


def test_recordings_of_every_format(dialogue: GeneratedDialogue, memory: DialogueMemory, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "talk.jsonl", dialogue.turns)
    assert list(read_recording(tmp_path / "talk.jsonl").turns) == entries(dialogue)
    memory.add_all(entries(dialogue)[:5])
    memory.export(tmp_path / "export.jsonl")
    assert list(read_recording(tmp_path / "export.jsonl").turns) == entries(dialogue)[:5]
    (tmp_path / "talk.txt").write_text("Ada: hello\nBo: hi\nand more\n", encoding="utf-8")
    assert read_recording(tmp_path / "talk.txt").turns == (
        ("Ada", "hello", "talk", None, "talk:1"),
        ("Bo", "hi\nand more", "talk", None, "talk:2"),
    )


def test_a_conversation_of_locomos_must_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "locomo.json"
    turn = {"speaker": "Ann", "dia_id": "D1:1", "text": "Hello"}
    asked = {"question": "Who?", "answer": "Ann", "evidence": ["D1:1"], "category": 4}
    samples = [
        {"sample_id": name, "conversation": {"session_1": [turn]}, "qa": [asked]} for name in ("conv-1", "conv-2")
    ]
    path.write_text(json.dumps(samples), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"choose one of its 2 conversations \(conv-1, conv-2\); .* locomo.json#conv-1"
    ):
        read_recording(path)
    recording = read_recording(path, conversation="conv-2")
    assert recording.turns == (("Ann", "Hello", "session_1", None, "D1:1"),)
    assert recording.questions == (Question("Who?", "Ann", ("D1:1",), "single-hop"),)
    with pytest.raises(ValueError, match="no conversation 'conv-9'"):
        read_recording(path, conversation="conv-9")
    (tmp_path / "talk.txt").write_text("Ada: hello\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is no LoCoMo file"):
        read_recording(tmp_path / "talk.txt", conversation="conv-1")
