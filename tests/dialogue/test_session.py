"""A conversation with a scripted model: what is stored when, what the model sees, and taking things back."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from memarch.dialogue.errors import BackendDown, ContextExceeded, GenerationTimeout, ModelMissing
from memarch.dialogue.generators.extractive import ExtractiveGenerator
from memarch.dialogue.generators.transformers_generator import TransformersGenerator
from memarch.dialogue.memory import DialogueMemory
from memarch.dialogue.session import (
    NOTES_SESSION,
    UNDO_WINDOW,
    Answer,
    ChatSession,
    Composed,
    Piece,
    Stored,
    is_partial,
    latest_session,
    new_session,
)

from ._fakes import FakeEmbedder
from ._scripted import ScriptedGenerator


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[DialogueMemory]:
    """A session from before."""
    with DialogueMemory(tmp_path, user="ada", embedder=FakeEmbedder()) as opened:
        opened.add("user", "My sister Nora moved to Lyon.", session="old")
        opened.add("assistant", "Good for her.", session="old")
        yield opened


def said(memory: DialogueMemory, session: str = "now") -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in memory.turns(session=session)]


def chat(memory: DialogueMemory, *answers, **options) -> tuple[ChatSession, ScriptedGenerator]:
    model = ScriptedGenerator(*answers)
    return ChatSession(memory, model, session="now", system="Be brief.", **options), model


def test_a_turn_is_stored_retrieved_for_composed_answered_and_stored(memory: DialogueMemory) -> None:
    session, model = chat(memory, "She lives in Lyon.")
    events = session.say("Where does Nora live?")
    assert said(memory) == [("user", "Where does Nora live?")]  # before anything else
    stored, composed, *pieces, answer = list(events)
    assert isinstance(stored, Stored) and stored.turn.text == "Where does Nora live?"
    assert isinstance(composed, Composed) and composed.retrieval_ms > 0
    assert [piece.text for piece in pieces if isinstance(piece, Piece)] == ["She ", "lives ", "in ", "Lyon."]
    assert isinstance(answer, Answer) and answer == session.last_answer
    assert (answer.text, answer.status, answer.num_tokens) == ("She lives in Lyon.", "done", 4)
    assert answer.turn == memory.turns(last=1)[0] and 0 <= answer.first_seconds <= answer.seconds
    assert said(memory)[1:] == [("assistant", "She lives in Lyon.")] and session.pending() is None

    assert session.prompt() == model.seen[0] == composed.prompt.messages
    assert [hit.turn for hit in session.why()] == [hit.turn for hit in model.hits[0]]
    assert 1 in [hit.turn for hit in session.why()] and stored.turn.turn not in [hit.turn for hit in session.why()]
    assert session.why()[0].parts and session.why()[0].age_turns > 0
    assert session.prompt()[0]["content"].startswith("Be brief.")
    assert sum(message["content"].count("Where does Nora live?") for message in session.prompt()) == 1
    assert session.budget().used_tokens == model.count_prompt(session.prompt()) <= 3500


def test_earlier_turns_of_the_session_are_messages_of_their_own(memory: DialogueMemory) -> None:
    session, model = chat(memory, "Two.", "Three.")
    list(session.say("One?"))
    list(session.say("And?"))
    assert [(m["role"], m["content"]) for m in model.seen[1][-3:]] == [
        ("user", model.seen[1][-3]["content"]),
        ("assistant", "Two."),
        ("user", "And?"),
    ]
    assert model.seen[1][-3]["content"].endswith("One?")


def close(events: Iterator, session: ChatSession) -> None:
    events.close()  # type: ignore[attr-defined]


def interrupt(events: Iterator, session: ChatSession) -> None:
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt)  # type: ignore[attr-defined]


def cancel(events: Iterator, session: ChatSession) -> None:
    session.cancel()
    last = list(events)[-1]
    assert isinstance(last, Answer) and last.status == "stopped"


@pytest.mark.parametrize("stop", [close, interrupt, cancel])
def test_stopping_keeps_the_part_that_came_with_a_mark(memory: DialogueMemory, stop: Callable[..., None]) -> None:
    session, _ = chat(memory, "one two three four", "five")
    events = session.say("Count.")
    for event in events:
        if event == Piece("two "):
            break
    stop(events, session)
    assert said(memory)[1:] == [("assistant", "one two [\u2026 stopped]")]
    assert session.last_answer.status == "stopped" and is_partial(session.last_answer.turn)
    assert list(session.say("Go on."))[-1].status == "done"
    assert not is_partial(memory.turns(last=1)[0]) and not is_partial(memory.turns(session="now")[0])


@pytest.mark.parametrize("error", [GenerationTimeout("hangs"), BackendDown("gone"), RuntimeError("a bug")])
def test_failing_keeps_the_user_s_turn_and_the_part_that_came(memory: DialogueMemory, error: Exception) -> None:
    session, model = chat(memory, ["half ", error], [error], "All of it.")
    with pytest.raises(type(error)):
        list(session.say("Count."))
    assert said(memory) == [("user", "Count."), ("assistant", "half [\u2026 broken off]")]
    assert session.last_answer.status == "failed"
    with pytest.raises(type(error)):
        list(session.retry())
    assert said(memory)[1:] == [("assistant", "half [\u2026 broken off]")]  # nothing better came
    assert list(session.retry())[-1].text == "All of it."
    assert said(memory) == [("user", "Count."), ("assistant", "All of it.")]
    assert "half" not in str(model.seen[2])


def test_a_question_whose_answer_never_came_is_pending_and_can_be_retried(memory: DialogueMemory) -> None:
    session, _ = chat(memory, [ModelMissing("none")], "", "Here.")
    with pytest.raises(ModelMissing):
        list(session.say("Anybody?"))
    again, _ = chat(memory, "", "Here.")
    assert again.pending().text == "Anybody?"
    answer = list(again.retry())[-1]
    assert (answer.text, answer.turn) == ("", None) and again.pending() is not None
    assert list(again.retry())[-1].text == "Here." and again.pending() is None
    assert [role for role, _ in said(memory)] == ["user", "assistant"]


def test_what_is_too_long_for_the_model_is_stored_and_refused_clearly(memory: DialogueMemory, tiny_chat) -> None:
    session = tiny_chat(memory)
    with pytest.raises(ContextExceeded, match="the budget is 525: shorten"):
        list(session.say("x" * 10_000))
    assert said(memory) == [("user", "x" * 10_000)]
    answer = list(session.say("Hm?"))[-1]
    assert answer.status == "done" and session.budget().used_tokens <= 525


@pytest.fixture
def tiny_chat(tmp_path: Path) -> Callable[[DialogueMemory], ChatSession]:
    """With a real, random model that reads 700 tokens."""
    from .generators._tiny_model import save_tiny_model

    model = TransformersGenerator(save_tiny_model(tmp_path / "model"), num_threads=1, dtype="float32")
    return lambda memory: ChatSession(memory, model, session="now", max_tokens=300)


def test_quoted_memories_are_not_stored_again(memory: DialogueMemory) -> None:
    session = ChatSession(memory, ExtractiveGenerator(), session="now")
    answer = list(session.say("Where does Nora live?"))[-1]
    assert "My sister Nora moved to Lyon." in answer.text and "(turn 1)" in answer.text
    assert "Lyon" not in answer.turn.text and "(turn 1)." in answer.turn.text
    list(session.say("Where does Nora live?"))
    assert [hit.text for hit in memory.search("Lyon", k=50) if "Lyon" in hit.text] == ["My sister Nora moved to Lyon."]


def test_nothing_of_a_prompt_is_stored_when_a_model_answers(memory: DialogueMemory) -> None:
    session, _ = chat(memory, "Yes.", "No.")
    for text in ("Is Nora in Lyon?", "Is she in Nice?"):
        list(session.say(text))
    assert memory.stats().num_turns == 6
    assert not any("<said" in turn.text or "<memory" in turn.text for turn in memory.turns())


def test_undo_erases_the_last_exchange_and_redo_says_it_again(memory: DialogueMemory) -> None:
    session, _ = chat(memory, "a", "b")
    list(session.say("first"))
    list(session.say("second zebra"))
    gone = session.undo()
    assert [turn.text for turn in gone] == ["second zebra", "b"] and session.prompt() == [] and session.why() == []
    assert said(memory) == [("user", "first"), ("assistant", "a")]
    assert all("zebra" not in hit.text for hit in memory.search("zebra"))
    assert [turn.text for turn in session.undo()] == ["first", "a"] and session.undo() == ()
    assert [turn.text for turn in session.redo()] == ["first", "a"]
    again = session.redo()
    assert [(turn.text, turn.time) for turn in again] == [(turn.text, turn.time) for turn in gone]
    assert said(memory)[-1] == ("assistant", "b") and session.redo() == ()
    assert said(memory, "old")  # other sessions stay


def test_the_window_of_undo_is_bounded_closed_by_speaking_and_bypassed_by_erase(memory: DialogueMemory) -> None:
    session, _ = chat(memory, *["x"] * (UNDO_WINDOW + 5))
    for n in range(UNDO_WINDOW + 2):
        list(session.say(f"n{n}"))
    for _ in range(UNDO_WINDOW + 2):
        assert session.undo()
    assert len([1 for _ in range(UNDO_WINDOW + 2) if session.redo()]) == UNDO_WINDOW
    session.undo()
    list(session.say("new"))
    assert session.redo() == ()
    session.undo()
    receipt = session.erase(session="old")
    assert len(receipt.turns) == 2 and said(memory, "old") == []
    assert session.redo() == () and session.prompt() == [] and session.last_answer is None


def test_edit_says_something_else_instead(memory: DialogueMemory) -> None:
    session, model = chat(memory, "a", "b")
    with pytest.raises(ValueError, match="no message in this session to edit"):
        session.edit("x")
    list(session.say("teh cat"))
    with pytest.raises(ValueError, match="expected a text"):
        session.edit(" ")
    list(session.edit("the cat"))
    assert said(memory) == [("user", "the cat"), ("assistant", "b")] and "teh" not in str(model.seen[1])


def test_retry_and_undo_leave_alone_what_is_no_exchange(memory: DialogueMemory) -> None:
    session, _ = chat(memory)
    with pytest.raises(ValueError, match="no message in this session to answer again"):
        session.retry()
    memory.add("user", "hello", session="now")
    memory.add("Nora", "hi", session="now")
    assert session.undo() == () and session.pending() is None


def traces(memory: DialogueMemory) -> tuple[object, ...]:
    """Whatever speaking changes."""
    used = [chunk.retrieved_at for chunk in memory.store.chunks()]
    return memory.turns(), used, memory.store.summaries(), replace(memory.stats(), disk_bytes=None)


def test_incognito_reads_memory_and_leaves_no_trace(memory: DialogueMemory, tmp_path: Path) -> None:
    session, model = chat(memory, "kept", "Lyon it is.", "zebra answer", "again", "after")
    list(session.say("kept"))
    memory.summary()
    memory.index()
    before = traces(memory)
    session.incognito = True
    events = list(session.say("Where does my secret zebra Nora live?"))
    assert isinstance(events[0], Composed) and events[-1].turn is None and 1 in [hit.turn for hit in session.why()]
    list(session.say("And the zebra?"))
    assert model.seen[2][-2]["content"] == "Lyon it is."  # it knows what was said meanwhile
    list(session.retry())
    assert model.seen[3] == model.seen[2] and [t.text for t in session.undo()] == ["And the zebra?", "again"]
    assert len(session.undo()) == 2 and session.undo() == ()
    with pytest.raises(ValueError, match="incognito"):
        session.remember("zebra")
    memory.flush()
    assert traces(memory) == before
    session.incognito = False
    assert session.prompt() == [] and session.redo() == ()
    list(session.say("and now"))
    assert "zebra" not in str(model.seen[-1])
    memory.close()
    assert not any(b"zebra" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_notes_are_pinned_found_and_no_part_of_the_session(memory: DialogueMemory) -> None:
    session, model = chat(memory, "Noted.", "7 pm")
    list(session.say("hello"))
    note = session.remember("The concert begins at 7 pm.")
    assert note.session == NOTES_SESSION and memory.stats().num_pinned == 1
    list(session.say("When does the concert begin?"))
    assert note.turn in [hit.turn for hit in session.why()]
    assert [turn.text for turn in session.undo()] == ["When does the concert begin?", "7 pm"]
    assert latest_session(memory) == "now"


def test_sessions_are_named_and_found(memory: DialogueMemory, tmp_path: Path) -> None:
    first = new_session(memory)
    memory.add("user", "x", session=first)
    assert new_session(memory) != first and latest_session(memory) == first
    memory.add("user", "x", session="old")
    assert latest_session(memory) == "old"
    assert ChatSession(memory, ScriptedGenerator()).session not in ("old", first, "now")
    with DialogueMemory(tmp_path, user="bob", embedder=None) as empty:
        assert latest_session(empty) is None


@pytest.mark.parametrize("text", ["", " \n", None])
def test_nothing_to_say_is_refused_before_anything_is_stored(memory: DialogueMemory, text) -> None:
    session, _ = chat(memory)
    for speak in (session.say, session.edit, session.remember):
        with pytest.raises(ValueError, match="expected a text"):
            speak(text)
    assert memory.stats().num_turns == 2


def test_cancel_from_another_thread(memory: DialogueMemory) -> None:
    session, model = chat(memory, "one two three")
    seen: list[str] = []

    def stop_after_one() -> None:
        thread = threading.Thread(target=session.cancel)
        thread.start()
        thread.join()

    for event in session.say("Count."):
        if isinstance(event, Piece):
            seen.append(event.text)
            stop_after_one()
    assert seen == ["one "] and session.last_answer.status == "stopped"
