"""What consolidation of a key-value cache costs: attention mass, decoding with and without it, training.

  --part mass      one scoring of a whole cache, all layers, at the shape of SmolLM2-135M: `attention_mass` against the
                   eager attention of transformers with its probabilities averaged, and against the way of kvpress's
                   SnapKV press (repeated keys, a mask, a float32 softmax cast back, means over queries and groups;
                   written here by its formula, since kvpress needs an older transformers). `--check` first: all three
                   give the same masses.
  --part overhead  greedy decoding of SmolLM2-135M-Instruct, a rewrite every 20 tokens (GSM8K's lines have 19.6):
                   plain; identity, the hooks and the selection with a rewriter that changes nothing; and a processor.
  --part training  one optimiser step's gradient on four problems of four lines: fine-tuning of all weights against a
                   processor on the frozen model (its three bptt variants).
  --part memory    peak memory of one training step above that of the loaded model, a fresh process each: the gradient
                   alone, and with AdamW's step and moments; of 4 and 16 problems.

Arms are interleaved; ratios are the baseline's seconds over the arm's, above 1 the arm needs less. Texts are made here:
no data. `--clock cpu` counts this process's CPU seconds, which other processes on the machine disturb little.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks._harness import (
    RESULTS,
    Row,
    append_rows,
    peak_bytes_during,
    run_fresh,
    settings_text,
    table,
    time_rounds,
    timing_row,
    wall_seconds,
)
from benchmarks._kv_cache_arms import CacheSize, mass_arms, relative_gap
from benchmarks._kv_cache_model import TRAINING_ARMS, decode_arms, load_model, training_arms, training_step

NAME = "kv_cache"
BASELINES = {"mass": "eager", "overhead": "plain", "training": "sft", "memory": "sft"}
PARTS = tuple(BASELINES)


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads."""
    start = time.process_time()
    run()
    return time.process_time() - start


def device_seconds(run: Callable[[], object]) -> float:
    """Seconds until a GPU is done."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(part: str, arms: dict[str, Callable[[], object]], settings: dict[str, Any], options: Any) -> list[Row]:
    """Rows of every arm of a case."""
    clock = cpu_seconds if options.clock == "cpu" else device_seconds if options.device != "cpu" else wall_seconds
    seconds = time_rounds(arms, rounds=options.repeats, budget_seconds=options.case_seconds, clock=clock)
    where = settings_text({**settings, "clock": options.clock, "device": options.device})
    return [timing_row(NAME, arm, BASELINES[part], f"{part} time", seconds, where) for arm in arms]


def part_mass(options: argparse.Namespace) -> list[Row]:
    """Scoring a cache, by length and dtype."""
    rows = []
    for length in [64] if options.quick else options.lengths:
        for name in ["float32"] if options.quick else options.dtypes:
            size = CacheSize(length, num_layers=3 if options.quick else 30)
            arms, masses = mass_arms(size, dtype=getattr(torch, name), device=options.device)
            gap = max(relative_gap(m(), masses["memarch"]()) for m in masses.values())
            # In half precision the others round their probabilities: that is their error, not ours.
            limit = 1e-4 if name == "float32" else 0.05
            if not gap <= limit:
                raise SystemExit(f"the arms do not compute the same masses: they differ by {gap:.1e} at {size}, {name}")
            settings = {"T": length, "R": size.num_queries, "L": size.num_layers, "dtype": name, "gap": f"{gap:.1e}"}
            rows += measure("mass", arms, settings, options)
    return rows


def part_overhead(options: argparse.Namespace) -> list[Row]:
    """Decoding with and without consolidation."""
    model, tokenizer = load_model(options.device, quick=options.quick)
    num_tokens = 24 if options.quick else options.tokens
    arms, counts = decode_arms(model, tokenizer, prompt_tokens=options.prompt, num_tokens=num_tokens, every=20)
    rows = measure("overhead", arms, {"tokens": num_tokens, "prompt": options.prompt, "every": 20}, options)
    print(f"rewrites in {num_tokens} tokens: {counts['processor']()}")
    return rows


def part_training(options: argparse.Namespace) -> list[Row]:
    """Gradients of a batch."""
    model, tokenizer = load_model(options.device, quick=options.quick)
    arms = training_arms(model, tokenizer)
    return measure("training", arms, {"problems": 4, "lines": 4}, options)


def part_memory(options: argparse.Namespace) -> list[Row]:
    """Peak resident memory of a training step."""
    rows = []
    for num_problems in [4] if options.quick else options.problems:
        for metric, optimise in (("gradient", False), ("step", True)):
            peaks = {}
            for arm in TRAINING_ARMS:
                task = {"arm": arm, "num_problems": num_problems, "optimise": optimise, "quick": options.quick}
                task |= {"threads": options.threads}
                found = run_fresh(["benchmarks.kv_cache", "--measure-memory", json.dumps(task)])
                peaks[arm] = found["bytes"] / 2**20
            settings = settings_text({"problems": num_problems, "lines": 4, "device": "cpu"})
            rows += [
                Row(
                    benchmark=NAME, arm=arm, baseline="sft", metric=f"{metric} peak memory", unit="MiB", value=peak,
                    low=peak, high=peak, samples=1, statistic="single run", ratio=peaks["sft"] / max(peak, 1e-9),
                    settings=settings,
                )
                for arm, peak in peaks.items()
            ]  # fmt: skip
    return rows


def measure_memory(task: str) -> None:
    """The fresh process: load the model, warm up without gradients, print the peak of the arm's first step as JSON."""
    wanted = json.loads(task)
    torch.set_num_threads(wanted["threads"])
    model, tokenizer = load_model("cpu", quick=wanted["quick"])
    options = {"num_problems": wanted["num_problems"], "optimise": wanted["optimise"]}
    warm_up, step = training_step(wanted["arm"], model, tokenizer, **options)
    warm_up()
    print(json.dumps({"bytes": peak_bytes_during(step)}))


PART_ROWS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "mass": part_mass,
    "overhead": part_overhead,
    "training": part_training,
    "memory": part_memory,
}


def show(rows: list[Row]) -> str:
    """One line per figure; the ratio's range is over rounds."""
    lines = []
    for row in rows:
        size = json.loads(row.settings)
        case = " ".join(f"{k}={v}" for k, v in size.items() if k in ("T", "dtype", "tokens", "problems"))
        around = f" ({row.ratio_low:.2f}..{row.ratio_high:.2f})" if row.ratio_low and row.arm != row.baseline else ""
        scale, unit = (1.0, "MiB") if row.unit == "MiB" else (1e3, "ms")
        figures = [f"{scale * row.value:.1f} {unit}", f"{scale * row.low:.1f}..{scale * row.high:.1f}"]
        lines.append([f"{row.metric} {case}", row.arm, *figures, f"{row.ratio:.2f}x{around}", str(row.samples)])
    return table(["metric", "arm", "median", "min..max", "baseline / arm", "n"], lines)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=PARTS, help="default: all")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="what is counted (default wall)")
    parser.add_argument("--repeats", type=int, default=9, help="timed rounds per case at most (default 9)")
    parser.add_argument("--case-seconds", type=float, default=60.0, help="no new round past this (default 60)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096], help="slots (default 1024 4096)")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--prompt", type=int, default=64, help="prompt tokens (default 64)")
    parser.add_argument("--tokens", type=int, default=100, help="tokens to decode (default 100)")
    parser.add_argument("--problems", type=int, nargs="+", default=[4, 16], help="of the part memory (default 4 16)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, two rounds, no rows written: seconds")
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default {RESULTS.name}/{NAME}.csv)")
    parser.add_argument("--measure-memory", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; see the module's docstring."""
    options = parse(arguments)
    if options.measure_memory:
        measure_memory(options.measure_memory)
        return
    torch.set_num_threads(options.threads)
    options.repeats = 2 if options.quick else options.repeats
    path = options.results or (None if options.quick else RESULTS / f"{NAME}.csv")
    device = torch.cuda.get_device_name() if options.device != "cpu" else None
    rows: list[Row] = []
    for part in options.part:
        print(f"{part} ...", flush=True)
        new = PART_ROWS[part](options)
        if path is not None:
            append_rows(path, new, device=device)
        rows += new
    print(show(rows))
    print(f"{options.threads} threads, {options.clock} clock; rows: {path or 'not written'}")


if __name__ == "__main__":
    main()
