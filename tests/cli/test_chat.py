"""`memarch chat` as transcripts: what is typed, what is answered, what is stored, JSON, exit codes."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from memarch.cli._chat_commands import COMMANDS, arguments_of, what_of
from memarch.cli._chat_options import DEFAULT_SYSTEM
from memarch.dialogue.generators import smollm2
from memarch.dialogue.memory import DialogueMemory

from ._chat_shell import ChatShell
from ._transcript import command as memarch_command
from ._transcript import environment

NORA = "My sister Nora moved to Lyon."


def test_each_line_is_a_message(talk: ChatShell) -> None:
    result = talk(f"{NORA}\n\nWhere is Nora?\r\n", answers=("Good for her.", "In Lyon."))
    assert (result.stdout, result.stderr) == ("Good for her.\nIn Lyon.\n", "")
    assert talk.turns() == [("user", NORA), ("assistant", "Good for her."), ("user", "Where is Nora?"),
                            ("assistant", "In Lyon.")]  # fmt: skip
    assert talk.model.seen[1][-1]["content"] == "Where is Nora?" and NORA in str(talk.model.seen[1])


def test_whoever_quotes_memories_gets_those_among_the_last_turns_too(talk: ChatShell) -> None:
    talk(f"{NORA}\nWhere is Nora?\n/why\n", answers=("Good.", "Lyon."))
    assert NORA in [hit.text for hit in talk.model.hits[-1]]


def test_three_quotes_hold_a_message_of_several_lines(talk: ChatShell) -> None:
    talk('"""one\ntwo\n\n/not a command\n"""\n"""short"""\n"""never\nclosed', answers=("a", "b", "c"))
    said = [text for role, text in talk.turns() if role == "user"]
    assert said == ["one\ntwo\n\n/not a command", "short", "never\nclosed"]


def test_a_message_as_argument_or_all_of_stdin(talk: ChatShell) -> None:
    assert talk("not read", "Hello there", answers=("Hi.",)).stdout == "Hi.\n"
    talk("two\nlines\n", "-", answers=("ok",))
    talk("//etc is a folder\n", answers=("It is.",))
    assert [text for role, text in talk.turns() if role == "user"] == ["Hello there", "two\nlines", "/etc is a folder"]
    assert talk("", answers=()).stdout == ""


def test_json_has_an_object_a_line_and_nothing_else(talk: ChatShell) -> None:
    talk(f"{NORA}\n", "--session", "old", answers=("Good.",))
    events = talk.events("Where is Nora?\n/why\n", answers=("In Lyon.",))
    assert [event["event"] for event in events] == [
        *("session", "stored", "composed", "piece", "piece", "answer", "command"),
    ]
    opened, stored, composed, piece, _, answer, why = events
    assert list(opened) == ["event", "session", "user", "model", "incognito", "resumed"]
    assert (opened["user"], opened["model"], opened["resumed"]) == ("default", "scripted", [])
    assert stored["turn"] == 3 and stored["session"] == opened["session"]
    assert 0 < composed["prompt_tokens"] <= composed["budget_tokens"] == 3500 and composed["retrieval_ms"] >= 0
    assert composed["memories"] == ["turn-1", "turn-2"] and composed["parts"]["user"] == 3
    assert piece["text"] == "In "
    assert (answer["text"], answer["status"], answer["turn"], answer["num_tokens"]) == ("In Lyon.", "done", 4, 2)
    hit = why["hits"][0]
    assert (why["command"], hit["text"], hit["session"], hit["age_turns"]) == ("/why", NORA, "old", 2)
    assert hit["score"] == pytest.approx(sum(hit["parts"].values()), abs=1e-6)
    whole = talk.events("Hi\n", "--no-stream", answers=("one two",))
    assert [event["event"] for event in whole] == ["session", "stored", "composed", "answer"]


def test_sessions_go_on(talk: ChatShell) -> None:
    talk("One.\n", "--session", "first", answers=("1",))
    talk("Two.\n", "--session", "second", answers=("2",))
    (opened, *_, answer) = talk.events("Three.\n", "-c", answers=("3",))
    assert opened["session"] == "second" and opened["resumed"] == [3, 4] and answer["turn"] == 6
    talk("Four.\n", "--session", "first", answers=("4",))
    assert [text for _, text in talk.turns("first")] == ["One.", "1", "Four.", "4"]
    assert talk.events("", "--session", "third")[0]["session"] == "third" and talk.turns("third") == []
    typed = "/load 2\nFive.\n/new fourth\nSix.\n/load first\nSeven.\n/sessions\n"
    found = talk.command(typed, answers=("5", "6", "7"))["sessions"]
    assert [(s["session"], s["num_turns"]) for s in found] == [("first", 6), ("second", 6), ("fourth", 2)]
    assert [m["content"] for m in talk.model.seen[-1] if m["role"] == "assistant"] == ["1", "4"]
    assert "there is no session 'nine'" in talk("/load nine\n", code=2).stderr
    assert "a session 'first' already: /load goes on" in talk("/new first\n", code=2).stderr


def test_a_message_without_an_answer_can_be_answered_later(talk: ChatShell) -> None:
    with DialogueMemory(talk.location, embedder="none") as memory:
        memory.add("user", "Are you there?", session="s")
    result = talk("/retry\n", "-c", answers=("Yes.",))
    assert result.stdout == "Yes.\n"
    assert result.stderr == "the last message of this session was not answered: /retry answers it\n"
    assert talk.turns() == [("user", "Are you there?"), ("assistant", "Yes.")]


def test_looking(talk: ChatShell) -> None:
    talk(f"{NORA}\nI like tea.\n", "--session", "old", "-s", "Be brief.", answers=("Good.", "Me too."))
    shown = talk("/search Nora Lyon\n").stdout
    score, parts, age, session, text = shown.splitlines()[0].split("\t")
    assert float(score) > 0 and "words=" in parts and age == "turn 1, 3 turns ago" and session.startswith("old, 20")
    assert text == f"user: {NORA}"
    assert talk("/search xyzzy\n").stdout == "nothing found for 'xyzzy'\n"
    assert talk("/memory 2\n").stdout.splitlines()[1].endswith("\told\t\tassistant: Me too.")
    assert talk.command("/memory\n")["turns"][0]["text"] == NORA
    assert "Nora moved to Lyon" in talk("/summary\n").stdout
    stats = talk.command("/stats\n")
    assert (stats["num_turns"], stats["location"], stats["model"]) == (4, talk.location, "scripted")
    assert "turns      4 in 1 session\n" in talk("/stats\n").stdout
    for command in ("/why", "/prompt", "/budget"):
        assert talk(f"{command}\n").stdout == "no message was answered yet in this session\n"
    typed = "Where is Nora?\n/prompt\n"
    assert talk.command(typed, "-s", "Be brief.", answers=("Lyon.",))["messages"] == talk.model.seen[-1]
    shown = talk("Who moved?\n/prompt\n", "-s", "Be brief.", answers=("Nora.",)).stdout
    assert shown.startswith("Nora.\n[system]\nBe brief.") and shown.endswith("Who moved?\n")
    report = talk.command("Nora?\n/budget\n", "--budget", "200", answers=("Yes.",))["budget"]
    assert report["budget_tokens"] == 200 and report["used_tokens"] <= 200
    rows = dict(line.split("\t")[:2] for line in talk("Nora?\n/budget\n", answers=("Yes.",)).stdout.splitlines()[1:])
    assert list(rows) == ["system", "compact", "retrieved", "recent", "user", "overhead", "all"]
    assert sum(map(int, list(rows.values())[:-1])) == int(rows["all"])


def test_every_command_is_explained(talk: ChatShell) -> None:
    names = "help memory search why prompt remember pin forget edit undo redo retry summary budget save load sessions "
    names += "new incognito import export model system set stats erase quit"
    assert set(COMMANDS) == {f"/{name}" for name in names.split()}
    assert all(what_of(name).endswith(".") for name in COMMANDS) and arguments_of("/pin") == "TURN | last [off]"
    assert len(talk("/help\n").stdout.splitlines()) == len(COMMANDS)
    assert talk("/help pin\n").stdout == talk("/? /pin\n").stdout == f"/pin\tTURN | last [off]\t{what_of('/pin')}\n"
    assert "did you mean /memory?" in talk("/memry\n", code=2).stderr


def test_remember_pin_and_forget(talk: ChatShell) -> None:
    talk(f"/remember My train leaves at 9.\n{NORA}\n", answers=("Good.",))
    with DialogueMemory(talk.location, embedder="none") as memory:
        assert [(t.session, t.text) for t in memory.turns(last=3)][0] == ("notes", "My train leaves at 9.")
        assert memory.stats().num_pinned == 1
    assert talk("/pin last\n/pin 3\n/pin 3 off\n", "-c").stdout.splitlines() == [
        "turn 2 is pinned",
        "turn 3 is pinned",
        "turn 3 is no longer pinned",
    ]
    assert talk.command("/forget 2\n", "--yes")["num_pinned"] == 1
    assert talk("/pin 2 off\n/forget 2\n", "--yes").stdout.splitlines()[1].startswith("forgot 1 chunk; `memarch memory")
    assert talk("/search Nora\n").stdout == "nothing found for 'Nora'\n" and len(talk.turns()) == 3
    assert talk.command("/memory\n")["turns"][1]["mark"] == "forgotten"


def test_undo_redo_retry_and_edit(talk: ChatShell) -> None:
    shown = talk("One.\nTwo.\n/undo\n/undo\n/redo\n/memory\n", answers=("1", "2")).stdout.splitlines()
    assert shown[2:5] == ["took back: Two.", "took back: One.", "brought back 2 turns"]
    assert talk.turns() == [("user", "One."), ("assistant", "1")]
    assert talk("/retry\n", "-c", answers=("uno",)).stdout == "uno\n"
    assert talk.turns() == [("user", "One."), ("assistant", "uno")]
    assert talk("/edit Eins.\n", "-c", answers=("eins",)).stdout == "eins\n"
    assert talk.turns() == [("user", "Eins."), ("assistant", "eins")]
    assert "/edit needs the new text" in talk("/edit\n", "-c", code=2).stderr
    assert "nothing to bring back" in talk("/undo\nHi.\n/redo\n", "-c", answers=("hi",), code=2).stderr
    assert "nothing in this session to take back" in talk("/undo\n", code=2).stderr


def test_what_destroys_needs_a_yes(talk: ChatShell) -> None:
    talk(f"{NORA}\n", "--session", "s", answers=("Good.",))
    before = talk.turns()
    for command, count in (("/erase 1", "1 turn"), ("/erase session s", "2 turns"), ("/forget 1", "1 chunk"),
                           ("/erase all", "all 2 turns")):  # fmt: skip
        result = talk(f"{command}\n", "-c", code=2)
        assert count in result.stderr and "start the chat with --yes" in result.stderr
        assert talk.turns() == before
    receipt = talk.command("Again.\n/undo\n/erase 1\n", "-c", "--yes", answers=("Yes.",))
    assert receipt["turns"] == [1] and talk.turns() == before[1:]
    assert (
        "nothing to bring back" in talk("Again.\n/undo\n/erase 2\n/redo\n", "--yes", answers=("Yes.",), code=2).stderr
    )
    assert "no turn matches '99'" in talk("/erase 99\n", "--yes", code=2).stderr
    for command in ("/erase", "/erase 1 2", "/erase before soon", "/forget"):
        assert "error: " in talk(f"{command}\n", "--yes", code=2).stderr
    talk("Last.\n", answers=("ok",))
    assert talk("/erase all\nnever read\n", "--yes").stdout == "erased 2 turns\n" and talk.turns() == []


def test_erased_text_is_in_no_file(talk: ChatShell) -> None:
    talk("The code is xylophone.\n/undo\nIt is marimba.\n/erase last\n", "--yes", answers=("Noted.", "Noted."))
    found = [
        path.name
        for path in Path(talk.home).rglob("*")
        if path.is_file() and any(word in path.read_bytes() for word in (b"xylophone", b"marimba"))
    ]
    assert found == []


def test_incognito_reads_and_stores_nothing(talk: ChatShell) -> None:
    talk(f"{NORA}\n", answers=("Good.",))
    before = talk.turns()
    shown = talk("/incognito\nWhere is Nora?\nAnd now?\n/incognito off\n", answers=("Lyon.", "Still.")).stdout
    assert shown.splitlines() == ["nothing is stored from here on", "Lyon.", "Still.", "what is said is stored again"]
    assert NORA in str(talk.model.seen[-2]) and "Where is Nora?" in str(talk.model.seen[-1])
    assert talk.turns() == before
    assert "nothing is stored in incognito" in talk("/incognito on\n/remember x\n", code=2).stderr
    events = talk.events("Where is Nora?\n", "--no-log", answers=("Lyon.",))
    assert [event["event"] for event in events] == ["session", "composed", "piece", "answer"]
    assert events[0]["incognito"] and events[-1]["turn"] is None and talk.turns() == before
    assert "started with --no-log" in talk("/incognito off\n", "--no-log", code=2).stderr
    talk("Hello.\n", "--no-log", answers=("Hi.",), path=str(talk.home / "nowhere"))
    assert not (talk.home / "nowhere").exists()


def test_settings(talk: ChatShell) -> None:
    typed = "/set temperature 0\n/set budget 150\n/set memories 3\n/system Be kind.\n/system\nHi.\n/system none\n/set\n"
    events = talk.events(typed, answers=("Hello.",))
    commands = [event for event in events if event["event"] == "command"]
    assert commands[-1] | {"event": "", "command": ""} == {
        **{"event": "", "command": "", "budget": 150, "max_tokens": 512, "temperature": 0.0, "memories": 3, "recent": 8}
    }
    assert commands[4]["system"] == "Be kind." and commands[5]["system"] == ""
    assert talk.model.seen[-1][0] == {"role": "system", "content": "Be kind."}
    assert talk.command("/system\n")["system"] == DEFAULT_SYSTEM and talk.command("/system\n", "-s", "")["system"] == ""
    assert next(e for e in events if e["event"] == "composed")["budget_tokens"] == 150
    for wrong, message in (
        ("colour red", "expected one of budget, max_tokens"),
        ("budget many", "budget takes a whole number of at least 1; got 'many'"),
        ("temperature 11", "temperature takes a number from 0 to 10"),
    ):
        assert message in talk(f"/set {wrong}\n", code=2).stderr
    assert talk.command("/model other\n", "-m", "this")["model"] == "scripted" and talk.opened[-2:] == ["this", "other"]


def test_save_load_import_and_export(talk: ChatShell) -> None:
    talk(f"{NORA}\n", "--session", "s", answers=("Good.",))
    saved, text, whole = (talk.home / name for name in ("s.jsonl", "s.txt", "all.jsonl"))
    assert talk(f"/save {saved}\n/save {text}\n", "-c").stdout == f"wrote 2 turns to {saved}\nwrote 2 turns to {text}\n"
    assert f"user:\n{NORA}\n\n" in text.read_text("utf-8")
    assert [json.loads(line)["role"] for line in saved.read_text("utf-8").splitlines()] == ["user", "assistant"]
    assert "File exists" in talk(f"/save {saved}\n", "-c", code=3).stderr
    assert talk(f"/export {whole}\n").stdout == f"wrote 2 turns to {whole}\n"
    other = ["--user", "bob"]
    assert talk(f"/load {saved}\nAnd?\n", *other, answers=("So.",)).stderr == f"added 2 turns from {saved}\n"
    assert NORA in str(talk.model.seen[-1])
    (talk.home / "talk.txt").write_text("Ada: hello\nBo: hi\n", encoding="utf-8")
    assert talk(f"/import {talk.home}/talk.txt\n", *other).stdout == "added 2 turns, 0 were there already\n"
    assert talk(f"/import {whole}\n", *other).stdout == "added 0 turns, 2 were there already\n"
    assert "No such file" in talk("/import nothing.txt\n", code=3).stderr
    assert "nothing was said in this session yet" in talk(f"/save {talk.home}/x\n", code=2).stderr


def test_what_is_stored_does_not_steer_the_terminal(talk: ChatShell) -> None:
    evil = "red \x1b[31m \x1b]0;title\x07 \x9b2J \u202e end"
    shown = talk(f"{evil}\n/why\n/memory\n/prompt\n/search red\n/summary\n", answers=(evil,)).stdout
    assert "end" in shown and not any(char in shown for char in "\x1b\x07\x9b\u202e")
    assert talk.turns()[1][1] == evil


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-c", "--session", "x"], "give one of them"),
        (["--session", " "], "--session is empty"),
        (["--ask", "q.txt"], "add --replay FILE"),
        (["--replay", "f", "hello"], "drop one of them"),
        (["--budget", "0"], "--budget must be at least 1 token; got 0"),
        (["--timeout", "0"], "--timeout must be above 0 seconds; got 0"),
        (["--user", ""], "a user's name must be"),
    ],
)
def test_bad_usage(talk: ChatShell, options: list[str], message: str) -> None:
    result = talk("hello\n", *options, code=2)
    assert message in result.stderr and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_opening_and_looking_do_not_read_the_whole_session(talk: ChatShell, monkeypatch: pytest.MonkeyPatch) -> None:
    with DialogueMemory(talk.location, embedder="none", policy=None) as memory:
        memory.add_all([("user", f"turn number {i}", "long", None, None) for i in range(3000)])
    num_read = 0
    from memarch.dialogue.stores import _sqlite_records

    def counting(original: Any) -> Any:
        def read(db: Any, row: Any) -> Any:
            nonlocal num_read
            num_read += 1
            return original(db, row)

        return read

    monkeypatch.setattr(_sqlite_records, "_turn", counting(_sqlite_records._turn))
    events = talk.events("/memory 5\n/sessions\n", "-c")
    assert events[0]["resumed"] == list(range(2995, 3001)) and len(events[1]["turns"]) == 5
    assert 0 < num_read < 60


@pytest.mark.slow
def test_the_default_model_from_end_to_end(tmp_path: Path) -> None:
    if smollm2.installed_gguf() is None:
        pytest.skip(f"needs the model's wheel: {smollm2.INSTALL_HINT}")
    place = ["--path", str(tmp_path / "memories")]
    typed = f"/set max_tokens 24\n/set temperature 0\n{NORA}\n/new\nWhere does Nora live?\n/why\n"
    shown = subprocess.run(
        memarch_command("chat", "--model", "smollm2", "--json", *place),
        env=environment() | {"HOME": str(tmp_path)},
        input=typed,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    events = [json.loads(line) for line in shown.stdout.splitlines()]
    answers = [event for event in events if event["event"] == "answer"]
    assert len(answers) == 2 and all(a["status"] == "done" and a["text"] and a["num_tokens"] for a in answers)
    assert "Lyon" in answers[-1]["text"]
    pieces = [event["text"] for event in events if event["event"] == "piece"]
    assert "".join(pieces) == "".join(answer["text"] for answer in answers) and len(pieces) > 10
    assert NORA in [hit["text"] for hit in events[-1]["hits"]] and events[-1]["hits"][0]["parts"]["meaning"]
    assert all(e["prompt_tokens"] <= 3500 for e in events if e["event"] == "composed")
