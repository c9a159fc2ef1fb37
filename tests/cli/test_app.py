"""The command itself: version, help, quick to start."""

import subprocess
import sys
from pathlib import Path

import memarch

from ._transcript import environment
from ._transcript import memarch as run


def test_version_and_usage(tmp_path: Path) -> None:
    done = run(tmp_path, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"memarch {memarch.__version__}\n", "")
    done = run(tmp_path, "nonsense")
    assert done.returncode == 2 and "No such command 'nonsense'" in done.stderr
    done = run(tmp_path, "--help")
    assert done.returncode == 0 and all(name in done.stdout for name in ("train", "generate", "info", "demo"))


def test_the_tree_of_commands_loads_without_torch() -> None:
    code = "import sys, memarch.cli.app; print(sorted({'torch', 'tokenizers', 'tensorboard'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
