"""`memarch memory` with a passphrase: from a file or the environment, never from the command line."""

from pathlib import Path

import pytest

from ._memory_shell import DIALOGUE, Shell

pytest.importorskip("sqlcipher3")


@pytest.fixture
def key_file(shell: Shell) -> str:
    file = shell.home / "key.txt"
    file.write_text("open sesame\n", encoding="utf-8")
    return str(file)


def test_a_memory_with_a_key_file(shell: Shell, key_file: str) -> None:
    shell("import", "-", "--key-file", key_file, "--embedder", "none", stdin=DIALOGUE)
    assert not any(b"Nora" in path.read_bytes() for path in Path(shell.location).rglob("*") if path.is_file())
    assert "Nora" in shell("search", "Nora", "--key-file", key_file).stdout
    assert shell("verify", "--key-file", key_file).stdout == "fine: 3 turns, 3 chunks, 0 vectors\n"
    assert line_of(shell("stats", "--key-file", key_file).stdout, "on disk").endswith(", encrypted")
    assert shell.json("stats", "--key-file", key_file)["encrypted"] is True
    for command in (["sessions"], ["forget", "--turn", "1", "--yes"], ["restore"], ["repair"]):
        shell(*command, "--key-file", key_file)
    shell("erase", "--turn", "1", "--yes", "--key-file", key_file)
    assert shell("search", "Nora", "--key-file", key_file, code=1).stdout == ""


def test_the_environment_gives_the_key_too(shell: Shell, key_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMARCH_KEY", "open sesame")
    shell("add", "My sister Nora moved to Lyon.")
    monkeypatch.delenv("MEMARCH_KEY")
    result = shell("search", "Nora", code=3)
    assert "--key-file or MEMARCH_KEY" in result.stderr and result.stderr.count("\n") == 1
    monkeypatch.setenv("MEMARCH_KEY", "wrong")
    assert "another key" in shell("search", "Nora", code=3).stderr
    assert "Nora" in shell("search", "Nora", "--embedder", "none", "--key-file", key_file).stdout  # the file goes first


def test_encrypting_what_is_there_and_another_passphrase(filled: Shell, key_file: str) -> None:
    assert "--new-key-file" in filled("stats", "--key-file", key_file, code=3).stderr
    safe = str(filled.home / "safe")
    filled("migrate", "--to", safe, "--new-key-file", key_file)
    assert not any(b"Nora" in path.read_bytes() for path in Path(safe).rglob("*") if path.is_file())
    filled.location = safe
    new = filled.home / "new.txt"
    new.write_text("close sesame", encoding="utf-8")
    shown = filled("change-key", "--key-file", key_file, "--new-key-file", str(new)).stdout
    assert shown == "the memory of default has the new passphrase\n"
    assert filled.json("stats", "--key-file", str(new))["num_turns"] == 3
    filled("stats", "--key-file", key_file, code=3)
    assert "got neither" in filled("change-key", "--key-file", str(new), code=2).stderr


@pytest.mark.parametrize(("data", "message"), [(b"", "got 0"), (b"two\nlines\n", "got 2"), (b"\xff\xfe", "UTF-8")])
def test_a_key_file_that_is_none(shell: Shell, data: bytes, message: str) -> None:
    file = shell.home / "key.txt"
    file.write_bytes(data)
    assert message in shell("add", "hello", "--key-file", str(file), code=2).stderr
    assert not Path(shell.location).exists()


def test_a_key_file_that_is_not_there(shell: Shell) -> None:
    assert "No such file" in shell("add", "hello", "--key-file", str(shell.home / "none"), code=3).stderr
    assert not Path(shell.location).exists()


def test_no_option_takes_the_key_itself_and_the_help_tells_where_it_goes(shell: Shell) -> None:
    for command in ("search", "add", "migrate", "verify"):
        shown = " ".join(shell(command, "--help", place=False).output.split())
        assert "--key-file" in shown and "MEMARCH_KEY" in shown and "--key " not in shown


def line_of(output: str, name: str) -> str:
    return next(line for line in output.splitlines() if line.startswith(name))
