"""Speed and peak memory of Miras memory on a CPU against titans-pytorch's NeuralMemory, at equal sizes.

Baseline: titans_pytorch.NeuralMemory(dim=384, heads=6, dim_head=64, chunk_size=C, batch_size=C, momentum=False),
whose MLP memory x + LN(W1 gelu(W2 x)), expansion 4, depth 2, takes every gradient of a chunk at the chunk's start:
ours does too.

Arms, each in its own copy:
  l2-op, yaad-op        NeuralMemory's own norms, projections, gates and output around memarch.ops.miras_memory, so
                        that only the memory differs. l2-op computes the same states as the baseline (--check verifies
                        it).
  l2-layer, yaad-layer  memarch's whole layers at the same widths. They do more: convolutions, normalised q and k,
                        low-rank gates per token, a gated and normalised output.
Ours also reads the running memory inside a chunk; the baseline reads the memory of the chunk's start. The baseline also
learns the scale of the LayerNorm at test time (64 of 32,832 numbers a head), uses the exact GELU, and keeps all chunks'
states.

Prints medians and the median of per-round ratios (arms interleaved), then peak resident memory, each run in a fresh
process. Inputs are random numbers: no data. Needs titans-pytorch: pip install -c constraints.txt -e '.[bench]'. Two
cores: 8 minutes.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
)
from memarch.ops import TTT_MLP, YAAD, MirasRule, miras_memory

NAME = "miras_cpu"
BASELINE = "titans"
DIM, HEADS, HEAD_DIM, BATCH = 384, 6, 64, 2
ARMS = (BASELINE, "l2-op", "yaad-op", "l2-layer", "yaad-layer")
MEMORY_ARMS = (BASELINE, "yaad-op", "yaad-layer")
PASSES = ("forward", "forward+backward")
CASES = ((1024, 16), (1024, 64), (4096, 16), (4096, 64))
# Past this many chunks a pass of the baseline takes tens of seconds: warm up on a short sequence instead.
MANY_CHUNKS = 64


class InTitansShell(nn.Module):
    """NeuralMemory with its memory replaced by `miras_memory`; everything around it is the baseline's own code."""

    def __init__(self, titans: Any, rule: MirasRule, chunk_size: int) -> None:
        super().__init__()
        self.titans, self.rule, self.chunk_size = titans, rule, chunk_size
        self.raw_threshold = nn.Parameter(torch.zeros(HEADS))

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, T, 384]`, T a multiple of the chunk size."""
        titans, (batch, length, _) = self.titans, x.shape
        stored, asked = titans.store_norm(x), titans.retrieve_norm(x)
        q, k, v = (
            y.view(batch, length, HEADS, HEAD_DIM)
            for y in (titans.to_queries(asked), titans.to_keys(stored), titans.to_values(stored))
        )
        step = titans.adaptive_step_transform(titans.to_adaptive_step(stored)).view(batch, HEADS, length).mT
        chunk_mean = titans.reduce_to_chunk_rep(stored, chunk_size=self.chunk_size)
        decay = titans.to_decay_factor(chunk_mean).sigmoid().view(batch, HEADS, -1).mT
        # One decay a chunk, applied before the chunk's writes: all of it on the chunk's first token.
        rest = decay.new_zeros(batch, decay.shape[1], self.chunk_size - 1, HEADS)
        log_decay = torch.cat([torch.log1p(-decay).unsqueeze(2), rest], 2).flatten(1, 2)
        threshold = None
        if self.rule.needs_threshold:
            threshold = F.softplus(self.raw_threshold).expand(batch, length, HEADS)
        named = dict(zip(titans.memory_model_parameter_names, titans.memory_model_parameters, strict=True))
        first, second = (w for name, w in named.items() if "weights" in name)
        # Their loss is the mean over the width of e^2, ours is half the sum: a factor of 2 / width in the step.
        o, _ = miras_memory(
            q, k, v, log_decay, step * (2 / HEAD_DIM),
            rule=self.rule, weights=(second.mT, first.mT), threshold=threshold, chunk_size=self.chunk_size,
        )  # fmt: skip
        gate = titans.retrieve_gate(asked).transpose(1, 2)
        out: Tensor = titans.combine_heads((o * gate).flatten(2))
        return out


class SameMemory(nn.Module):
    """x + LN(W1 gelu(W2 x)) exactly as in `miras_memory`, in the form NeuralMemory takes: for `--check`."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(*shape) / shape[0] ** 0.5)
            for shape in ((HEAD_DIM, 4 * HEAD_DIM), (4 * HEAD_DIM, HEAD_DIM))
        )

    def forward(self, x: Tensor) -> Tensor:
        """x `[..., 64]`."""
        hidden = F.gelu(x @ self.weights[0], approximate="tanh")
        return x + F.layer_norm(hidden @ self.weights[1], (HEAD_DIM,), eps=1e-6)


def titans_memory(chunk_size: int, *, same_function: bool = False) -> Any:
    """The baseline as the issue states it; `same_function` gives it `SameMemory` instead of its own MLP."""
    from titans_pytorch import NeuralMemory

    own: dict[str, Any] = {"model": SameMemory(), "mem_model_norm_add_residual": False} if same_function else {}
    return NeuralMemory(
        dim=DIM, heads=HEADS, dim_head=HEAD_DIM, chunk_size=chunk_size, batch_size=chunk_size, momentum=False, **own
    )


def build(arm: str, chunk_size: int) -> nn.Module:
    """A freshly seeded module of the arm, called as module(x `[B, T, 384]`)."""
    torch.manual_seed(0)
    if arm == BASELINE:
        module: nn.Module = titans_memory(chunk_size)
        return module
    if arm.endswith("-op"):
        return InTitansShell(titans_memory(chunk_size), YAAD if arm == "yaad-op" else TTT_MLP, chunk_size)
    from memarch.layers.miras_points import miras_point

    point = "yaad" if arm == "yaad-layer" else "l2-memory"
    return miras_point(point, DIM, HEADS, head_dim=HEAD_DIM, chunk_size=chunk_size)


def step_of(module: nn.Module, length: int, which: str) -> Callable[[], None]:
    """One forward pass without gradients, or one forward and backward to parameters and input."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, length, DIM, generator=generator)
    cotangent = torch.randn(BATCH, length, DIM, generator=generator)

    def forward() -> None:
        with torch.no_grad():
            module(x)

    def forward_backward() -> None:
        module.zero_grad(set_to_none=True)
        leaf = x.clone().requires_grad_()
        result = module(leaf)
        (result if isinstance(result, Tensor) else result[0]).backward(cotangent)

    return forward if which == "forward" else forward_backward


def check() -> tuple[float, float]:
    """Relative difference of outputs, baseline with `SameMemory` against l2-op, float64: (chunk ends, other tokens).

    The baseline answers a chunk's last query with the memory after the chunk, as our running read does, and the others
    with the memory before it, as read="frozen" does.
    """
    torch.manual_seed(0)
    chunk, length = 8, 48
    titans = titans_memory(chunk, same_function=True).double()
    x = torch.randn(BATCH, length, DIM, dtype=torch.float64)
    with torch.no_grad():
        theirs, _ = titans(x)
        running = InTitansShell(titans, TTT_MLP, chunk).double()(x)
        frozen = InTitansShell(titans, TTT_MLP.replace(read="frozen"), chunk).double()(x)
    end = torch.arange(length) % chunk == chunk - 1
    ends, others = (
        ((ours - theirs)[:, at].norm() / theirs[:, at].norm()).item() for ours, at in ((running, end), (frozen, ~end))
    )
    return ends, others


def time_case(length: int, chunk: int, which: str, options: argparse.Namespace) -> list[Row]:
    """Rows of every arm but the baseline, whose own median is a row with ratio 1."""
    modules = {arm: build(arm, chunk) for arm in options.arms}
    for module in modules.values():
        for _ in range(2):
            step_of(module, 4 * chunk, which)()
    seconds = time_rounds(
        {arm: step_of(module, length, which) for arm, module in modules.items()},
        rounds=options.repeats,
        warmup=1 if length // chunk <= MANY_CHUNKS else 0,
        budget_seconds=options.case_seconds,
    )
    settings = settings_of(length, chunk)
    return [timing_row(NAME, arm, BASELINE, f"{which} time", seconds, settings) for arm in modules]


def memory_case(length: int, chunk: int, which: str, options: argparse.Namespace) -> list[Row]:
    """Peak resident memory of one pass of each arm, a fresh process each."""
    peaks: dict[str, float] = {}
    for arm in (a for a in MEMORY_ARMS if a in options.arms):
        task = json.dumps({"arm": arm, "length": length, "chunk": chunk, "which": which, "threads": options.threads})
        peaks[arm] = run_fresh(["benchmarks.miras_cpu", "--measure-memory", task])["bytes"] / 2**20
    return [
        Row(
            benchmark=NAME, arm=arm, baseline=BASELINE, metric=f"{which} peak memory", unit="MiB",
            value=peak, low=peak, high=peak, samples=1, statistic="single run", ratio=peaks[BASELINE] / peak,
            settings=settings_of(length, chunk),
        )
        for arm, peak in peaks.items()
    ]  # fmt: skip


def measure_memory(task: str) -> None:
    """The fresh process: build, warm up on a short sequence, print the peak of one pass as JSON."""
    wanted = json.loads(task)
    torch.set_num_threads(wanted["threads"])
    module = build(wanted["arm"], wanted["chunk"])
    step_of(module, 2 * wanted["chunk"], wanted["which"])()
    module.zero_grad(set_to_none=True)
    print(json.dumps({"bytes": peak_bytes_during(step_of(module, wanted["length"], wanted["which"]))}))


def settings_of(length: int, chunk: int) -> str:
    return settings_text({"B": BATCH, "T": length, "C": chunk, "dim": DIM, "heads": HEADS, "head_dim": HEAD_DIM})


def show(rows: list[Row]) -> str:
    """One line per figure; the ratio's range is over rounds."""
    lines = []
    for row in rows:
        size = json.loads(row.settings)
        digits = 0 if row.unit == "MiB" else 3
        spread = f"{row.low:.{digits}f}..{row.high:.{digits}f}" if row.samples > 1 else ""
        around = f" ({row.ratio_low:.1f}..{row.ratio_high:.1f})" if row.ratio_low and row.arm != BASELINE else ""
        lines.append(
            [row.metric, str(size["T"]), str(size["C"]), row.arm, f"{row.value:.{digits}f} {row.unit}", spread]
            + [f"{row.ratio:.1f}x{around}", str(row.samples)]
        )
    return table(["metric", "T", "C", "arm", "median", "min..max", "titans / arm", "n"], lines)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument("--repeats", type=int, default=9, help="timed rounds per case at most (default 9)")
    parser.add_argument(
        "--case-seconds", type=float, default=30.0, help="no new round past this, but two at least (default 30)"
    )
    parser.add_argument(
        "--arms", nargs="+", default=list(ARMS), choices=ARMS, help="default: all; the baseline is kept"
    )
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[1024, 4096], choices=[1024, 4096], help="default: both"
    )
    parser.add_argument("--quick", action="store_true", help="T=256 and 2 rounds only, no rows written: a minute")
    parser.add_argument("--check", action="store_true", help="only compare the functions computed, then stop")
    parser.add_argument("--no-memory", action="store_true", help="skip the peak-memory runs")
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default {RESULTS.name}/{NAME}.csv)")
    parser.add_argument("--measure-memory", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; see the module's docstring."""
    options = parse(arguments)
    if importlib.util.find_spec("titans_pytorch") is None:
        raise SystemExit("titans-pytorch is missing: pip install -c constraints.txt -e '.[bench]'")
    if options.measure_memory:
        measure_memory(options.measure_memory)
        return
    torch.set_num_threads(options.threads)
    ends, others = check()
    print(f"same function (float64, relative difference): chunk ends {ends:.1e}, other tokens {others:.1e}")
    if max(ends, others) > 1e-9:
        raise SystemExit("l2-op and the baseline no longer compute the same function: the comparison would be unfair")
    if options.check:
        return
    options.arms = [BASELINE, *(a for a in options.arms if a != BASELINE)]
    cases = ((256, 16), (256, 64)) if options.quick else [case for case in CASES if case[0] in options.lengths]
    options.repeats = 2 if options.quick else options.repeats
    path = options.results or (None if options.quick else RESULTS / f"{NAME}.csv")
    rows: list[Row] = []
    for length, chunk in cases:
        for which in PASSES:
            print(f"T={length} C={chunk} {which} ...", flush=True)
            new = time_case(length, chunk, which, options)
            new += [] if options.no_memory else memory_case(length, chunk, which, options)
            if path is not None:
                append_rows(path, new)
            rows += new
    print(show(rows))
    print(f"B={BATCH}, {HEADS} heads of {HEAD_DIM}, float32, {options.threads} threads; rows: {path or 'not written'}")


if __name__ == "__main__":
    main()
