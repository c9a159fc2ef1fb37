"""Compile the kernels that make noise for a GPU that need not be there; print what the machine code holds, as JSON.

Run as a process of its own: this one needs Triton's compiler, the tests around it need its interpreter.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
import triton

from benchmarks._resources import TARGETS, compiling
from memarch_kernels import embedding_reset, embedding_substitute


def main() -> None:
    rows = []
    with compiling(TARGETS[sys.argv[1]]) as found:
        weight = torch.empty(100, 576, device="meta")
        half = torch.empty(100, 576, device="meta", dtype=torch.bfloat16)
        keep = torch.empty(100, device="meta", dtype=torch.bool)
        embedding_reset.reset([weight, half, weight, weight], 2, keep, 0.02, 3, 1 << 33, 5, 8)
        ids = torch.empty(4, 9, device="meta", dtype=torch.int64)
        embedding_substitute.lookup(ids, half, keep, 1 << 30, 0.02, 3, 7)
    for kernel in found:
        counts = Counter(_instructions(kernel.cubin)) if kernel.cubin else Counter[str]()
        rows.append(
            {
                "kernel": kernel.kernel,
                "error": kernel.error,
                "spills": kernel.usage.spill_stores,
                "additions": counts["FADD"],
                "fused": counts["FFMA"],
            }
        )
    print(json.dumps(rows))


def _instructions(cubin: bytes) -> list[str]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout
    words = (word for line in text.splitlines() for word in line.split() if word[0].isalpha())
    return [word.partition(".")[0] for word in words]


if __name__ == "__main__":
    main()
