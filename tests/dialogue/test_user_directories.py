"""Caches and settings go where the system keeps them."""

from pathlib import Path

import pytest

from memarch.dialogue import user_directories
from memarch.dialogue.user_directories import cache_directory, config_directory


@pytest.mark.parametrize(
    ("platform", "given", "cache", "config"),
    [
        ("linux", {}, ".cache/memarch", ".config/memarch"),
        ("linux", {"XDG_CACHE_HOME": "relative", "XDG_CONFIG_HOME": ""}, ".cache/memarch", ".config/memarch"),
        ("linux", {"XDG_CACHE_HOME": "/c", "XDG_CONFIG_HOME": "/d"}, "/c/memarch", "/d/memarch"),
        ("darwin", {}, "Library/Caches/memarch", "Library/Application Support/memarch"),
        ("win32", {}, "AppData/Local/memarch/cache", "AppData/Local/memarch"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/memarch/cache", "/l/memarch"),
    ],
)
def test_directories(monkeypatch: pytest.MonkeyPatch, platform: str, given, cache: str, config: str) -> None:
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(user_directories.sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    assert (cache_directory(), config_directory()) == (Path("/home/ada") / cache, Path("/home/ada") / config)
