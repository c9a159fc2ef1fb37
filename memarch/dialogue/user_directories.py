"""Where this system keeps a user's caches and settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_directory() -> Path:
    """What can be made again, such as converted models: the directory `memarch` there; it may not exist yet."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "memarch"
    if sys.platform == "win32":
        return _local_app_data() / "memarch" / "cache"
    return _xdg("XDG_CACHE_HOME", ".cache") / "memarch"


def config_directory() -> Path:
    """Settings: the directory `memarch` there; it may not exist yet."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "memarch"
    if sys.platform == "win32":
        return _local_app_data() / "memarch"
    return _xdg("XDG_CONFIG_HOME", ".config") / "memarch"


def _xdg(variable: str, default: str) -> Path:
    given = Path(os.environ.get(variable, ""))
    # The XDG specification says to ignore a relative one.
    return given if given.is_absolute() else Path.home() / default


def _local_app_data() -> Path:
    return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
