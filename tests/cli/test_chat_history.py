"""The input history of a chat: what is kept, for whom, and that erased text leaves it."""

import stat
from pathlib import Path

import pytest

from memarch.cli._chat_history import MAX_ENTRIES, InputHistory, history_file

from ._memory_shell import Shell


def test_entries_come_back_but_for_a_write_that_was_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "new" / "h.jsonl"
    history = InputHistory(file)
    for text in ("one\ntwo", "é \ud800", "é \ud800", "/why"):
        history.add(text)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with file.open("a", encoding="utf-8") as opened:
        opened.write('"cut')
    assert InputHistory(file).entries == ["one\ntwo", "é \ud800", "/why"]
    assert "cut" not in file.read_text("utf-8")
    file.write_text("".join(f'"{i}"\n' for i in range(MAX_ENTRIES + 5)), encoding="utf-8")
    assert InputHistory(file).entries[:: MAX_ENTRIES - 1] == ["5", str(MAX_ENTRIES + 4)]
    assert len(file.read_text("utf-8").splitlines()) == MAX_ENTRIES
    assert InputHistory(None).entries == [] and InputHistory(tmp_path).entries == []


def test_each_user_and_place_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        history_file("m", "ada"),
        history_file("m", "bob"),
        history_file("n", "ada"),
        history_file("pg://h/m", "a"),
    }
    assert len(files) == 4 and history_file("m", "ada") == history_file(str(tmp_path / "m"), "ada")


def test_scrubbing(tmp_path: Path) -> None:
    history = InputHistory(tmp_path / "h.jsonl")
    for text in ("The code is 1234.", '"""the  CODE\nis 1234."""', "/remember The code is 1234.", "/search code is",
                 "The code is 1234. Right?", "Which code?", "/why"):  # fmt: skip
        history.add(text)
    assert history.scrub(["", "The code is 1234."]) == 5
    assert history.entries == InputHistory(tmp_path / "h.jsonl").entries == ["Which code?", "/why"]
    assert history.scrub(["something else"]) == 0 and len(list(tmp_path.iterdir())) == 1
    history.clear()
    assert list(tmp_path.iterdir()) == [] and history.entries == []


def test_memory_erase_reaches_it(filled: Shell) -> None:
    history = InputHistory(history_file(filled.location, "default"))
    history.add("My sister Nora moved to Lyon.")
    history.add("Anything else?")
    filled("erase", "--turn", "1", "--yes")
    assert history.file is not None and InputHistory(history.file).entries == ["Anything else?"]
    filled("erase", "--all", "--yes")
    assert not history.file.exists()
