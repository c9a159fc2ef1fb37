"""How the Miras kernels are launched: padded sizes, warps and tiles, operand types, and where sequences lie.

Nothing here is timed at run time: the table below is fixed, so results do not depend on the run. It is chosen by
`python -m benchmarks.miras_resources` (registers, shared memory, spills of every entry) and, where there is a GPU,
`python -m benchmarks.miras_gpu --tune`. The chunk size is part of the function and never tuned.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime import driver

MAX_CHUNK_SIZE = 64
MAX_HEAD_DIM = 128
OPERANDS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float32}
"""float16 has too little range for factored gates and inner gradients; TF32 has its precision and float32's range."""


class Rule(NamedTuple):
    """A Miras rule as the kernels take it: see memarch.ops.MirasRule for the meaning of the fields.

    link names the divergence itself ("kl", "chi_square") where the rule says "f_divergence". mass: of a softmax slice.
    frozen: reads see the chunk's start.
    """

    memory: str
    bias: str
    huber: str
    link: str
    p: float
    q: float
    mass: float
    shrinkage: float
    frozen: bool

    @property
    def needs_threshold(self) -> bool:
        """Whether the loss has a delta."""
        return self.bias == "huber"

    @property
    def options(self) -> dict[str, object]:
        """The compile-time arguments that every kernel takes from the rule."""
        return {
            "BIAS": self.bias, "HUBER": self.huber, "LINK": self.link, "P": self.p, "Q": self.q,
            "MASS": self.mass, "SHRINK": self.shrinkage, "FROZEN": self.frozen,
        }  # fmt: skip


class Sizes(NamedTuple):
    """Sizes of a call, padded to what a tile may have: powers of two, at least 16 for matrix products."""

    chunk: int
    head_dim: int
    hidden_dim: int
    dtype: torch.dtype

    @property
    def block_chunk(self) -> int:
        """Rows of a tile of tokens."""
        return max(16, triton.next_power_of_2(self.chunk))

    @property
    def block_dim(self) -> int:
        """Columns of a tile of tokens."""
        return max(16, triton.next_power_of_2(self.head_dim))

    @property
    def block_hidden(self) -> int:
        """Hidden units, padded."""
        return max(16, triton.next_power_of_2(self.hidden_dim))

    @property
    def options(self) -> dict[str, object]:
        """The compile-time arguments that every kernel takes from the sizes."""
        tf32 = self.dtype != torch.float32 or torch.backends.cuda.matmul.allow_tf32
        return {
            "C": self.chunk, "BC": self.block_chunk, "D": self.head_dim, "BD": self.block_dim,
            "DOT": OPERANDS[self.dtype], "PRECISION": "tf32" if tf32 else "ieee",
        }  # fmt: skip


class Plan(NamedTuple):
    """Where sequences and their checkpoints lie.

    table: `[2, N + 1]` int64 on the device, boundaries of tokens and of checkpoints. position: `[N]` int64 on the
    device, None when every sequence starts a chunk. group: chunks a checkpoint. aligned: all end with a chunk.
    """

    table: Tensor
    position: Tensor | None
    group: int
    num_checkpoints: int
    aligned: bool

    @property
    def num_sequences(self) -> int:
        """N."""
        return self.table.shape[1] - 1


def checkpoint_group(num_chunks: int) -> int:
    """Chunks between checkpoints: the power of two near the square root, which keeps checkpoints plus scratch least."""
    group = 1
    while group < 8 and 4 * group * group <= num_chunks:
        group *= 2
    return group


def make_plan(bounds: Tensor, position: Tensor | None, chunk_size: int, device: torch.device) -> Plan:
    """Plan for sequences `bounds` `[N + 1]` that start at `position` `[N]` of their chunk (both int64 on the CPU).

    Equal sequences without a position are laid out by the device itself: a CUDA graph can capture that.
    """
    lengths = bounds.diff()
    start = torch.zeros_like(lengths) if position is None else position
    chunks = (start + lengths + chunk_size - 1) // chunk_size
    group = checkpoint_group(int(chunks.max()))
    per_sequence = (chunks + group - 1) // group
    total = int(per_sequence.sum())
    aligned = not bool(((start + lengths) % chunk_size).any())
    if position is None and bool((lengths == lengths[0]).all()):
        count = torch.arange(bounds.numel(), device=device)
        table = torch.stack([count * int(lengths[0]), count * int(per_sequence[0])])
        return Plan(table, None, group, total, aligned)
    checkpoints = torch.cat([torch.zeros(1, dtype=torch.int64), per_sequence.cumsum(0)])
    table = torch.stack([bounds, checkpoints]).to(device)
    return Plan(table, None if position is None else start.to(device), group, total, aligned)


def register_limit(dtype: torch.dtype) -> dict[str, int]:
    """The registers a thread may have, said to the compiler where it otherwise spills some kernels down to 32.

    That is on Ampere, and on Hopper for float32, whose products are no tensor core's.
    """
    if triton.knobs.runtime.interpret:
        return {}
    target = driver.active.get_current_target()
    told = target.backend == "cuda" and (target.arch < 90 or dtype == torch.float32)
    return {"maxnreg": 255} if told else {}


def matrix_launch(sizes: Sizes, rule: Rule, *, backward: bool) -> dict[str, int]:
    """Warps, stages and the slice BV of values of a matrix kernel: of a program (forward), of a pass (backward).

    Values that a link couples cannot be sliced; those that only a loss couples can in the backward, which sums first.
    """
    wide = sizes.block_dim * max(sizes.block_dim, sizes.block_chunk)
    launch = {"num_warps": 8, "num_stages": 1, **register_limit(sizes.dtype)}
    whole = rule.link in ("lq", "pnorm_dual", "softmax")
    if backward:
        small = sizes.block_dim <= 64 and sizes.block_chunk <= 32
        launch["BV"] = sizes.block_dim if whole or small else min(32, sizes.block_dim)
        return launch
    rows_couple = rule.bias == "huber" and rule.huber in ("mixture", "norm")
    launch["BV"] = sizes.block_dim if whole or rows_couple else min(64, sizes.block_dim)
    if wide <= 64 * 64 and sizes.block_chunk < 64:
        launch["num_warps"] = 4
    return launch


def mlp_launch(sizes: Sizes, rule: Rule, *, backward: bool) -> dict[str, int]:
    """Warps, stages and hidden tile BN of an MLP kernel: of those that compile, the ones that spill least.

    `python -m benchmarks.miras_resources` has the figures. A chunk of 64 rows keeps four warps busy in Hopper's matrix
    products; eight hold each tile in half as many registers a thread, which only the backward needs there.
    """
    warps, tile = 8, 32 if sizes.block_dim > 64 else 64
    if backward and sizes.block_chunk == 16:
        warps, tile = 4, 32
    if not backward and sizes.block_chunk == 64 and sizes.block_dim <= 64:
        warps, tile = 4, 32
    return {"num_warps": warps, "num_stages": 1, "BN": min(tile, sizes.block_hidden), **register_limit(sizes.dtype)}
