"""A temporary home for `memarch memory`."""

from pathlib import Path

import pytest

from ..dialogue._fakes import FakeEmbedder
from ._chat_shell import ChatShell
from ._memory_shell import DIALOGUE, Shell


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A temporary home without a memory; the models are fakes."""
    for name in ("MEMARCH_MEMORY", "MEMARCH_KEY", "MEMARCH_KEY_FILE", "MEMARCH_NEW_KEY", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("memarch.dialogue.embedders.SentenceTransformerEmbedder", FakeEmbedder)
    return Shell(tmp_path)


@pytest.fixture
def filled(shell: Shell) -> Shell:
    """Three turns of a session "talk", without a model."""
    (shell.home / "talk.txt").write_text(DIALOGUE, encoding="utf-8")
    shell("import", str(shell.home / "talk.txt"), "--embedder", "none")
    return shell


@pytest.fixture
def talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChatShell:
    """A temporary home without a memory, and a scripted model."""
    for name in ("MEMARCH_MEMORY", "MEMARCH_KEY", "MEMARCH_KEY_FILE", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return ChatShell(tmp_path, monkeypatch)
