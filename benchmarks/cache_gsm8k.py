"""Whether a cache processor helps SmolLM2-135M on GSM8K: test likelihood of answers after their first line.

The model is fine-tuned once (stage 1), then each arm learns on the frozen model (stage 2): processor, values-only,
causal, random-selection, mean-shift, pause, lora of the processor's size, and sft, which fine-tunes on.
"random-rewrite" is the trained processor with changes of the same size in directions by lot; "identity", the fine-tuned
model itself, is the baseline.

Figures are nats a token that an arm needs more than the baseline (below 0 it helps) on the same test problems: over all
steps that see a rewritten cache, and by index of the step, with bootstrap 95 % intervals over problems. Seeds (of stage
2; stage 1 has one) are averaged by problem first.

  --data DIR  of GSM8K's train.jsonl and test.jsonl (or test_dev.jsonl): github.com/openai/grade-school-math
  --smoke     a few minutes on a CPU: few problems, few steps, one seed; no rows written

Everything is kept in --out, so that the same command goes on where it was interrupted.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks._cache_gsm8k_runs import BASELINE, RANDOM, Lab, Plan, ProblemScores, paired_difference
from benchmarks._harness import RESULTS, Row, append_rows, settings_text, table
from memarch.cache.training_arms import ARMS, FIRST_REWRITTEN
from memarch.cache.training_data import Problems, load_problems

NAME = "cache_gsm8k"
TEST_FILES = ("test.jsonl", "test_dev.jsonl")
AFTER = "after the first boundary"
STEPS = {AFTER: slice(FIRST_REWRITTEN, None)}
STEPS |= {f"line {n}": slice(n, n + 1) for n in range(FIRST_REWRITTEN, 6)} | {"line 6 on": slice(6, None)}


def rows_of(scores: dict[str, list[ProblemScores]], settings: str) -> list[Row]:
    """Of every arm the paired differences; of the baseline its likelihood."""
    (base,) = scores[BASELINE]
    rows = []
    for metric, steps in STEPS.items():
        tokens = base.tokens[:, steps].sum(1)
        if not int(tokens.sum()):
            continue
        mean = (base.nats[:, steps].sum() / tokens.sum()).item()
        common: dict[str, Any] = {
            "benchmark": NAME,
            "unit": "nats/token",
            "statistic": "mean",
            "samples": int((tokens > 0).sum()),
            "settings": settings,
        }
        rows.append(Row(arm=BASELINE, metric=f"NLL, {metric}", value=mean, low=mean, high=mean, **common))
        for arm, found in scores.items():
            if arm != BASELINE:
                value, low, high = paired_difference(found, base, steps)
                more = f"NLL difference, {metric}"
                rows.append(
                    Row(arm=arm, metric=more, value=value, low=low, high=high, baseline=BASELINE,
                        spread="bootstrap 95 %", **common)
                )  # fmt: skip
    return rows


def show(rows: list[Row]) -> str:
    """An arm a line, a stretch of steps a column."""
    names = [name for name in STEPS if any(row.metric.endswith(f", {name}") for row in rows)]
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        kind, _, name = row.metric.partition(", ")
        text = f"{row.value:.4f}" if kind == "NLL" else f"{row.value:+.4f} ({row.low:+.4f}..{row.high:+.4f})"
        cells.setdefault(row.arm, {})[name] = text
    return table(["nats a token", *names], [[arm, *(found.get(n, "") for n in names)] for arm, found in cells.items()])


def find_test(data: Path) -> Path:
    """The directory's test problems.

    Raises: SystemExit if it has none.
    """
    for name in TEST_FILES:
        if (data / name).is_file():
            return data / name
    raise SystemExit(f"--data {data} should be a directory with train.jsonl and {' or '.join(TEST_FILES)}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory of GSM8K's files")
    parser.add_argument("--model", default="smollm2", help="smollm2, or a directory of a transformers model")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1 of stage 2 (default 3)")
    parser.add_argument("--sft-steps", type=int, default=300, help="stage 1 (default 300)")
    parser.add_argument("--steps", type=int, default=100, help="stage 2 (default 100)")
    parser.add_argument("--batch-size", type=int, default=32, help="problems a step (default 32)")
    parser.add_argument("--sft-lr", type=float, default=1e-4, help="of stage 1, and of sft in stage 2 (default 1e-4)")
    parser.add_argument("--lr", type=float, default=1e-3, help="of the other arms (default 1e-3)")
    parser.add_argument("--processor-dim", type=int, default=128, help="default 128")
    parser.add_argument("--mlp-dim", type=int, default=512, help="default 512")
    parser.add_argument("--top-k", type=int, default=32, help="earlier entries to rewrite (default 32)")
    parser.add_argument("--bptt-steps", type=int, default=2, help="steps that gradients reach back (default 2)")
    parser.add_argument("--max-test", type=int, default=0, help="test problems (default 0: all)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="default float32")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: a GPU if any"
    )
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument("--out", type=Path, help=f"directory of the runs (default runs/{NAME}, or {NAME}-smoke)")
    parser.add_argument("--smoke", action="store_true", help="try it on a CPU; no rows written")
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default results/{NAME}.csv)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; see the module's docstring."""
    from transformers import AutoTokenizer

    from memarch.dialogue.generators.smollm2 import download

    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.smoke:
        options.seeds, options.sft_steps, options.steps = 1, min(1, options.sft_steps), min(2, options.steps)
        options.batch_size, options.max_test, options.device = 2, 4, "cpu"
    out = options.out or Path("runs") / (f"{NAME}-smoke" if options.smoke else NAME)
    path = options.results or (None if options.smoke else RESULTS / f"{NAME}.csv")
    plan = Plan(num_heads=4, **{f: getattr(options, f) for f in Plan.__dataclass_fields__ if f != "num_heads"})
    folder = download() if options.model == "smollm2" else Path(options.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    train, test = (load_problems(p, tokenizer) for p in (options.data, find_test(options.data)))
    # Where no answer has a second line nothing is rewritten.
    test = Problems(test.source, tuple(p for p in test.items if len(p.steps) > FIRST_REWRITTEN))
    lab = Lab(out, plan, folder, tokenizer, train, test, options.device)
    print(
        f"train: {train.source}; test: {len(lab.test.items)} of {test.source}, answers of two lines or more", flush=True
    )
    scores: dict[str, list[ProblemScores]] = {}
    runs = [(BASELINE, 0), *((arm, seed) for seed in range(options.seeds) for arm in options.arms)]
    for count, (arm, seed) in enumerate(runs, 1):
        start = time.perf_counter()
        for name, found in lab.scores(arm, seed).items():
            scores.setdefault(name, []).append(found)
        print(f"[{count}/{len(runs)}] {arm} seed {seed}  ({time.perf_counter() - start:.0f} s)", flush=True)
    order = [BASELINE, *options.arms, RANDOM]
    settings = {**asdict(plan), "seeds": options.seeds, "model": Path(options.model).name, "device": options.device}
    rows = rows_of({arm: scores[arm] for arm in order if arm in scores}, settings_text(settings))
    if path is not None:
        append_rows(path, rows, device=torch.cuda.get_device_name() if options.device != "cpu" else None)
    print(show(rows))
    print(f"below 0 the arm helps; runs: {out}; rows: {path or 'not written'}")


if __name__ == "__main__":
    main()
