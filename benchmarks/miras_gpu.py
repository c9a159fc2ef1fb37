"""Speed and peak memory of the Miras kernels on one GPU, beside other people's, and how near the device's limits.

Arms, on equal tensors (bf16 q, k, v; float32 gates):
  l2, yaad, moneta, memora, yaad-matrix   `memarch.ops.miras_memory`, backend="triton"; `miras_step` for decoding.
                                          yaad: the Huber loss by the error's norm.
  torch      the same l2 memory by our torch path on the GPU, a control.
  titans     titans_pytorch.NeuralMemory whole; in its case l2 and yaad are NeuralMemory around our memory.
  fla-gdr, fla-kda, fla-ttt   chunk_gated_delta_rule (decoding: fused_recurrent_), chunk_kda, chunk_ttt_linear.
  sdpa       torch's attention, causal, flash backend; decoding: over a cache of T tokens.
Peers are optional: pip install flash-linear-attention titans-pytorch. A missing or failing one is one line. On Hopper
fla refuses the gated delta rule's backward under triton 3.4 to 3.7.0, which miscompile it; its TileLang backend does it
(pip install tilelang).

Cases are named "kind memory d=width n=B*H T=tokens C=chunk". First every rule is checked against the float64 reference
and what is wrong is not timed. Figures are medians of interleaved rounds by CUDA events, the L2 cache flushed before
each, launches hidden as in a training loop (decoding without a graph: not hidden). A ratio is baseline / arm: above 1
the arm needs less. "of roofline" is the least possible time, by operations or by bytes, over the median; for decoding
the memory's traffic at the bandwidth that a copy reached in the same run. One decoding step is one of 16 memories.
"""

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._harness import RESULTS, Row, append_rows, table
from benchmarks._miras_gpu_cases import Case, aims, default_cases, full_cases, headline_cases, judge, tiny_cases
from benchmarks._miras_gpu_warm import compile_ahead, default_jobs

NAME = "miras_gpu"
NO_GPU = (
    "miras_gpu measures on a CUDA GPU, and torch sees none here: run it where torch.cuda.is_available(), or try the "
    "program itself on the CPU at tiny sizes with --interpret\n"
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the product of all sizes, without a time limit: hours")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help='cases whose name has it, e.g. "mlp d=64"')
    parser.add_argument("--list", action="store_true", help="print the cases' names and stop")
    parser.add_argument("--tune", action="store_true", help="find the fastest launches, print them, write no rows")
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds per case at most (default 20)")
    parser.add_argument("--case-seconds", type=float, default=8.0, help="no new round past this (default 8)")
    parser.add_argument("--arm-seconds", type=float, default=60.0, help="limit of an arm's warm-up (default 60)")
    parser.add_argument("--budget-seconds", type=float, help="no new case past this (default 390; --full: none)")
    parser.add_argument("--jobs", type=int, help="processes that compile ahead; 0: none (default: half the cores)")
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default {RESULTS.name}/{NAME}.csv)")
    parser.add_argument(
        "--interpret", "--dry-run", action="store_true", help="all of it on the CPU, tiny, interpreted; no rows written"
    )
    parser.add_argument("--compile-only", metavar="CASE", help=argparse.SUPPRESS)
    parser.add_argument("--without", nargs="+", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--from-case", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def choose_cases(options: argparse.Namespace) -> list[Case]:
    """The cases asked for."""
    if options.interpret:
        cases = tiny_cases()
    elif options.full:
        cases = full_cases()
    else:
        cases = headline_cases() if options.tune else default_cases()
    cases = [case for case in cases if options.only in case.label]
    labels = [case.label for case in cases]
    if options.from_case in labels:
        cases = cases[labels.index(options.from_case) :]
    return cases


def show(rows: Sequence[tuple[str, Row]]) -> str:
    """A line per case, pass and arm: time, ratio, share of the roofline, peak memory."""
    lines: dict[tuple[str, str, str], dict[str, Row]] = {}
    for label, row in rows:
        which, _, what = row.metric.partition(" ")
        lines.setdefault((label, which, row.arm), {})[what] = row
    cells = []
    for (label, which, arm), found in lines.items():
        took, share, peak = (found.get(what) for what in ("time", "of roofline", "peak memory"))
        if took is None:
            continue
        around = f" ({took.ratio_low:.2f}..{took.ratio_high:.2f})" if took.ratio_low and took.ratio_high else ""
        cells.append([
            label, which, arm, f"{took.value * 1e3:.3f} ms", f"{took.low * 1e3:.3f}..{took.high * 1e3:.3f}",
            f"{took.ratio:.2f}x {took.baseline}{around}" if took.ratio else "",
            f"{share.value:.1%}" if share else "", f"{peak.value:.0f} MiB" if peak else "", str(took.samples),
        ])  # fmt: skip
    header = ["case", "pass", "arm", "median", "min..max", "baseline / arm", "of roofline", "peak", "n"]
    return table(header, cells)


def show_aims(rows: Sequence[tuple[str, Row]]) -> str:
    """A line per aim."""
    return table(["aim", "pass", "figure", ""], [
        [aim.text, aim.metric.partition(" ")[0], figure, verdict]
        for aim in aims() for verdict, figure in [judge(aim, rows)]
    ])  # fmt: skip


def start_again(
    arguments: Sequence[str], options: argparse.Namespace, case: str, key: str, seconds_left: float
) -> None:
    """Become a new process that goes on from `case`, without the arm or check that took the device away."""
    again = [sys.executable, "-m", "benchmarks.miras_gpu", *arguments, "--jobs", "0", "--from-case", case]
    again += ["--budget-seconds", f"{seconds_left:.0f}", "--without", *options.without, key]
    print(f"the device was lost: going on in a new process without {key}", flush=True)
    os.execv(sys.executable, again)


def compile_first(cases: Sequence[Case], options: argparse.Namespace) -> None:
    """Fill Triton's cache from several processes, if that is wanted and pays."""
    jobs = (0 if options.interpret else default_jobs()) if options.jobs is None else options.jobs
    if jobs < 1 or not cases:
        return
    labels = [case.label for case in cases]
    print(f"compiling ahead: {len(labels)} cases, {jobs} at a time ...", flush=True)
    passed_on = ["--interpret"] * options.interpret + ["--full"] * options.full + ["--tune"] * options.tune
    began = time.monotonic()
    bad = compile_ahead(labels, passed_on, jobs=jobs)
    print(f"  {time.monotonic() - began:.0f} s; unfinished: {', '.join(bad) or 'none'}", flush=True)


def compile_only(cases: Sequence[Case], options: argparse.Namespace, lab: Any) -> None:
    """The process that `compile_first` starts."""
    from benchmarks import _miras_gpu_run as running
    from benchmarks import _miras_gpu_tune as tuning
    from benchmarks._miras_gpu_check import SIZE, TINY_SIZE

    for case in (case for case in cases if case.label == options.compile_only):
        if options.tune:
            for task in tuning.tasks([case]):
                limit = 1 if options.interpret else None
                tuning.try_task(
                    task, lab, rounds=1, arm_seconds=options.arm_seconds, candidates=task.candidates[:limit]
                )
        else:
            running.compile_case(case, lab, TINY_SIZE if options.interpret else SIZE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; see the module's docstring. Exits with 1 if one of our arms is wrong or does not run."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    cases = choose_cases(options)
    if options.list:
        print("\n".join(case.label for case in cases))
        return
    if options.interpret:
        # Triton looks at it when a kernel is defined: before the first import of the kernels.
        os.environ["TRITON_INTERPRET"] = "1"
    if importlib.util.find_spec("memarch_kernels") is None:
        sys.path.append(str(RESULTS.parent.parent / "kernels"))
    import torch

    if not options.interpret and not torch.cuda.is_available():
        sys.stderr.write(NO_GPU)
        raise SystemExit(2)
    from benchmarks._miras_gpu_lab import Lab

    lab = Lab(torch.device("cpu" if options.interpret else "cuda"))
    if options.compile_only:
        compile_only(cases, options, lab)
        return
    compile_began = time.monotonic()
    compile_first([case for case in cases if case.kind == "op"] if options.tune else cases, options)
    code = measure(arguments, cases, options, lab, compile_began)
    if code:
        raise SystemExit(code)


def measure(
    arguments: Sequence[str], cases: Sequence[Case], options: argparse.Namespace, lab: Any, began: float
) -> int:
    """Check, time, print; the exit code."""
    from benchmarks import _miras_gpu_run as running
    from benchmarks import _miras_gpu_tune as tuning
    from benchmarks._miras_gpu_check import SIZE, TINY_SIZE, check_all
    from benchmarks._miras_gpu_lab import ArmLost
    from benchmarks._miras_gpu_roofline import find_peaks

    dry = options.interpret
    budget = options.budget_seconds
    if budget is None:
        budget = float("inf") if options.full else 390.0

    def left() -> float:
        return budget - (time.monotonic() - began)

    rounds = 1 if dry else options.rounds
    if options.tune:
        tuning.tune(
            tuning.tasks(list(cases)), lab, rounds=rounds, arm_seconds=options.arm_seconds,
            limit=2 if dry else None, late=lambda: left() < 0,
        )  # fmt: skip
        return 0
    peaks = find_peaks(lab)
    print(f"{lab.name}: {peaks.flops / 1e12:.4g} TFLOP/s bf16, {peaks.bandwidth / 1e12:.4g} TB/s ({peaks.source})")
    print(f"  a copy reached {peaks.copied / 1e12:.4g} TB/s\nagainst the float64 reference:", flush=True)
    wanted = [(c.memory, rule, c.chunk) for c in cases for rule in c.rules]
    try:
        refused = check_all(wanted, lab, size=TINY_SIZE if dry else SIZE, without=options.without)
    except ArmLost as lost:
        start_again(arguments, options, cases[0].label, lost.key, left())
        raise
    settings = running.Options(
        rounds=rounds, case_seconds=options.case_seconds, arm_seconds=options.arm_seconds,
        layers=2 if dry else running.LAYERS, refused=frozenset(refused), skipped=frozenset(options.without),
    )  # fmt: skip
    titans_ok = check_titans(cases)
    path = None if dry else options.results or RESULTS / f"{NAME}.csv"
    rows: list[tuple[str, Row]] = []
    failed: list[str] = [f"{memory} {rule} C={chunk}" for memory, rule, chunk in sorted(refused)]
    lost_at: tuple[str, str] | None = None
    for at, case in enumerate(cases, 1):
        if left() < 0:
            print(f"[{at}/{len(cases)}] {case.label}: skipped, the time is spent (--budget-seconds)", flush=True)
            continue
        if case.kind == "titans" and not titans_ok:
            continue
        print(f"[{at}/{len(cases)}] {case.label} ({time.monotonic() - began:.0f} s)", flush=True)
        run = running.CaseRun(case, lab, peaks, settings)
        try:
            run.run()
            lab.free()
        except ArmLost as lost:
            lost_at = (case.label, lost.key)
        except Exception as error:  # a case's trouble must not take the others' figures
            print(f"  the case ends here: {running.reason(error)}", flush=True)
            failed.append(case.label)
            lost_at = lost_after(lab, cases[at:])
        rows += [(case.label, row) for row in run.outcome.rows]
        failed += run.outcome.failed
        if path is not None and run.outcome.rows:
            path = write(path, run.outcome.rows, lab.name)
        if lost_at is not None:
            break
    print(show(rows))
    print(show_aims(rows))
    print(f"{lab.name}; rows: {path or 'not written'}; {time.monotonic() - began:.0f} s")
    if failed:
        print("ours, wrong or not run: " + json.dumps(failed, indent=1))
    if lost_at is not None:
        start_again(arguments, options, *lost_at, left())
    return int(bool(failed))


def write(path: Path, rows: Sequence[Row], device: str) -> Path | None:
    """Append rows; the path, or None with a line if it cannot be written: the figures are still printed."""
    try:
        append_rows(path, rows, device=device)
    except (OSError, ValueError) as error:
        print(f"rows are not written from here on: {error}", flush=True)
        return None
    return path


def lost_after(lab: Any, rest: Sequence[Case]) -> tuple[str, str] | None:
    """Where to go on if the device went with a case: at the next one; None if it is still there, or nothing is left."""
    try:
        lab.free()
    except RuntimeError:
        return (rest[0].label, "nothing more of this case") if rest else None
    return None


def check_titans(cases: Sequence[Case]) -> bool:
    """Whether NeuralMemory is here and computes the same function with our formula; a line if not."""
    if not any(case.kind == "titans" for case in cases):
        return False
    from benchmarks._miras_gpu_lab import reason
    from benchmarks._miras_gpu_peers import titans_difference

    try:
        difference = titans_difference()
    except Exception as error:  # not installed, or another version
        print(f"titans: its cases are not measured: {reason(error)}", flush=True)
        return False
    print(f"titans: the same function as ours in float64 to {difference:.1e}", flush=True)
    if difference > 1e-9:
        print("titans: its cases are not measured: the functions differ", flush=True)
    return difference <= 1e-9


if __name__ == "__main__":
    main()
