"""How the chunk attention kernels are launched: padded sizes, tiles, warps and operand types.

Nothing is timed at run time: the tables are fixed, chosen by `python -m benchmarks.chunk_attention_resources`
(registers, shared memory and spills of every entry).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

MAX_CHUNK_SIZE = 64
MAX_HEAD_DIM = 128
"""Widest head of the dense kernels."""
MAX_HELD_WIDTH = 512
"""Widest row of memory that the sparse kernels hold whole; wider ones pass in slices."""
OPERANDS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def _padded(size: int) -> int:
    """A tile's side: a power of two, at least 16 for matrix products."""
    return max(16, triton.next_power_of_2(size))


class Sizes(NamedTuple):
    """Sizes of a call. width: of a head (dense) or a row of memory (sparse). num_rows: queries or heads of a tile."""

    chunk: int
    width: int
    num_rows: int
    dtype: torch.dtype

    @property
    def block_chunk(self) -> int:
        """Rows of a chunk, padded."""
        return _padded(self.chunk)

    @property
    def block_width(self) -> int:
        """Columns, padded."""
        return _padded(self.width)

    @property
    def options(self) -> dict[str, object]:
        """The compile-time arguments that every kernel takes."""
        # TF32 in three products has float32's precision and runs on tensor cores, which "ieee" does not.
        tf32 = self.dtype != torch.float32 or torch.backends.cuda.matmul.allow_tf32
        return {
            "C": self.chunk, "BC": self.block_chunk, "D": self.width,
            "DOT": OPERANDS[self.dtype], "PRECISION": "tf32" if tf32 else "tf32x3",
        }  # fmt: skip


def register_limit(dtype: torch.dtype) -> dict[str, int]:
    """The registers a thread may have, said to the compiler where it otherwise spills some kernels down to 32."""
    return {"maxnreg": 255} if dtype == torch.float32 and not triton.knobs.runtime.interpret else {}


def dense_launch(sizes: Sizes, *, backward: bool) -> dict[str, int]:
    """Padded width BD, queries a tile BT, warps and stages of the dense kernels."""
    tile, warps = min(64, _padded(sizes.num_rows)), 4
    if sizes.dtype == torch.float32:
        tile, warps = min(32, tile), 8
    elif backward and sizes.block_width * sizes.block_chunk >= 128 * 64:
        warps = 8
    return {"BD": sizes.block_width, "BT": tile, "num_warps": warps, "num_stages": 2, **register_limit(sizes.dtype)}


def sparse_launch(sizes: Sizes, *, backward: bool) -> dict[str, int]:
    """Padded width BD, slice BS of columns, heads a tile BH, warps and stages of the sparse kernels."""
    width = sizes.block_width
    # float32's products keep whole operands in registers, and three parts of each; the widest tile of the others does
    # not fit into Ampere's shared memory.
    held = MAX_HELD_WIDTH // 2 if sizes.block_chunk == 64 else MAX_HELD_WIDTH
    slice_width = min(width, 32 if sizes.dtype == torch.float32 else held)
    warps = 8 if slice_width >= 512 else 4
    launch = {"BD": width, "BS": slice_width, "BH": 16, "num_warps": warps, "num_stages": 2}
    return {**launch, **register_limit(sizes.dtype)}


def memory_launch(sizes: Sizes) -> dict[str, int]:
    """Slice BS of columns, heads a tile BH, warps and stages of the memory's gradient."""
    return {
        "BS": min(64 if sizes.dtype == torch.float32 else 128, sizes.block_width),
        "BH": 16,
        "num_warps": 4,
        "num_stages": 2,
    }
