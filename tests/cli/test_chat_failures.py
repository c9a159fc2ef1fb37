"""What goes wrong while a chat answers: what was said stays, the message says what to do, and it can go on."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from memarch.cli.app import app
from memarch.dialogue.errors import GenerationTimeout, ModelOutOfMemory
from memarch.dialogue.memory import DialogueMemory

from ..dialogue._scripted import wait_for
from ..dialogue.generators._chat_server import ChatServer, breaking_off, chat_server, hanging, saying
from ._chat_shell import ChatShell
from ._transcript import command, environment


def chat(home: Path, typed: str, *options: str) -> Result:
    """With the model that the options name."""
    place = ["--embedder", "none", "--path", str(home / "memories")]
    return CliRunner().invoke(app, ["chat", *options, *place], input=typed)


def turns(home: Path) -> list[tuple[str, str]]:
    with DialogueMemory(home / "memories", embedder="none", read_only=True) as memory:
        return [(turn.role, turn.text) for turn in memory.turns()]


@contextmanager
def process(home: Path, server: ChatServer, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`memarch chat` with the server's model, between pipes."""
    place = ["--embedder", "none", "--path", str(home / "memories"), "--model", f"{server.url}#tiny"]
    with subprocess.Popen(
        command("chat", *options, *place),
        cwd=home,
        env=environment() | {"HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.mark.parametrize("name", ["hf:/no/such/model", "smollm2"])
def test_a_missing_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("memarch.dialogue.generators.smollm2.installed_gguf", lambda: None)
    result = chat(tmp_path, "Hello\n", "-m", name)
    assert result.exit_code == 1 and result.stdout == "" and result.stderr.count("\n") == 1
    assert ("memarch models get smollm2" if name == "smollm2" else "Expected a folder") in result.stderr
    assert turns(tmp_path) == [("user", "Hello")]
    result = chat(tmp_path, "/retry\n", "-c", "-m", "extractive")
    assert (result.exit_code, result.stdout) == (0, "I found nothing about that in memory.\n")


@pytest.mark.parametrize("error", [ModelOutOfMemory("take a smaller model"), GenerationTimeout("no token for 2 s")])
def test_a_model_that_fails_in_the_middle(talk: ChatShell, error: Exception) -> None:
    result = talk("Hello\nnever read\n", answers=(["half of ", error],), code=1)
    assert result.stdout == "half of \n" and result.stderr == f"error: {error}\n"
    assert talk.turns() == [("user", "Hello"), ("assistant", "half of [… broken off]")]
    events = talk.events("Hello\n", answers=([error],), code=1)
    assert events[-1] == {"event": "error", "error": type(error).__name__, "message": str(error)}
    assert talk("/retry\n", "-c", answers=("whole",)).stdout == "whole\n"
    assert talk.turns()[2:] == [("user", "Hello"), ("assistant", "whole")]


def test_a_server_that_is_down_and_comes_back(tmp_path: Path) -> None:
    with chat_server(saying("x")) as server:
        url = server.url
    result = chat(tmp_path, "Hello\n", "-m", f"{url}#tiny")
    assert result.exit_code == 1 and f"cannot reach the model's server {url}" in result.stderr
    assert turns(tmp_path) == [("user", "Hello")]
    with chat_server(breaking_off("Hi "), saying("Hi ", "Ada.")) as server:
        result = chat(tmp_path, "/retry\n", "-c", "-m", f"{server.url}#tiny")
        assert result.exit_code == 1 and "in the middle of the answer" in result.stderr
        assert turns(tmp_path)[1:] == [("assistant", "Hi [… broken off]")]
        result = chat(tmp_path, "/retry\n", "-c", "-m", f"{server.url}#tiny")
    assert (result.exit_code, result.stdout) == (0, "Hi Ada.\n")
    assert turns(tmp_path) == [("user", "Hello"), ("assistant", "Hi Ada.")]


def test_a_server_that_hangs(tmp_path: Path) -> None:
    with chat_server(hanging("Hi ")) as server:
        result = chat(tmp_path, "Hello\n", "-m", f"{server.url}#tiny", "--timeout", "0.3")
    assert result.exit_code == 1 and "gave no token for 0.3 s" in result.stderr
    assert turns(tmp_path) == [("user", "Hello"), ("assistant", "Hi [… broken off]")]


def test_a_memory_that_somebody_else_writes(talk: ChatShell) -> None:
    with DialogueMemory(talk.location, embedder="none") as memory:
        memory.add("user", "My sister Nora moved to Lyon.")
        result = talk("Hello\n", code=3)
        assert result.stdout == "" and str(os.getpid()) in result.stderr
        assert talk("Where is Nora?\n", "--no-log", answers=("Lyon.",)).stdout == "Lyon.\n"
        assert "Nora moved" in str(talk.model.seen[-1])


def test_stdin_that_is_no_utf8_and_an_empty_message(talk: ChatShell) -> None:
    assert "stdin should be UTF-8; line 2 is not" in talk(b"Hello\n\xff\n", answers=("Hi.",), code=2).stderr
    assert "expected a message to answer" in talk(" \n", "-", code=2).stderr


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    with chat_server(saying("one\n", *["more\n"] * 2000)) as server, process(tmp_path, server) as child:
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        child.stdin.write(b"Count.\nnever answered\n")
        child.stdin.close()
        assert child.stdout.readline() == b"one\n"
        child.stdout.close()
        assert child.wait(30) == 0 and child.stderr.read() == b""
    assert turns(tmp_path)[0] == ("user", "Count.") and len(turns(tmp_path)) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_in_the_middle_of_an_answer(tmp_path: Path, number: signal.Signals) -> None:
    with chat_server(hanging("one ", "two ")) as server, process(tmp_path, server, "--json") as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(b"Count.\n")
        child.stdin.flush()
        pieces = [json.loads(child.stdout.readline()) for _ in range(5)]
        assert [piece["event"] for piece in pieces] == ["session", "stored", "composed", "piece", "piece"]
        child.send_signal(number)
        code = child.wait(30)
    kept = turns(tmp_path)
    assert kept[0] == ("user", "Count.")
    if number == signal.SIGTERM:
        # Which mark depends on whether the signal came while waiting for the model or while writing.
        ((role, text),) = kept[1:]
        assert code == 128 + number and role == "assistant"
        assert text in ("one two [… broken off]", "one two [… stopped]")
    else:
        assert kept[1:] == []
        shown = chat(tmp_path, "", "-c", "-m", "extractive")
        assert "the last message of this session was not answered" in shown.stderr


def test_ctrl_c_in_a_pipe_stops_the_answer_then_the_chat(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with chat_server(hanging("one ")) as server, process(tmp_path, server) as child:
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(b"Count.\n")
            child.stdin.flush()
            assert child.stdout.read(4) == b"one "
            child.send_signal(signal.SIGINT)
            assert wait_for(lambda: len(turns(tmp_path)) == 2)
            child.send_signal(signal.SIGINT)
            assert child.wait(30) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert turns(tmp_path) == [("user", "Count."), ("assistant", "one [… stopped]")]
