"""`memarch memory` as transcripts: what is typed, what is printed, exit codes, JSON, and what stays as it was."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memarch.cli.app import app
from memarch.dialogue.memory import DialogueMemory

from ..dialogue._fakes import FakeEmbedder
from ._memory_shell import Shell

LOCOMO: dict[str, Any] = {
    "sample_id": "conv-1",
    "conversation": {
        "session_1": [{"speaker": "Ada", "dia_id": "D1:1", "text": "We sold the green bicycle."}],
        "session_1_date_time": "1:56 pm on 8 May, 2023",
    },
}


def test_add_and_search(shell: Shell) -> None:
    assert shell("add", "My sister Nora moved to Lyon.").stdout == "stored turn 1 of session 1 as turn-1\n"
    added = shell.json(
        "add", "-", "-r", "Bo", "-s", "s 2", "--source-id", "m", "--time", "2026-01-31T12:00+01:00", stdin="é\n\n"
    )
    assert list(added) == ["turn", "session", "role", "time", "source_id", "sha256"]
    assert (added["turn"], added["session"], added["role"], added["source_id"]) == (2, "s 2", "Bo", "m")
    assert added["time"] in ("2026-01-31T12:00:00+01:00", "2026-01-31T11:00:00+00:00")
    assert shell.turns() == [("user", "My sister Nora moved to Lyon."), ("Bo", "é\n")]
    line = shell("search", "Nora Lyon", "-k", "1").stdout
    score, parts, age, when, session, role, source, text = line.rstrip("\n").split("\t")
    assert datetime.strptime(when, "%Y-%m-%d %H:%M").astimezone() <= datetime.now().astimezone()
    assert (age, session, role, source, text) == ("1", "1", "user", "turn-1", "My sister Nora moved to Lyon.")
    values = dict(part.split("=") for part in parts.split())
    assert float(score) == pytest.approx(sum(map(float, values.values())), abs=0.003) and {"meaning", "words"} <= set(
        values
    )
    assert shell("search", "-", "-k", "1", stdin="Nora Lyon\n").stdout == line


def test_the_json_of_a_search_is_stable(filled: Shell) -> None:
    found = filled.json("search", "Nora Lyon")
    assert list(found) == ["query", "hits"] and found["query"] == "Nora Lyon"
    keys = ["text", "source_id", "score", "parts", "age_turns", "session", "role", "time", "turn", "chunk"]
    assert all(list(hit) == keys for hit in found["hits"])
    assert found["hits"][0]["text"] == "My sister Nora moved to Lyon." and found["hits"][0]["source_id"] == "talk:1"
    assert filled.json("search", "xyzzy", code=1) == {"query": "xyzzy", "hits": []}
    assert "nothing found for 'xyzzy'" in filled("search", "xyzzy", code=1).stderr


def test_stored_text_does_not_steer_the_terminal(shell: Shell) -> None:
    shell("add", "-", "--embedder", "none", stdin="red \x1b[31m bell \x07 tab\tnext\nline 汉字 \u202e nul \x00 here")
    shown = shell("search", "red bell", "--embedder", "none").stdout
    assert shown.count("\n") == 1 and shown.count("\t") == 7 and "汉字" in shown
    assert not any(char in shown for char in "\x1b\x07\u202e\x00")
    assert "\x1b" in shell.json("search", "red", "--embedder", "none")["hits"][0]["text"]
    with DialogueMemory(shell.location, embedder="none") as memory:
        memory.add("user", "lone \ud800 surrogate é")
    for charset in ("utf-8", "ascii"):
        result = CliRunner(charset=charset).invoke(
            app, ["memory", "search", "surrogate", "--json", "-p", shell.location]
        )
        found = json.loads(result.stdout_bytes.decode(charset))
        assert "lone \ud800 surrogate é" in [hit["text"] for hit in found["hits"]]


@pytest.mark.parametrize(
    "command", ["search x", "sessions", "stats", "export -", "forget", "restore", "erase --all", "verify", "repair"]
)
def test_without_a_memory_or_with_another_user(shell: Shell, command: str) -> None:
    result = shell(*command.split(), code=1)
    assert result.stdout == "" and result.stderr.startswith("error: user 'default' has no memory in ")
    assert result.stderr.endswith("store something with `memarch memory add`\n") and result.stderr.count("\n") == 1
    assert not Path(shell.location).exists()
    shell("add", "hello", "-u", "ada")
    result = shell(*command.split(), "-u", "bob", code=1)
    assert "there are 'ada' (--user)" in result.stderr and not (Path(shell.location) / "users" / "bob").exists()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process can be set on Unix only")
def test_times_are_local(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XYZ-5")  # five hours ahead of UTC
    time.tzset()
    try:
        added = shell.json("add", "hello", "--time", "2026-01-31T02:00", "--embedder", "none")
        assert datetime.fromisoformat(added["time"]) == datetime.fromisoformat("2026-01-30T21:00+00:00")
        assert shell("search", "hello", "--embedder", "none").stdout.split("\t")[3] == "2026-01-31 02:00"
        assert shell("sessions").stdout.split("\t")[4] == "2026-01-31 02:00"
        shell("erase", "--before", "2026-01-31T02:00", "--dry-run", code=1)
        shell("erase", "--before", "2026-01-31T02:01", "--dry-run")
    finally:
        monkeypatch.undo()
        time.tzset()


def test_users_are_apart(shell: Shell) -> None:
    shell("add", "the code is 1234", "-u", "Ada Lovelace")
    shell("add", "no code here", "-u", "bob")
    assert [hit["text"] for hit in shell.json("search", "code", "-u", "bob")["hits"]] == ["no code here"]
    shell("erase", "--all", "--yes", "-u", "bob")
    assert shell.turns("Ada Lovelace") == [("user", "the code is 1234")]


def test_import_of_lines_once(filled: Shell) -> None:
    assert filled.turns() == [
        ("Ada", "My sister Nora moved to Lyon."),
        ("Bo", "The boiler was repaired on Tuesday."),
        ("Ada", "I am allergic to hazelnuts,\nand to kiwi."),
    ]
    again = filled("import", str(filled.home / "talk.txt"), "--embedder", "none")
    assert again.stdout == "added 0 turns, 3 already there\n"
    filled("import", "-", "--session", "s", stdin="Cy: hello")
    assert [s["session"] for s in filled.json("sessions")["sessions"]] == ["talk", "s"]
    assert "there is no turn in stdin" in filled("import", "-", stdin="\n", code=1).stderr


def test_import_of_locomo_and_of_an_export(filled: Shell) -> None:
    (filled.home / "locomo.json").write_text(json.dumps([LOCOMO, {**LOCOMO, "sample_id": "conv-2"}]), encoding="utf-8")
    report = filled.json("import", str(filled.home / "locomo.json"), "--conversation", "conv-2", "-u", "lo")
    assert report == {"num_added": 1, "num_duplicates": 0, "num_erased": 0, "num_vectors": 0, "num_summaries": 0}
    assert filled.turns("lo") == [("Ada", "We sold the green bicycle.")]
    whole = filled("export", "-").stdout
    assert [json.loads(line)["type"] for line in whole.splitlines()] == [
        "memarch-memory",
        "turn",
        "turn",
        "turn",
        "end",
    ]
    target = str(filled.home / "out.jsonl")
    assert filled.json("export", target) == {"path": target, "num_turns": 3}
    assert [line for line in Path(target).read_text("utf-8").splitlines() if '"turn"' in line] == whole.splitlines()[
        1:4
    ]
    for source, stdin in ((target, ""), ("-", whole)):
        user = f"from {source[0]}"
        assert filled("import", source, "-u", user, stdin=stdin).stdout == "added 3 turns\n"
        assert filled.turns(user) == filled.turns()
    filled("erase", "--turn", "1", "--yes")
    assert filled("import", target).stdout == "added 0 turns, 2 already there, 1 erased here before (--revive)\n"
    assert filled("import", target, "--revive").stdout == "added 1 turn, 2 already there\n"


def test_sessions_stats_and_path(filled: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = filled("sessions").stdout.splitlines()
    assert line.split("\t")[:4] == ["talk", "3", "1", "3"]
    (session,) = filled.json("sessions")["sessions"]
    assert list(session) == ["session", "first_turn", "last_turn", "started", "ended", "num_turns"]
    stats = filled.json("stats")
    assert list(stats) == [
        *("num_turns", "num_sessions", "num_chunks", "num_archived", "num_pinned", "num_vectors", "num_pending"),
        *("num_summaries", "embedder", "dim", "disk_bytes", "location", "user", "encrypted"),
    ]
    assert stats["num_turns"] == 3 and stats["location"] == filled.location and stats["disk_bytes"] > 10_000
    shown = dict(line.split("  ", 1) for line in filled("stats").stdout.splitlines())
    assert shown["turns"].strip() == "3" and shown["embedder"].strip() == "none yet"
    assert filled("path").stdout == f"{filled.location}\n"
    assert filled.json("path") == {"path": filled.location, "user": "default", "exists": True}
    assert filled("path", place=False).stdout == f"{filled.home / '.local/share/memarch/memory'}\n"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert filled("path", place=False).stdout == f"{filled.home / '.local/share/memarch/memory'}\n"
    monkeypatch.setenv("XDG_DATA_HOME", str(filled.home / "data"))
    assert filled("path", place=False).stdout == f"{filled.home / 'data/memarch/memory'}\n"
    monkeypatch.setenv("MEMARCH_MEMORY", "postgresql://ada:secret@host/db")
    assert filled("path", place=False).stdout == "postgresql://ada:***@host/db\n"


def test_the_embedder_is_remembered(filled: Shell) -> None:
    filled("search", "Nora")
    assert filled.json("stats")["embedder"] is None  # imported with "none"
    filled("search", "Nora", "--embedder", "small")
    assert filled.json("stats")["embedder"] == "small"
    filled("search", "Nora", "--embedder", "none")
    filled("add", "one more")
    assert filled.json("stats")["num_pending"] == 1
    filled("search", "Nora")
    stats = filled.json("stats")
    assert (stats["embedder"], stats["num_vectors"], stats["num_pending"]) == ("small", 4, 0)


def test_an_embedder_that_fails_is_a_warning(filled: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(FakeEmbedder):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            self.fail = True

    monkeypatch.setattr("memarch.dialogue.embedders.SentenceTransformerEmbedder", Broken)
    result = filled("search", "Nora Lyon", "--embedder", "broken")
    assert "Nora moved to Lyon" in result.stdout
    assert result.stderr == "warning: search goes on with words alone: the fake is down\n"
    result = filled("import", "-", stdin="Cy: hello")
    assert result.stdout == "added 1 turn\n" and "stored, but not embedded yet: the fake is down" in result.stderr


@pytest.mark.parametrize("command", ["erase --turn 1", "erase --all", "forget --turn 1"])
def test_what_destroys_asks_first(filled: Shell, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = filled.turns()
    result = filled(*command.split(), code=2)
    assert result.stdout == "" and result.stderr.count("\n") == 1
    assert "add --yes (or --dry-run to look first)" in result.stderr
    assert ("3 turns of user 'default'" if "--all" in command else "1 ") in result.stderr
    filled(*command.split(), "--dry-run")
    assert filled.turns() == before and filled.json("stats")["num_archived"] == 0
    filled(*command.split(), "--yes")
    if command.startswith("forget"):
        assert filled.json("stats")["num_archived"] == 1 and filled.turns() == before
        assert "Nora" not in filled("search", "boiler hazelnuts Nora", "--embedder", "none").stdout
        assert filled("restore").stdout == "brought back 1 chunk\n"
        assert "nothing of that is forgotten" in filled("restore", code=1).stderr
        assert "Nora" in filled("search", "Nora", "--embedder", "none").stdout
    else:
        assert filled.turns() == ([] if "--all" in command else before[1:])


def test_erase_by_selector_gives_a_receipt(filled: Shell) -> None:
    dry = filled.json("erase", "--session", "talk", "--before", "2999-01-01", "--dry-run")
    assert dry["dry_run"] and dry["num_turns"] == 3 and list(dry["selector"]) == ["session", "before"]
    assert filled("erase", "--turn", "2", "--dry-run").stdout.startswith("would erase 1 turn of user 'default' in ")
    for nothing in (["--turn", "99"], ["--session", "no such"], ["--before", "1999-01-01"]):
        assert "no turn matches" in filled("erase", *nothing, "--yes", code=1).stderr
    receipt = filled.json("erase", "--source-id", "talk:2", "--yes")
    assert list(receipt) == [
        *("time", "selector", "turns", "source_ids", "chunks", "summaries_dropped", "summaries_remade"),
        "files_rewritten",
    ]
    assert (receipt["turns"], receipt["selector"]) == ([2], {"source_id": "talk:2"})
    shown = filled("erase", "--session", "talk", "--yes").stdout.splitlines()
    assert shown[0] == "erased 2 turns and 2 chunks" and "turns      1, 3" in shown
    left = [path.name for path in filled.home.rglob("*") if path.is_file() and b"hazelnuts" in path.read_bytes()]
    assert left == ["talk.txt"]


def test_forget_by_salience(filled: Shell) -> None:
    result = filled("forget", code=1)
    assert result.stdout == "" and result.stderr == "nothing to forget: 3 considered, 0 pinned, 3 too young\n"
    report = filled.json("forget", "--fraction", "0.7", "--min-age", "0", "--yes")
    assert list(report) == ["chunks", "salience", "num_considered", "num_pinned", "num_young", "dry_run"]
    assert report["chunks"] == [1, 2] and not report["dry_run"]
    lines = filled("forget", "--turn", "3", "--dry-run")
    assert lines.stdout.split("\t")[::3] == ["3", "I am allergic to hazelnuts, and to kiwi.\n"]
    assert lines.stderr == "would forget 1 chunk\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search", "x", "-k", "0"], 2, "k must be >= 1, got 0"),
        (["add", "x", "--time", "soon"], 2, "--time takes a time like 2026-01-31"),
        (["add", "x", "--source-id", "talk:1"], 2, "talk:1"),
        (["add", "x", "-r", " "], 2, "role must be a name of 1 to 200 characters"),
        (["add", "x", "-u", ""], 2, "a user's name must be a non-empty string"),
        (["erase", "--yes"], 2, "erase needs --turn, --source-id, --session or --before, or else --all"),
        (["erase", "--turn", "1", "--all", "--yes"], 2, "or else --all for everything"),
        (["forget", "--turn", "1", "--fraction", "0.5"], 2, "give them or a selector, not both"),
        (["forget", "--fraction", "2"], 2, "fraction must be between 0 and 1; got 2.0"),
        (["import", "no-such-file"], 3, "no-such-file: No such file or directory"),
        (["import", "-", "--format", "locomo"], 2, "expected LoCoMo's JSON"),
        (["import", "-", "--conversation", "c"], 2, "--conversation is for the format locomo; stdin is lines"),
        (["import", "-"], 2, "line 1 should begin with who speaks"),
        (["export", "no/such/place"], 3, "No such file or directory"),
        (["search", "x", "--embedder", " "], 2, "expected a model's name or folder, or 'none'"),
    ],
)
def test_errors_are_one_line_and_change_nothing(filled: Shell, arguments: list[str], code: int, message: str) -> None:
    before = filled.turns()
    result = filled(*arguments, stdin="just text", code=code)
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr and result.stdout == ""
    assert filled.turns() == before


def test_places_that_cannot_be(shell: Shell) -> None:
    (shell.home / "file").write_text("x", encoding="utf-8")
    shell.location = str(shell.home / "file")
    assert "choose a directory that can be written" in shell("add", "x", code=3).stderr
    for location, message in (("", "--path is empty"), ("mysql://a:b@c/d", "got 'mysql://a:***@c/d'")):
        shell.location = location
        assert message in shell("add", "x", code=2).stderr
    result = shell("add", "-", stdin=b"a\xffb", code=2)
    assert "error" in result.stderr


def test_stdin_that_is_not_utf8(shell: Shell) -> None:
    for command in ("add", "import"):
        assert "stdin should be UTF-8; byte 1 is 0xff" in shell(command, "-", stdin=b"a\xffb", code=2).stderr


def test_a_megabyte_from_stdin(shell: Shell) -> None:
    body = "word " * 220_000 + "needle"
    shell("add", "-", "--embedder", "none", stdin=body)
    assert shell.turns()[0][1] == body
    assert "needle" in shell.json("search", "needle", "--embedder", "none")["hits"][0]["text"]
