"""`memarch chat` on a pseudo-terminal: keys, several lines, Ctrl-C, resizing, history, completion, questions."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memarch.dialogue.memory import DialogueMemory

from ..dialogue.generators._chat_server import Behaviour, Handler, chat_server, hanging, saying
from ._terminal import Terminal

DONE = "tokens in"


@contextmanager
def typing(home: Path, *behaviours: Behaviour, options: tuple[str, ...] = (), **variables: str) -> Iterator[Terminal]:
    """A chat whose first prompt is there."""
    place = ("--embedder", "none", "--path", str(home / "memories"))
    with chat_server(*(behaviours or (saying("Yes."),))) as server:
        with Terminal(home, "chat", *place, "-m", f"{server.url}#tiny", *options, **variables) as terminal:
            terminal.wait_for("Ctrl-D leaves")
            terminal.wait_for("/help")
            yield terminal


def turns(home: Path) -> list[tuple[str, str]]:
    with DialogueMemory(home / "memories", embedder="none", read_only=True) as memory:
        return [(turn.role, turn.text) for turn in memory.turns()]


def history(home: Path) -> str:
    files = list((home / ".local/share/memarch/chat-history").glob("*"))
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    return "".join(file.read_text("utf-8") for file in files)


def leave(terminal: Terminal) -> None:
    terminal.wait_for("/help")
    terminal.type("\x04")
    assert terminal.ended() == 0


def test_ctrl_c_keeps_what_came_and_ctrl_d_leaves(tmp_path: Path) -> None:
    with typing(tmp_path, hanging("one ", "two "), saying("three")) as terminal:
        terminal.type("Count.\r")
        terminal.wait_for("one two ")
        terminal.resize(60)
        terminal.type("\x03")
        shown = terminal.wait_for(DONE)
        assert "stopped: what came so far is kept" in shown and "turn 2 " in shown
        terminal.wait_for("/help")
        terminal.type("\x03")
        terminal.wait_for("Ctrl-D or /quit leaves")
        terminal.wait_for("/help")
        terminal.type("Go on.\r")
        terminal.wait_for("three")
        terminal.wait_for(DONE)
        leave(terminal)
    assert turns(tmp_path) == [
        ("user", "Count."),
        ("assistant", "one two [… stopped]"),
        ("user", "Go on."),
        ("assistant", "three"),
    ]


def test_several_lines_and_a_resized_window(tmp_path: Path) -> None:
    with typing(tmp_path) as terminal:
        terminal.type('"""one\r')
        terminal.resize(70)
        terminal.type('two\r"""\r')
        terminal.wait_for(DONE)
        terminal.wait_for("/help")
        terminal.resize(120)
        terminal.type("three\x1b\rfour\r")  # Alt-Enter
        terminal.wait_for(DONE)
        leave(terminal)
    assert [text for role, text in turns(tmp_path) if role == "user"] == ["one\ntwo", "three\nfour"]


def test_what_is_typed_meanwhile_is_the_next_message(tmp_path: Path) -> None:
    has_typed = threading.Event()

    def slow(handler: Handler) -> None:
        handler.start()
        handler.event("one ")
        has_typed.wait(30)
        handler.event(None, "stop")

    with typing(tmp_path, slow, saying("two")) as terminal:
        terminal.type("First.\r")
        terminal.wait_for("one ")
        terminal.type("Second.\r")
        has_typed.set()
        terminal.wait_for("two")
        leave(terminal)
    assert [text for role, text in turns(tmp_path) if role == "user"] == ["First.", "Second."]


def test_history_completion_and_what_erasing_leaves(tmp_path: Path) -> None:
    with typing(tmp_path) as terminal:
        terminal.type("The code is xylophone.\r")
        terminal.wait_for(DONE)
        terminal.wait_for("/help")
        terminal.type("/incog")
        terminal.wait_for("/incognito")  # in the menu below
        terminal.type("\t")
        terminal.wait_for("nito")
        terminal.type("\r")
        terminal.wait_for("nothing is stored from here on")
        terminal.wait_for("/help")
        terminal.type("Whisper.\r")
        terminal.wait_for(DONE)
        terminal.wait_for("/help")
        terminal.type("/incognito off\r")
        terminal.wait_for("is stored again")
        leave(terminal)
    assert "xylophone" in history(tmp_path) and "Whisper" not in history(tmp_path)
    with typing(tmp_path, options=("-c",)) as terminal:
        terminal.type("\x1b[A\x1b[A\r")  # up, up: the line before /incognito
        terminal.wait_for(DONE)
        assert [text for role, text in turns(tmp_path) if role == "user"] == ["The code is xylophone."] * 2
        terminal.wait_for("/help")
        terminal.type("/erase session\r")
        terminal.wait_for("Erase 4 turns for good (session)? [y/N]")
        terminal.type("\r")
        terminal.wait_for("nothing was changed")
        terminal.wait_for("/help")
        assert len(turns(tmp_path)) == 4
        terminal.type("/erase session\r")
        terminal.wait_for("[y/N]")
        terminal.type("y\r")
        terminal.wait_for("erased 4 turns and 4 chunks, 2 lines of the input history")
        leave(terminal)
    assert "xylophone" not in history(tmp_path) and "/erase session" in history(tmp_path) and turns(tmp_path) == []
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"xylophone" in path.read_bytes()]


def test_a_failure_is_told_and_the_chat_goes_on(tmp_path: Path) -> None:
    with typing(tmp_path, options=("-m", "http://127.0.0.1:9/v1#gone")) as terminal:
        terminal.type("Hello.\r")
        terminal.wait_for("your message is kept: /retry asks again")
        # Once by itself, before anything was asked, and once for the message.
        assert terminal.screen.count("error: cannot reach the model's server http://127.0.0.1:9/v1") == 2
        terminal.wait_for("/help")
        terminal.type("/model extractive\r")
        terminal.wait_for("extractive (")
        terminal.wait_for("/help")
        terminal.type("/retry\r")
        terminal.wait_for("I found nothing about that in memory.")
        terminal.wait_for(DONE)
        leave(terminal)
    assert [role for role, _ in turns(tmp_path)] == ["user", "assistant"]


def test_going_on_shows_the_last_turns_and_offers_the_answer(tmp_path: Path) -> None:
    with DialogueMemory(tmp_path / "memories", embedder="none") as memory:
        memory.add("user", "One \x1b[31mred?", session="s")
        memory.add("assistant", "half [… broken off]", session="s")
        memory.add("user", "Two?", session="s")
    place = ("--embedder", "none", "--path", str(tmp_path / "memories"))
    with Terminal(tmp_path, "chat", *place, "-m", "extractive", "-c", NO_COLOR="1") as terminal:
        assert "half [… broken off]" in terminal.wait_for("> Two?")
        terminal.wait_for("answer it now? [Y/n]")
        terminal.type("\r")
        terminal.wait_for(DONE)
        terminal.wait_for("/help")
        terminal.type("/edit\r")
        terminal.wait_for("edit> Two?")
        terminal.type("\x7fo!\r")
        terminal.wait_for(DONE)
        leave(terminal)
        assert "\x1b[31m" not in terminal.raw and "\x1b[32m" not in terminal.raw
    assert [text for role, text in turns(tmp_path) if role == "user"] == ["One \x1b[31mred?", "Twoo!"]


def test_incognito_leaves_nothing(tmp_path: Path) -> None:
    with typing(tmp_path, options=("--no-log",)) as terminal:
        assert "incognito: nothing is stored" in terminal.screen
        terminal.type("Whisper.\r")
        terminal.wait_for(DONE)
        leave(terminal)
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == []
