"""`memarch memory` in a process of its own: on a terminal, in a pipe whose reader leaves, beside another process."""

import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from memarch.dialogue.memory import DialogueMemory

from ._transcript import command, environment
from ._transcript import memarch as run

CTRL_C = "\x03"


@pytest.fixture
def place(tmp_path: Path) -> str:
    """A memory of two turns."""
    location = str(tmp_path / "memories")
    with DialogueMemory(location, embedder="none") as memory:
        memory.add("user", "My sister Nora moved to Lyon. [red]not markup[/red]")
        memory.add("assistant", "Noted.")
    return location


def on_a_terminal(*arguments: str, typed: str = "", **variables: str) -> tuple[int, str]:
    """Exit code and what a terminal of 100 columns got; `typed` is typed at the question."""
    ours, theirs = pty.openpty()
    # A job in the background ignores Ctrl-C, and so would the child it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command("memory", *arguments),
        env=environment() | {"TERM": "xterm-256color", "COLUMNS": "100"} | variables,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, before)
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 120)[0]:
        try:
            got = os.read(ours, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not got:
            break
        shown += got
        if typed and b"[y/N]" in shown:
            if typed == CTRL_C:
                process.send_signal(signal.SIGINT)
            else:
                os.write(ours, typed.encode())
            typed = ""
    os.close(ours)
    return process.wait(timeout=60), shown.decode()


@pytest.mark.parametrize(("typed", "code"), [("n\n", 1), ("\n", 1), ("\x04", 1), ("yes\n", 0), ("Y\n", 0)])
def test_a_terminal_is_asked(place: str, typed: str, code: int) -> None:
    left, shown = on_a_terminal("erase", "--turn", "1", "-p", place, typed=typed)
    assert left == code and f"Erase 1 turn of user 'default' in {place} (turn 1) for good? [y/N]" in shown.replace(
        "\r\n", ""
    )
    with DialogueMemory(place, embedder="none") as memory:
        assert memory.count() == (1 if code == 0 else 2)
    assert ("nothing was changed" in shown) == (code == 1) and ("erased 1 turn" in shown) == (code == 0)


def test_tables_on_a_terminal_and_no_color(place: str) -> None:
    code, shown = on_a_terminal("search", "Nora", "-p", place, "--embedder", "none")
    assert code == 0 and "\x1b[1m" in shown and "2 turns ago" not in shown and "1 turn ago" in shown
    assert "user: My sister Nora moved to Lyon. [red]not markup[/red]" in shown and "words=" in shown
    code, shown = on_a_terminal("sessions", "-p", place, NO_COLOR="1", TERM="dumb")
    assert code == 0 and "\x1b[" not in shown and "turns" in shown


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    location = str(tmp_path / "m")
    with DialogueMemory(location, embedder="none") as memory:
        memory.add_all([("user", f"turn {n} " + "x" * 400, None, None, None) for n in range(2000)])
    for arguments in (["export", "-"], ["search", "turn", "-k", "2000", "--embedder", "none"]):
        process = subprocess.Popen(
            command("memory", *arguments, "-p", location),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.wait(timeout=60) == 0 and process.stderr.read() == b""
        process.stderr.close()


def test_beside_a_process_that_writes(place: str, tmp_path: Path) -> None:
    code = (
        "import sys; from memarch.dialogue.memory import DialogueMemory as M\n"
        "with M(sys.argv[1], embedder='none') as m: print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, place], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        done = run(tmp_path, "memory", "search", "Nora", "-p", place, "--embedder", "none")
        assert done.returncode == 0 and "Nora moved to Lyon" in done.stdout
        done = run(tmp_path, "memory", "stats", "-p", place)
        assert done.returncode == 0 and "turns      2" in done.stdout
        done = run(tmp_path, "memory", "add", "x", "-p", place)
        assert done.returncode == 3 and done.stdout == ""
        assert f"is being written by process {holder.pid}" in done.stderr and done.stderr.count("\n") == 1
        holder.stdin.close()
    assert run(tmp_path, "memory", "add", "x", "-p", place).returncode == 0


def test_ctrl_c_at_the_question_leaves_everything(place: str) -> None:
    code, shown = on_a_terminal("erase", "--all", "-p", place, typed=CTRL_C)
    assert code == 130 and "interrupted; what was stored stays" in shown and "Traceback" not in shown
    with DialogueMemory(place, embedder="none") as memory:
        assert memory.count() == 2


def test_the_help_is_light_and_tells_the_exit_codes(tmp_path: Path) -> None:
    code = (
        "import sys, memarch.cli.app\n"
        "heavy = {'torch', 'numpy', 'rich.console', 'faiss', 'sentence_transformers', 'memarch.dialogue'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
    for arguments in (["--help"], ["erase", "--help"]):
        shown = " ".join(run(tmp_path, "memory", *arguments).stdout.split())
        assert "0 fine; 1 nothing found" in shown and "130 interrupted" in shown
    verbs = "search add import export sessions stats forget restore erase verify repair migrate path".split()
    shown = run(tmp_path, "memory", "--help").stdout
    assert all(f"│ {verb} " in shown for verb in verbs)


def test_arguments_are_utf8_in_any_locale(tmp_path: Path) -> None:
    variables = environment() | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for text, code in (("é 汉".encode(), 0), (b"a\xffb", 2)):
        arguments = [*(part.encode() for part in command("memory", "add", "-p", "m", "-s")), text, text]
        done = subprocess.run(arguments, cwd=tmp_path, env=variables, capture_output=True, timeout=60)
        assert done.returncode == code, done.stderr
        assert (b"expected UTF-8" in done.stderr) == (code == 2)
    with DialogueMemory(tmp_path / "m", embedder="none") as memory:
        assert [(turn.session, turn.text) for turn in memory.turns()] == [("é 汉", "é 汉")]
