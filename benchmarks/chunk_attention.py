"""Speed and peak memory of one read of a memory of chunks: ours beside the released module's algorithm and others.

Arms, on equal tensors (x, contents, weights; the memory is stored, so no gradient goes to it):
  released   the released HCAM module's algorithm, the baseline: gather for every query, then project keys and values.
  ours       `memarch.ops.chunk_attention`: the same function.
  htm        htm-pytorch's HTMAttention: the same function (optional: pip install htm-pytorch).
  sdpa       torch's attention over the whole memory: another function, which reads every row.
  flex       flex_attention over the selected chunks, one softmax over all their rows: another function. On a CPU it has
             no backward.
With --device cuda, in bfloat16, also ours-dense, ours-absorbed (each form by itself) and ours-torch (no kernel).
First, released, both forms of ours and htm are compared in float64: what differs is not timed.

Sizes are named B sequences, T queries, M*C rows in chunks of C = 32; k = 8 chunks a query (all, if there are fewer).
T = 1 is acting, forward alone. Figures are medians of interleaved rounds; a ratio is released / arm: above 1 the arm
needs less. Peak memory: growth of resident memory in a fresh process (CPU, training only), of allocated memory (GPU).
On a CPU one thread, as an actor has; about 10 minutes, compiling flex_attention included.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks._chunk_attention_arms import ARMS, Size, check, htm_installed, make_inputs, step_of
from benchmarks._harness import (
    RESULTS,
    Row,
    append_rows,
    peak_bytes_during,
    run_fresh,
    table,
    time_rounds,
    timing_row,
)
from benchmarks._miras_gpu_lab import Lab, reason

NAME = "chunk_attention"
BASELINE = "released"
PASSES = ("forward", "forward+backward")
CHUNKS = (4, 16, 64, 256, 1024, 2048)
AIM, SDPA_FROM = 8.0, 4096
CPU_ARMS = ("released", "ours", "htm", "sdpa", "flex")


def sizes(device: str, quick: bool) -> list[Size]:
    """Learning from 128 to 64k rows, and acting; on a GPU wider, longer and in bfloat16."""
    if quick:
        return [Size(B=2, T=16, M=m, C=8, D=32, H=4, k=2) for m in (4, 32)]
    if device == "cuda":
        learn = [Size(B=8, T=512, M=m, D=512, dtype="bfloat16") for m in CHUNKS]
        return [*learn, *(Size(B=64, T=1, M=m, D=512, dtype="bfloat16") for m in CHUNKS[:4])]
    return [*(Size(B=4, T=64, M=m) for m in CHUNKS), *(Size(B=8, T=1, M=m) for m in CHUNKS if m != 1024)]


def runs(arm: str, size: Size, which: str, device: str) -> bool:
    """Whether an arm has this pass: flex_attention has no backward on a CPU, and is compiled for T > 1 only."""
    return arm != "flex" or device == "cuda" or (which == "forward" and size.T > 1)


def time_size(size: Size, which: str, arms: Sequence[str], lab: Lab, options: argparse.Namespace) -> list[Row]:
    """Rows of every arm that ran; the baseline's own has ratio 1."""
    i = make_inputs(size, lab.device, grad=which != "forward")
    steps: dict[str, Callable[[], None]] = {}
    for arm in (a for a in arms if runs(a, size, which, lab.device.type)):
        try:
            step = step_of(arm, i, which)
            lab.warm_up(step, options.arm_seconds)
            steps[arm] = step
        except Exception as error:
            print(f"{size.label} {which} {arm}: {reason(error)}", flush=True)
    if BASELINE not in steps:
        return []
    seconds = time_rounds(
        steps, rounds=options.repeats, warmup=0, budget_seconds=options.case_seconds, clock=lab.seconds
    )
    rows = [timing_row(NAME, arm, BASELINE, f"{which} time", seconds, size.text()) for arm in steps]
    if lab.cuda and not options.no_memory:
        rows += memory_rows(size, which, {arm: lab.peak_bytes(step) for arm, step in steps.items()})
    return rows


def memory_rows(size: Size, which: str, peaks: dict[str, float]) -> list[Row]:
    """Rows of peaks in bytes."""
    mib = {arm: max(peak, 2**12) / 2**20 for arm, peak in peaks.items()}
    return [
        Row(
            benchmark=NAME, arm=arm, baseline=BASELINE, metric=f"{which} peak memory", unit="MiB", value=peak,
            low=peak, high=peak, samples=1, statistic="single run", ratio=mib[BASELINE] / peak, settings=size.text(),
        )
        for arm, peak in mib.items()
    ]  # fmt: skip


def fresh_peaks(size: Size, which: str, arms: Sequence[str], options: argparse.Namespace) -> list[Row]:
    """Peak resident memory of one pass of each arm, a fresh process each."""
    peaks = {}
    for arm in (a for a in arms if a != "flex"):
        task = json.dumps({"arm": arm, "size": size.text(), "which": which, "threads": options.threads})
        peaks[arm] = run_fresh([f"benchmarks.{NAME}", "--measure-memory", task])["bytes"]
    return memory_rows(size, which, peaks)


def measure_memory(task: str) -> None:
    """The fresh process: warm up at a small size, print the peak of one pass as JSON."""
    wanted = json.loads(task)
    torch.set_num_threads(wanted["threads"])
    device, arm, which = torch.device("cpu"), wanted["arm"], wanted["which"]
    grad = which != "forward"
    step_of(arm, make_inputs(Size(B=1, T=2, M=2, C=2, D=16, H=2, k=1), device, grad=grad), which)()
    step = step_of(arm, make_inputs(Size(**json.loads(wanted["size"])), device, grad=grad), which)
    print(json.dumps({"bytes": peak_bytes_during(step)}))


def show(rows: Sequence[Row]) -> str:
    """One line per figure; the ratio's range is over rounds."""
    lines = []
    for row in rows:
        size = Size(**json.loads(row.settings))
        scale, unit, digits = (1.0, "MiB", 0) if row.unit == "MiB" else (1e3, "ms", 2)
        spread = f"{row.low * scale:.{digits}f}..{row.high * scale:.{digits}f}" if row.samples > 1 else ""
        around = f" ({row.ratio_low:.1f}..{row.ratio_high:.1f})" if row.ratio_low and row.arm != BASELINE else ""
        lines.append(
            [size.label, row.metric, row.arm, f"{row.value * scale:.{digits}f} {unit}", spread]
            + [f"{row.ratio:.2f}x{around}", str(row.samples)]
        )
    return table(["size", "metric", "arm", "median", "min..max", "released / arm", "n"], lines)


def show_aims(rows: Sequence[Row], device: str) -> str:
    """What was aimed for and what came: on a CPU 8x the baseline; on a GPU ahead of it, and of SDPA from 4k rows."""
    lines = []
    for row in rows:
        size = Size(**json.loads(row.settings))
        if row.arm != "ours" or not row.metric.endswith("time") or row.ratio is None:
            continue
        least = 1.0 if device == "cuda" else AIM
        figures = [(f"released / ours >= {least:g}", row.ratio, least)]
        others = [r for r in rows if (r.arm, r.metric, r.settings) == ("sdpa", row.metric, row.settings)]
        if device == "cuda" and others and size.M * size.C >= SDPA_FROM:
            figures.append(("sdpa / ours >= 1", others[0].value / row.value, 1.0))
        for text, figure, wanted in figures:
            verdict = "reached" if figure >= wanted else "missed"
            lines.append([size.label, row.metric, text, f"{figure:.2f}", verdict])
    return table(["size", "metric", "aim", "figure", ""], lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default: cpu")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds per size at most (default 7)")
    parser.add_argument(
        "--case-seconds", type=float, default=8.0, help="no new round past this, but two at least (default 8)"
    )
    parser.add_argument("--arm-seconds", type=float, default=120.0, help="limit of an arm's warm-up (default 120)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="default: all of the device; the baseline is kept")
    parser.add_argument("--only", default="", metavar="TEXT", help='sizes whose name has it, like "M*C=512"')
    parser.add_argument("--quick", action="store_true", help="two tiny sizes, 2 rounds, no rows written: seconds")
    parser.add_argument("--check", action="store_true", help="only compare the functions computed, then stop")
    parser.add_argument("--no-memory", action="store_true", help="skip the peak-memory runs")
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default {RESULTS.name}/{NAME}.csv)")
    parser.add_argument("--measure-memory", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; see the module's docstring."""
    options = parse(arguments)
    if options.measure_memory:
        measure_memory(options.measure_memory)
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no CUDA GPU here; leave --device out to measure on the CPU")
    torch.set_num_threads(options.threads)
    lab = Lab(torch.device(options.device))
    differences = check(lab.device)
    print("same function (float64, relative difference):", ", ".join(f"{a} {d:.1e}" for a, d in differences.items()))
    # htm-pytorch holds the frequencies of its positions in float32.
    if not max(differences.values()) < 1e-7:
        raise SystemExit("the arms no longer compute the same function: the comparison would be unfair")
    if options.check:
        return
    wanted = options.arms or (list(ARMS) if lab.cuda else list(CPU_ARMS))
    arms = [BASELINE, *(a for a in wanted if a != BASELINE)]
    if "htm" in arms and not htm_installed():
        print("htm: not installed (pip install htm-pytorch)")
        arms.remove("htm")
    options.repeats = 2 if options.quick else options.repeats
    path = options.results or (None if options.quick else RESULTS / f"{NAME}.csv")
    rows: list[Row] = []
    for size in (s for s in sizes(options.device, options.quick) if options.only in s.label):
        for which in PASSES if size.T > 1 else PASSES[:1]:
            print(f"{size.label} {which} ...", flush=True)
            new = time_size(size, which, arms, lab, options)
            if not lab.cuda and not options.no_memory and which == PASSES[1]:
                new += fresh_peaks(size, which, arms, options)
            if path is not None:
                append_rows(path, new, device=lab.name if lab.cuda else None)
            rows += new
            lab.free()
    if not rows:
        raise SystemExit(f"nothing was measured: no size has --only {options.only!r} in its name, or no arm ran")
    print(show(rows))
    print(show_aims(rows, options.device))
    print(f"{lab.name if lab.cuda else 'CPU'}, {options.threads} threads; rows: {path or 'not written'}")


if __name__ == "__main__":
    main()
