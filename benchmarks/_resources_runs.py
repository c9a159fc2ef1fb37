"""Compile a list of cases, in several processes, and write what the compiler says of each kernel: one line a kernel."""

import argparse
import csv
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import triton

from benchmarks._harness import RESULTS, machine, table
from benchmarks._resources import TARGETS, Compiled, compiling


class Case(Protocol):
    """One call of an operator, for one architecture of TARGETS; its text is what --only looks at."""

    @property
    def target(self) -> str:
        """Name in TARGETS."""

    def launch(self) -> None:
        """Run the operator's host code up to `kernel[grid](...)`, on tensors without memory."""

    def columns(self) -> dict[str, object]:
        """The case in a line of the rows file, between the kernel's name and its figures; with "target"."""


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
            task.case.launch()
        except Exception as error:
            return found, f"{type(error).__name__}: {error}"
    return found, ""


def row_of(case: Case, compiled: Compiled) -> dict[str, object]:
    """A line of the rows file, without the columns that all its lines share."""
    usage = compiled.usage
    return {
        "kernel": compiled.kernel,
        **case.columns(),
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


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Replace the file by these rows, with Triton's version, commit and date."""
    here = machine()
    shared = {"triton": triton.__version__, "commit": here.commit, "dirty": here.dirty, "date": here.date}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *shared], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **shared} for row in rows)


def show(rows: Sequence[Mapping[str, object]], *, hidden: Sequence[str]) -> str:
    """The rows without the columns `hidden`."""
    header = [name for name in rows[0] if name not in hidden]
    lines = []
    for row in rows:
        cells = {**row, **({"registers": "failed"} if row["error"] else {})}
        lines.append([str(cells[name]) for name in header])
    return table(header, lines)


def summary(rows: Sequence[Mapping[str, object]], describe: Callable[[Mapping[str, object]], str]) -> str:
    """How many spill, do not fit and do not compile, and which, as `describe` calls them."""
    failed = [row for row in rows if row["error"]]
    large = [row for row in rows if row["fits"] == "false" and not row["error"]]
    spilling = [row for row in rows if row["spill_stores"] or row["spill_loads"]]
    parts = [f"{len(rows)} kernels: {len(spilling)} spill, {len(large)} do not fit, {len(failed)} do not compile"]
    for title, chosen in (("does not fit", large), ("does not compile", failed)):
        parts += [f"{title}: {describe(row)} {row['error'] or row['shared_bytes']}" for row in chosen]
    return "\n".join(parts)


def change(text: str) -> tuple[str, int | str]:
    """NAME=VALUE of the command line; digits are a number."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, like num_warps=16; got {text!r}")
    return name, int(value) if value.isdecimal() else value


def add_options(parser: argparse.ArgumentParser, *, name: str, example: str) -> None:
    """The options that every table of resources has; `example` is a line of a kernel, for --only."""
    parser.add_argument("--target", nargs="+", default=list(TARGETS), choices=TARGETS, help="default: all")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help=f"only kernels with this in their line, as in '{example}'"
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
    parser.add_argument("--results", type=Path, help=f"CSV to write (default, all cases: {RESULTS.name}/{name}.csv)")


def run(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[list[Compiled], str]]:
    """Results in the tasks' order; with one job in this process."""
    if jobs == 1:
        yield from map(compile_case, tasks)
        return
    # A forked process would inherit the threads of torch.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(compile_case, tasks)


def compile_rows(
    chosen: Sequence[Case], options: argparse.Namespace, path: Path | None
) -> tuple[list[dict[str, object]], int]:
    """Rows of the cases' kernels, told as they come and written to `path`, and how many cases were skipped."""
    tasks = [Task(case, options.only, tuple(options.set)) for case in chosen]
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
    return rows, skipped


def finish(shown: str, counted: str, rows: Sequence[Mapping[str, object]], skipped: int, path: Path | None) -> None:
    """Print the table and the summary; exit with 1 if a kernel did not compile."""
    print(shown)
    print(f"{counted}; {skipped} cases skipped; triton {triton.__version__}; rows: {path or 'not written'}")
    if any(row["error"] for row in rows):
        raise SystemExit(1)
