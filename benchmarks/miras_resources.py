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
import csv
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton

from benchmarks._harness import RESULTS, machine, table
from benchmarks._resources import TARGETS, Compiled, compiling
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


@dataclass(frozen=True)
class Task:
    """A case with what the command line asks of it, for a process of its own."""

    case: Case
    only: str
    changes: tuple[tuple[str, int | str], ...]


def compile_case(task: Task) -> tuple[list[Compiled], str]:
    """The case's kernels whose name and case have `only` in them; why the host code refused, empty if it did not."""

    def wanted(kernel: str) -> bool:
        return task.only in f"{kernel} {task.case}"

    with compiling(TARGETS[task.case.target], wanted=wanted, changes=dict(task.changes)) as found:
        try:
            task.case.host(task.case)
        except Exception as error:
            return found, f"{type(error).__name__}: {error}"
    return found, ""


def row_of(case: Case, compiled: Compiled) -> dict[str, object]:
    """A line of the rows file, without the columns that all its lines share."""
    usage = compiled.usage
    return {
        "kernel": compiled.kernel,
        "memory": case.memory,
        "D": case.head_dim,
        "C": case.chunk_size,
        "dtype": case.dtype,
        "rule": case.rule,
        "gates": case.gates,
        "target": case.target,
        "num_warps": compiled.num_warps,
        "num_stages": compiled.num_stages,
        "maxnreg": compiled.maxnreg or "",
        "tiles": compiled.tiles,
        "registers": usage.registers,
        "shared_bytes": compiled.shared_bytes,
        "stack_bytes": usage.stack_bytes,
        "spill_stores": usage.spill_stores,
        "spill_loads": usage.spill_loads,
        "serial": str(usage.serialized).lower(),
        "fits": str(not compiled.error and compiled.shared_bytes <= TARGETS[case.target].shared_limit).lower(),
        "error": compiled.error,
    }


def write_rows(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Replace the file by these rows, with Triton's version, commit and date."""
    here = machine()
    shared = {"triton": triton.__version__, "commit": here.commit, "dirty": here.dirty, "date": here.date}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *shared], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | shared for row in rows)


def show(rows: Sequence[dict[str, object]]) -> str:
    """The rows without what no reader of a terminal needs."""
    header = [name for name in rows[0] if name not in ("memory", "num_stages", "error")]
    lines = []
    for row in rows:
        cells = row | ({"registers": "failed"} if row["error"] else {})
        lines.append([str(cells[name]) for name in header])
    return table(header, lines)


def summary(rows: Sequence[dict[str, object]]) -> str:
    """How many spill, do not fit and do not compile, and which."""
    failed = [row for row in rows if row["error"]]
    large = [row for row in rows if row["fits"] == "false" and not row["error"]]
    spilling = [row for row in rows if row["spill_stores"] or row["spill_loads"]]
    parts = [f"{len(rows)} kernels: {len(spilling)} spill, {len(large)} do not fit, {len(failed)} do not compile"]
    for title, chosen in (("does not fit", large), ("does not compile", failed)):
        for row in chosen:
            named = " ".join(str(row[name]) for name in ("kernel", "dtype", "rule", "gates", "target"))
            parts.append(f"{title}: {named} D={row['D']} C={row['C']} {row['error'] or row['shared_bytes']}")
    return "\n".join(parts)


def change(text: str) -> tuple[str, int | str]:
    """NAME=VALUE of the command line; digits are a number."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, like num_warps=16; got {text!r}")
    return name, int(value) if value.isdecimal() else value


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", default=list(TARGETS), choices=TARGETS, help="default: all")
    parser.add_argument("--memory", nargs="+", default=list(HEAD_DIMS), choices=HEAD_DIMS, help="default: both")
    parser.add_argument("--head-dims", type=int, nargs="+", help="default: all")
    parser.add_argument(
        "--only",
        default="",
        metavar="TEXT",
        help="only kernels with this in their line, as in 'backward matrix D=64 C=64 bf16 yaad head sm_90'",
    )
    parser.add_argument(
        "--set",
        type=change,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="compile with other launch arguments, like num_warps=16 or PRECISION=tf32x3",
    )
    parser.add_argument("--quick", action="store_true", help="a handful of cases, no rows written: a minute")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--results", type=Path, help=f"CSV to write (default, all cases: {RESULTS.name}/{NAME}.csv)")
    return parser.parse_args(arguments)


def run(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[list[Compiled], str]]:
    """Results in the tasks' order; with one job in this process."""
    if jobs == 1:
        yield from map(compile_case, tasks)
        return
    # A forked process would inherit the threads of torch.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(compile_case, tasks)


def main(arguments: list[str] | None = None) -> None:
    """Compile the cases; see the module's docstring."""
    options = parse(arguments)
    chosen = list(cases(options.target, options.memory, options.head_dims))
    if options.quick:
        chosen = [c for c in chosen if c.target == "sm_90" and c.head_dim == 64 and c.chunk_size == 64]
        chosen = [c for c in chosen if (c.dtype, c.gates) == ("bf16", "head")]
    tasks = [Task(case, options.only, tuple(options.set)) for case in chosen]
    whole = not options.only and not options.set and chosen == list(cases(list(TARGETS), list(HEAD_DIMS), None))
    path = options.results or (RESULTS / f"{NAME}.csv" if whole else None)
    rows: list[dict[str, object]] = []
    skipped = 0
    for i, (task, (compiled, refused)) in enumerate(zip(tasks, run(tasks, options.jobs), strict=True)):
        rows += [row_of(task.case, c) for c in compiled]
        if refused:
            skipped += 1
            print(f"skipped {task.case}: {refused}", file=sys.stderr, flush=True)
        for c in compiled:
            spilled = c.usage.spill_stores + c.usage.spill_loads
            figures = c.error or f"{c.usage.registers} registers, {spilled} bytes spilled"
            print(f"[{i + 1}/{len(tasks)}] {c.kernel} {task.case} {c.num_warps} warps: {figures}", flush=True)
    if not rows:
        raise SystemExit(f"no kernel was compiled: {len(tasks)} cases, {skipped} skipped, --only {options.only!r}")
    if path is not None:
        write_rows(path, rows)
    print(show(rows))
    print(f"{summary(rows)}; {skipped} cases skipped; triton {triton.__version__}; rows: {path or 'not written'}")
    if any(row["error"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
