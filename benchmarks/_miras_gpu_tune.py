"""`--tune`: which launch of our kernels is fastest on this device. Prints a table to paste; writes no code."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch

from benchmarks._harness import table, time_rounds
from benchmarks._miras_gpu_arms import Arm, draw_inputs, own_arm
from benchmarks._miras_gpu_cases import Case
from benchmarks._miras_gpu_lab import DeviceLost, Lab, reason

Launch = dict[str, int]
WARPS, TILES = (2, 4, 8, 16), (16, 32, 64)
NOW = "as shipped"


@dataclass(frozen=True)
class Task:
    """One kernel at one size: forward or backward of a memory."""

    case: Case
    backward: bool

    @property
    def label(self) -> str:
        """What `--only` looks at."""
        return f"{self.case.label} {'backward' if self.backward else 'forward'}"

    @property
    def candidates(self) -> list[Launch]:
        """Launches to try; the matrix backward has no tile."""
        tile = "BN" if self.case.memory == "mlp" else "BV"
        if self.case.memory == "matrix" and self.backward:
            return [{"num_warps": w} for w in WARPS]
        tiles = [t for t in TILES if self.case.memory == "mlp" or t <= self.case.head_dim]
        return [{"num_warps": w, tile: t} for w, t in product(WARPS, tiles)]


def tasks(cases: list[Case]) -> list[Task]:
    """Both directions of every operator case, each size once."""
    sizes = {replace(c, rules=("l2",), peers=(), control=False) for c in cases if c.kind == "op"}
    ordered = sorted(sizes, key=lambda c: (c.memory, c.head_dim, c.chunk, c.batch_heads, c.tokens))
    return [Task(case, backward) for case in ordered for backward in (False, True)]


@contextmanager
def forced(task: Task, launch: Launch) -> Iterator[None]:
    """Launch the task's kernel so, by replacing the function that chooses, where the kernels' host code looks it up."""
    module = importlib.import_module("memarch_kernels.miras")
    name = f"{task.case.memory}_launch"
    original = getattr(module, name)

    def choose(sizes: Any, rule: Any, *, backward: bool) -> Launch:
        shipped = dict(original(sizes, rule, backward=backward))
        return shipped | launch if backward == task.backward else shipped

    setattr(module, name, choose)
    try:
        yield
    finally:
        setattr(module, name, original)


def runner(task: Task, arm: Arm) -> Callable[[], object]:
    """What is timed: the forward pass, or the backward pass of one graph again and again."""
    if not task.backward:
        return arm.forward
    out = arm.call()
    return lambda: torch.autograd.grad(out, arm.leaves, arm.cotangent, retain_graph=True, allow_unused=True)


def try_task(task: Task, lab: Lab, *, rounds: int, arm_seconds: float, candidates: list[Launch]) -> dict[str, str]:
    """Median milliseconds of every launch as text, or why it does not run; the fastest first."""
    arm = own_arm("l2", task.case, draw_inputs(task.case, lab.device), lab.device)
    run = runner(task, arm)
    runs: dict[str, Callable[[], object]] = {}
    failed: dict[str, str] = {}

    def under(launch: Launch) -> Callable[[], object]:
        def forced_run() -> object:
            with forced(task, launch):
                return run()

        return forced_run

    for launch in ({}, *candidates):
        name = ", ".join(f"{k}={v}" for k, v in launch.items()) or NOW
        try:
            runs[name] = under(launch)
            lab.warm_up(runs[name], arm_seconds)
        except Exception as error:  # too many registers, too much shared memory, ...
            del runs[name]
            failed[name] = reason(error)
            lab.free()
    seconds = time_rounds(runs, rounds=rounds, warmup=0, budget_seconds=10.0, clock=lab.seconds)
    medians = {name: sorted(x)[len(x) // 2] * 1e3 for name, x in seconds.items()}
    return {name: f"{medians[name]:.4f}" for name in sorted(medians, key=lambda n: medians[n])} | failed


def winner_line(task: Task, found: dict[str, str]) -> list[str]:
    """The table's line: the fastest launch beside the shipped one."""
    case, best = task.case, next(iter(found), "")
    shipped = found.get(NOW, "")
    direction = "backward" if task.backward else "forward"
    return [case.memory, direction, str(case.head_dim), str(case.chunk), best, found.get(best, ""), shipped]


def tune(
    wanted: list[Task], lab: Lab, *, rounds: int, arm_seconds: float, limit: int | None, late: Callable[[], bool]
) -> None:
    """Try every task, print all its launches, then the winners; `limit` candidates at most, none once it is `late`."""
    lines = []
    for task in wanted:
        if late():
            print(f"{task.label}: skipped, the time is spent (--budget-seconds)")
            continue
        print(f"{task.label} ...", flush=True)
        try:
            candidates = task.candidates[:limit]
            found = try_task(task, lab, rounds=rounds, arm_seconds=arm_seconds, candidates=candidates)
        except DeviceLost:
            raise
        except Exception as error:  # as above
            print(f"  not tuned: {reason(error)}", flush=True)
            lab.free()
            continue
        for name, text in found.items():
            print(f"  {name}: {text}", flush=True)
        lines.append(winner_line(task, found))
    print(table(["memory", "direction", "D", "C", "fastest", "ms", "shipped, ms"], lines))
