"""Forgetting's operators: resets of an embedding and lookups with substituted rows, in time and in bytes moved.

Arms of the reset
  memarch        embedding_reset: weight and both moments of AdamW in one pass, the same bits everywhere
  torch          weight.normal_(), exp_avg.zero_(), exp_avg_sq.zero_(): the obvious version; no two devices agree
Arms of the substitution (lookup of a batch, 10 % of its tokens replaced, weights as they were afterwards)
  memarch        embedding_substitute
  rows           save the rows to be replaced, overwrite them, look up, restore them
  clone          clone the matrix, overwrite rows, look up, copy the clone back

Bytes are counted operator by operator for the torch paths (nothing cached), and from the shapes for kernels on a GPU.
Time is the median of interleaved rounds. Rows go to benchmarks/results/embedding_noise.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks._harness import RESULTS, Row, append_rows, settings_text, table, time_rounds, timing_row, wall_seconds
from benchmarks._traffic import traffic_bytes
from memarch.ops import embedding_reset, embedding_substitute, substitute_rows, substituted_tokens

NAME = "embedding_noise"
PROBABILITY, STD, SEED = 0.1, 0.02, 0


def reset_arms(num_tokens: int, dim: int, device: str) -> dict[str, Callable[[], object]]:
    """One reset of weight and moments by each arm."""
    weight, first, second = (torch.zeros(num_tokens, dim, device=device) for _ in range(3))

    def obvious() -> None:
        weight.normal_(0, STD)
        first.zero_()
        second.zero_()

    return {
        "memarch": lambda: embedding_reset(weight, std=STD, seed=SEED, step=1, moments=(first, second)),
        "torch": obvious,
    }


def substitution_arms(num_tokens: int, dim: int, ids: Tensor) -> dict[str, Callable[[], Tensor]]:
    """One lookup with substituted rows by each arm; all give the same tensor."""
    weight = torch.empty(num_tokens, dim, device=ids.device).normal_(0, STD)

    def replaced() -> Tensor:
        return substituted_tokens(ids, probability=PROBABILITY, seed=SEED, step=1)

    def rows() -> Tensor:
        tokens = replaced()
        saved = weight[tokens]
        weight.index_copy_(0, tokens, substitute_rows(tokens, dim, std=STD, seed=SEED, step=1))
        found = F.embedding(ids, weight)
        weight.index_copy_(0, tokens, saved)
        return found

    def clone() -> Tensor:
        tokens = replaced()
        saved = weight.clone()
        weight.index_copy_(0, tokens, substitute_rows(tokens, dim, std=STD, seed=SEED, step=1))
        found = F.embedding(ids, weight)
        weight.copy_(saved)
        return found

    return {
        "memarch": lambda: embedding_substitute(ids, weight, probability=PROBABILITY, std=STD, seed=SEED, step=1),
        "rows": rows,
        "clone": clone,
    }


def kernel_bytes(metric: str, num_tokens: int, dim: int, ids: Tensor) -> int:
    """What the kernels of a GPU move: every number of weight and moments once; or ids, rows read and rows written."""
    if metric == "reset":
        return 3 * 4 * num_tokens * dim
    stay = round((1 - PROBABILITY) * ids.numel())
    return 8 * ids.numel() + 4 * dim * (stay + ids.numel()) + ids.numel()


def measure(options: argparse.Namespace) -> list[Row]:
    """Rows of both operators."""
    generator = torch.Generator().manual_seed(0)
    # Words of real text are Zipf-distributed: a batch has far fewer tokens than positions.
    zipf = torch.arange(1, options.tokens + 1, dtype=torch.float64).reciprocal()
    ids = torch.multinomial(zipf, options.batch * options.seq_len, True, generator=generator)
    ids = ids.view(options.batch, options.seq_len).to(options.device)
    sizes = {"tokens": options.tokens, "dim": options.dim, "threads": torch.get_num_threads()}
    rows: list[Row] = []
    substitutions = substitution_arms(options.tokens, options.dim, ids)
    outputs = [run() for run in substitutions.values()]
    assert all(torch.equal(outputs[0], other) for other in outputs[1:]), "the arms disagree"
    cases: list[tuple[str, Mapping[str, Callable[[], object]], str]] = [
        ("substitution", substitutions, "clone"),
        ("reset", reset_arms(options.tokens, options.dim, options.device), "torch"),
    ]
    for metric, arms, baseline in cases:
        batch = {} if metric == "reset" else {"batch": options.batch, "seq_len": options.seq_len, "p": PROBABILITY}
        settings = settings_text({**sizes, **batch, "device": options.device})
        clock = _on_gpu if options.device == "cuda" else wall_seconds
        seconds = time_rounds(arms, rounds=options.rounds, budget_seconds=60, clock=clock)
        rows += [timing_row(NAME, arm, baseline, f"{metric} time", seconds, settings) for arm in arms]
        counted = {arm: traffic_bytes(run) for arm, run in arms.items()}
        if options.device == "cuda":
            counted["memarch"] = kernel_bytes(metric, options.tokens, options.dim, ids)
        for arm, size in counted.items():
            rows.append(
                Row(
                    benchmark=NAME, arm=arm, baseline=baseline, metric=f"{metric} bytes", unit="B", value=size,
                    low=size, high=size, samples=1, statistic="count", ratio=counted[baseline] / size,
                    ratio_low=counted[baseline] / size, ratio_high=counted[baseline] / size, settings=settings,
                )
            )  # fmt: skip
    return rows


def _on_gpu(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=49_152, help="rows of the embedding (default SmolLM2's)")
    parser.add_argument("--dim", type=int, default=576, help="columns (default SmolLM2-135M's)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="1,000 x 64, two rounds, no rows written")
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default results/{NAME}.csv)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.tokens, options.dim, options.seq_len, options.rounds = 1000, 64, 64, 2
    torch.set_num_threads(2 if options.device == "cpu" and not options.quick else 1)
    rows = measure(options)
    path = options.results or (None if options.quick else RESULTS / f"{NAME}.csv")
    if path:
        append_rows(path, rows)
    lines = [
        [
            row.metric,
            row.arm,
            f"{row.value:.3g} {row.unit}",
            f"{row.ratio:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})",
        ]
        for row in rows
    ]
    print(table(["", "arm", "median", "times less than the baseline"], lines))
    print(f"rows: {path or 'not written'}")


if __name__ == "__main__":
    main()
