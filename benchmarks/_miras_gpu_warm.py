"""Compile the kernels of many cases at once, a process each, before anything is timed.

Triton compiles on one core and keeps the result on disk. On a machine of many cores this saves most of the run's time.
Only our kernels: peers choose their launches by timing, which a busy device would mislead.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks._harness import RESULTS

LIMIT_SECONDS = 150.0


def default_jobs() -> int:
    """Half the cores, at most 8: every process also holds a CUDA context."""
    return max(1, min(8, (os.cpu_count() or 2) // 2))


def compile_ahead(
    labels: Sequence[str], arguments: Sequence[str], *, jobs: int, limit_seconds: float = LIMIT_SECONDS
) -> list[str]:
    """Run `python -m benchmarks.miras_gpu --compile-only LABEL <arguments>` for each label, `jobs` at a time.

    Past the limit the rest is ended (its kernels compile while measuring).

    Returns: the labels that did not finish well, in the given order.
    """
    deadline = time.monotonic() + limit_seconds
    waiting, running, bad = list(labels), dict[str, subprocess.Popen[bytes]](), list[str]()
    environment = os.environ | {"TRITON_CACHE_AUTOTUNING": "0"}
    while waiting or running:
        if time.monotonic() > deadline:
            for process in running.values():
                process.kill()
                process.wait()
            bad += [*running, *waiting]
            break
        while waiting and len(running) < jobs:
            label = waiting.pop(0)
            command = [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "benchmarks.miras_gpu",
                "--compile-only",
                label,
                *arguments,
            ]
            running[label] = subprocess.Popen(
                command,
                cwd=RESULTS.parent.parent,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        for label, process in list(running.items()):
            if process.poll() is not None:
                del running[label]
                if process.returncode != 0:
                    bad.append(label)
        time.sleep(0.1)
    return [label for label in labels if label in bad]
