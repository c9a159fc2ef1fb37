"""The example in one file runs and learns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("memory", "steps", "least"), [("gru", 15_000, 0.8), ("hcam", 1_024, 0.0)])
def test_the_example_learns(memory: str, steps: int, least: float) -> None:
    path = os.pathsep.join(str(ROOT / part) for part in (".", "envs"))
    done = subprocess.run(
        [sys.executable, "examples/ppo_memory.py", "--memory", memory, "--steps", str(steps)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1].split()
    assert int(last[1]) >= steps and float(last[last.index("success") + 1]) >= least
