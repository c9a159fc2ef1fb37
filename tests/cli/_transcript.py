"""The command as a user types it: a process of its own, in a temporary directory, without a terminal."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TINY = "--d-model 16 --num-layers 2 --num-heads 2 --chunk-size 4 --batch-size 2 --seq-len 16 --vocab-size 270".split()
TEXT = "".join(f"The cat number {i} sat on the mat number {i * i % 17}, naïvely.\n" for i in range(150))


def environment() -> dict[str, str]:
    """This process's, with the package on the path and one thread."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MEMARCH", "FORCE_COLOR"))}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}


def command(*arguments: str) -> list[str]:
    """The argument vector of `memarch ARGUMENTS`."""
    return [sys.executable, "-c", "from memarch.cli import main; main()", *arguments]


def memarch(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `memarch ARGUMENTS` in `directory`."""
    return subprocess.run(
        command(*arguments),
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
