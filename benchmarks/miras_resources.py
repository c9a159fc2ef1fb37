"""Registers, shared memory and spills of every shipped Miras kernel configuration, from the compiler, without a GPU.

The operator's own host code runs on tensors without memory; each kernel it would launch is compiled for sm_90 (H100)
and sm_80 (A100) instead. Figures are ptxas's: registers, stack and spills in bytes per thread (0 is the aim), and
Triton's: shared memory of a block. "serial": Hopper's matrix products wait for each other, for want of registers.
"maxnreg": the launch's limit of registers; without one, ptxas may fall to 32 registers where it has to spill much.

The rows file is written as a whole by a run of all cases and left alone by every other run; --results writes the rows
of any run to a file of your choice. Compiled kernels are kept in Triton's cache.
Two cores: about 40 minutes, minutes once cached.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks import _resources_runs
from benchmarks._harness import RESULTS
from benchmarks._resources import TARGETS
from benchmarks._resources_runs import add_options, compile_rows, finish
from memarch.ops import MEMORA, MONETA, YAAD, MirasRule
from memarch.ops._dispatch import kernels
from memarch.ops._miras_rule import Memory
from memarch.ops._miras_triton import _kernel_rule, triton_scan

NAME = "miras_resources"
# As in training: the sizes decide the arguments' divisibility and the chunks a checkpoint, nothing else.
BATCH, LENGTH, HEADS, EXPANSION = 8, 4096, 16, 4
HEAD_DIMS: dict[Memory, tuple[int, ...]] = {"matrix": (16, 48, 64, 96, 128), "mlp": (32, 48, 64, 96, 128)}
RULES = {"yaad": replace(YAAD, huber="norm"), "moneta": MONETA, "memora": MEMORA}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Case:
    """One call of an operator, for one architecture; `host` runs its host code."""

    host: "Callable[[Case], None]"
    memory: Memory
    head_dim: int
    chunk_size: int
    dtype: str
    rule: str
    gates: str
    target: str

    def __str__(self) -> str:
        size = f"{self.memory} D={self.head_dim} C={self.chunk_size}"
        return f"{size} {self.dtype} {self.rule} {self.gates} {self.target}"

    def launch(self) -> None:
        """Run the case's host code."""
        self.host(self)

    def columns(self) -> dict[str, object]:
        """The case in a line of the rows file."""
        named = ("memory", "head_dim", "chunk_size", "dtype", "rule", "gates", "target")
        return {{"head_dim": "D", "chunk_size": "C"}.get(name, name): getattr(self, name) for name in named}

    @property
    def miras_rule(self) -> MirasRule:
        """The rule with this case's memory."""
        return replace(RULES[self.rule], memory=self.memory)


def tensor(*shape: int, dtype: torch.dtype = torch.float32, grad: bool = False) -> torch.Tensor:
    """A tensor without memory."""
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=grad)


def tokens(case: Case, batch: int, length: int, *, grad: bool) -> tuple[torch.Tensor | None, ...]:
    """q, k, v, log_decay, step_size and the threshold, None where the loss has none."""
    per_head = (batch, length, HEADS)
    per_channel = (*per_head, case.head_dim)
    gates = per_channel if case.gates == "channel" else per_head
    qkv = (tensor(*per_channel, dtype=DTYPES[case.dtype], grad=grad) for _ in range(3))
    threshold = tensor(*per_head, grad=grad) if case.miras_rule.bias == "huber" else None
    return (*qkv, *(tensor(*gates, grad=grad) for _ in range(2)), threshold)


def weights(case: Case, *leading: int, grad: bool) -> tuple[torch.Tensor, ...]:
    """The memory's weights."""
    wide = EXPANSION * case.head_dim
    shapes = {"matrix": [(case.head_dim,) * 2], "mlp": [(case.head_dim, wide), (wide, case.head_dim)]}
    return tuple(tensor(*leading, *shape, grad=grad) for shape in shapes[case.memory])


def scan(case: Case) -> None:
    """A training step of `miras_memory`: forward that saves, then backward."""
    bounds = torch.arange(BATCH + 1) * LENGTH
    start = weights(case, HEADS, grad=True)
    given: Any = tokens(case, BATCH, LENGTH, grad=True)
    o, _ = triton_scan(case.miras_rule, case.chunk_size, bounds, None, start, *given)
    o.backward(torch.empty_like(o))


def step(case: Case) -> None:
    """A decoded token: `miras_step`."""
    position = torch.empty(BATCH, dtype=torch.int64, device="meta")
    given = tokens(case, BATCH, 1, grad=False)
    anchor, running = (weights(case, BATCH, HEADS, grad=False) for _ in range(2))
    module = kernels("miras_step")
    rule = _kernel_rule(module, case.miras_rule, running[0].shape[-1])
    module.step_in_place(rule, case.chunk_size, position, *given, anchor, running)


HOSTS: dict[Callable[[Case], None], tuple[int, ...]] = {scan: (16, 32, 64), step: (64,)}
"""What launches the kernels, with its chunk sizes: functions of a case that run host code up to `kernel[grid](...)`."""


def cases(targets: Sequence[str], memories: Sequence[Memory], head_dims: Sequence[int] | None) -> Iterator[Case]:
    """All cases: every width and chunk size for YAAD in bfloat16, the other rules, float32 and channel gates at 64."""
    for host, chunks in HOSTS.items():
        for memory in memories:
            for head_dim in HEAD_DIMS[memory]:
                if head_dims is not None and head_dim not in head_dims:
                    continue
                kinds = [("bf16", "yaad", "head")]
                if head_dim == 64:
                    kinds += [("fp32", "yaad", "head"), ("bf16", "yaad", "channel")]
                    kinds += [("bf16", "moneta", "head"), ("bf16", "memora", "head")]
                for kind in kinds:
                    for chunk_size in chunks:
                        for target in targets:
                            yield Case(host, memory, head_dim, chunk_size, *kind, target)


def show(rows: Sequence[Mapping[str, object]]) -> str:
    """The rows without what no reader of a terminal needs."""
    return _resources_runs.show(rows, hidden=("memory", "num_stages", "error"))


def summary(rows: Sequence[Mapping[str, object]]) -> str:
    """How many spill, do not fit and do not compile, and which."""

    def describe(row: Mapping[str, object]) -> str:
        named = " ".join(str(row[name]) for name in ("kernel", "dtype", "rule", "gates", "target"))
        return f"{named} D={row['D']} C={row['C']}"

    return _resources_runs.summary(rows, describe)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", nargs="+", default=list(HEAD_DIMS), choices=HEAD_DIMS, help="default: both")
    parser.add_argument("--head-dims", type=int, nargs="+", help="default: all")
    add_options(parser, name=NAME, example="backward matrix D=64 C=64 bf16 yaad head sm_90")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Compile the cases; see the module's docstring."""
    options = parse(arguments)
    chosen = list(cases(options.target, options.memory, options.head_dims))
    if options.quick:
        chosen = [c for c in chosen if c.target == "sm_90" and c.head_dim == 64 and c.chunk_size == 64]
        chosen = [c for c in chosen if (c.dtype, c.gates) == ("bf16", "head")]
    whole = not options.only and not options.set and chosen == list(cases(list(TARGETS), list(HEAD_DIMS), None))
    path = options.results or (RESULTS / f"{NAME}.csv" if whole else None)
    rows, skipped = compile_rows(chosen, options, path)
    finish(show(rows), summary(rows), rows, skipped, path)


if __name__ == "__main__":
    main()
