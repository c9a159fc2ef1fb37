"""What every generator has: defaults, whole answers, and the same model as summarizer; and the watch over answers."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memarch.dialogue.errors import GenerationTimeout
from memarch.dialogue.generators._watched import Watcher
from memarch.dialogue.generators.base import check_request, complete, summarizer_of
from memarch.dialogue.memory import DialogueMemory

from .._scripted import ScriptedGenerator, wait_for


def test_defaults_and_whole_answers() -> None:
    model = ScriptedGenerator("one two  three")
    model.load()
    assert model.to_store("kept") == "kept"
    assert complete(model, [{"role": "user", "content": "count"}]) == "one two  three"


def test_the_model_writes_compact_memory(tmp_path: Path) -> None:
    model = ScriptedGenerator("Ada likes tea.", "Ada likes tea and rain.")
    with DialogueMemory(tmp_path, embedder=None, summarizer=summarizer_of(model)) as memory:
        for n in range(30):
            memory.add("user", f"I like tea number {n}.")
        assert "Ada likes tea" in memory.summary()
        assert {summary.summarizer for summary in memory.store.summaries()} == {"scripted"}
    assert "<dialogue>" in model.seen[0][1]["content"]


@pytest.mark.parametrize(("max_tokens", "temperature"), [(0, 0.0), (True, 0.0), (5, -0.1), (5, float("nan"))])
def test_requests_are_checked(max_tokens: int, temperature: float) -> None:
    with pytest.raises(ValueError, match="max_tokens|temperature"):
        check_request(max_tokens, temperature)


def test_watched_pieces_come_in_order_and_errors_after_them() -> None:
    def make(over: threading.Event) -> Iterator[str]:
        yield "a"
        yield "b"
        raise LookupError("mine")

    stream = Watcher("it", 5).pieces(make, None)
    assert [next(stream), next(stream)] == ["a", "b"]
    with pytest.raises(LookupError, match="mine"):
        next(stream)


def test_whoever_makes_an_answer_is_told_when_nobody_waits() -> None:
    told: list[bool] = []

    def make(over: threading.Event) -> Iterator[str]:
        yield "a"
        told.append(over.wait(10))

    abandoned: list[int] = []
    watcher, stop = Watcher("it", 5), threading.Event()
    for end in ("close", "stop", "error"):
        stream = watcher.pieces(make, stop, abandon=lambda: abandoned.append(1))
        assert next(stream) == "a"
        if end == "close":
            stream.close()
        elif end == "stop":
            stop.set()
            assert list(stream) == []
            stop.clear()
        else:
            with pytest.raises(KeyboardInterrupt):
                stream.throw(KeyboardInterrupt)  # as Ctrl-C does while it waits
        assert wait_for(lambda: len(told) == len(abandoned)) and told[-1]
    assert len(told) == 3


def test_each_piece_starts_the_time_anew() -> None:
    def make(over: threading.Event) -> Iterator[str]:
        for _ in range(6):
            time.sleep(0.1)
            yield "."
        over.wait(10)

    stream = Watcher("the snail", 0.4).pieces(make, None)
    assert [next(stream) for _ in range(6)] == ["."] * 6
    with pytest.raises(GenerationTimeout, match="the snail gave no token for 0.4 s"):
        next(stream)
