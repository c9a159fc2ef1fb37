"""Logs as CSV files whose first column, `step`, decides what a resumed training writes again."""

from __future__ import annotations

import csv
from pathlib import Path


def open_rows(path: Path, header: list[str], last_step: int) -> Path:
    """Start a file with `header`, keeping its rows up to `last_step` (0: none)."""
    rows: list[dict[str, str]] = []
    if last_step and path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) <= last_step]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def append_row(path: Path, row: dict[str, object]) -> None:
    """Add a row with the header's columns, in its order."""
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerow(row.values())
