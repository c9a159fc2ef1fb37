"""`memarch models`: what is listed, shown, chosen; no model is loaded but those that cost nothing."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from memarch.cli.app import app

from ..dialogue.generators._chat_server import chat_server, saying


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("memarch.dialogue.generators.smollm2.installed_gguf", lambda: None)
    return tmp_path


def models(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["models", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_the_default_is_listed_and_can_be_changed(home: Path) -> None:
    rows = [line.split("\t") for line in models("list").stdout.splitlines()]
    assert rows == [
        ["smollm2", "default", "missing", "unknown", "memarch models get smollm2"],
        ["extractive", "", "ready", "0 bytes", "quotes memory, no model"],
    ]
    assert models("default").stdout == "smollm2\n"
    changed = json.loads(models("default", "http://localhost:11434/v1#llama3", "--json").stdout)
    assert changed["model"] == models("default").stdout.strip() == "http://localhost:11434/v1#llama3"
    assert Path(changed["path"]).is_relative_to(home) and json.loads(Path(changed["path"]).read_text("utf-8"))
    found = json.loads(models("list", "--json").stdout)["models"]
    assert [(model["spec"], model["is_default"]) for model in found][2:] == [(changed["model"], True)]
    result = models("default", "gpt", code=2)
    assert "got 'gpt'" in result.stderr and models("default").stdout.strip() == changed["model"]


def test_the_default_answers_in_a_chat(home: Path) -> None:
    models("default", "extractive")
    typed = ["chat", "Hello", "--embedder", "none", "--path", str(home / "m"), "--json"]
    shown = CliRunner().invoke(app, typed).stdout.splitlines()
    assert json.loads(shown[0])["model"] == "extractive"


def test_show_asks_the_model() -> None:
    assert "reads    1,048,576 tokens" in models("show", "extractive").stdout
    with chat_server(saying("x")) as server:
        found = json.loads(models("show", f"{server.url}#tiny", "--json").stdout)
        assert (found["offers"], found["is_default"], found["context_tokens"]) == (["tiny"], False, 4096)
        assert "has no model 'huge'; it has tiny" in models("show", f"{server.url}#huge", code=3).stderr
    assert "cannot reach" in models("show", f"{server.url}#tiny", code=3).stderr
    assert "memarch models get smollm2" in models("show", code=3).stderr


def test_get(home: Path) -> None:
    assert models("get", "extractive").stdout == "nothing to get for extractive\n"
    (home / "model").mkdir()
    assert json.loads(models("get", f"hf:{home}/model", "--json").stdout)["path"] == str(home / "model")
    assert "expected a model like" in models("get", "gpt", code=2).stderr
