"""Figures of matplotlib as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_png(figure: Any, path: str | Path) -> None:
    """Write a figure; `path` is there whole or as it was before."""
    path = Path(path)
    part = path.with_name(f".part-{path.name}")
    try:
        figure.savefig(part, format="png", dpi=120)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
