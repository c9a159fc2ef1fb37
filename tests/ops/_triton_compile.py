"""Compile the kernels that work on caches for a GPU that is not there, in a process without the interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import torch
from benchmarks._resources import TARGETS, compiling
from memarch_kernels import {module} as kernels
with compiling(TARGETS[{target!r}]) as found:
    for width, kind in ((64, torch.bfloat16), (128, torch.bfloat16), (96, torch.float32)):  # 96 is padded to 128
        layers = [torch.empty(2, 3, 999, width, dtype=kind, device="meta").transpose(1, 2)] * 4
        {call}
for kernel in found:
    assert not kernel.error, kernel.error
    assert kernel.shared_bytes <= TARGETS[{target!r}].shared_limit
    assert kernel.usage.spill_stores == 0, (kernel.kernel, kernel.tiles, kernel.usage)
print(*sorted({{kernel.kernel for kernel in found}}), len(found))
"""


def compiled(module: str, target: str, call: str) -> str:
    """Names and number of the kernels that `call` launches, for caches `layers` of `width` and `kind`.

    Raises: AssertionError if one does not compile, does not fit into shared memory, or spills registers.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    code = CODE.format(module=module, target=target, call=call)
    root = Path(__file__).parents[2]
    environment["PYTHONPATH"] = os.pathsep.join(str(root / part) for part in (".", "kernels"))
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()
