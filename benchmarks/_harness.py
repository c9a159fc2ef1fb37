"""What the benchmarks share: interleaved timing, peak memory of a fresh process, result rows, intervals, tables."""

import csv
import gc
import importlib.metadata
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
PEERS = ("titans-pytorch", "htm-pytorch", "flash-linear-attention", "triton")

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
T_975 = (
    (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
    + (2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860)
    + (2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423)
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure: `value` is the `statistic` of `samples` measurements, `low` and `high` its `spread`.

    `ratio` is baseline over arm: above 1, the arm needs less (time, memory).
    """

    benchmark: str
    arm: str
    metric: str
    unit: str
    value: float
    low: float
    high: float
    samples: int
    statistic: str = "median"
    spread: str = "min..max"
    baseline: str = ""
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    settings: str = "{}"


@dataclass(frozen=True)
class Machine:
    """Where a row was measured; these are its last columns."""

    date: str
    commit: str
    dirty: str
    device: str
    threads: int
    os: str
    python: str
    torch: str
    peers: str


COLUMNS = (*(f.name for f in fields(Row)), *(f.name for f in fields(Machine)))


def single_run(benchmark: str, arm: str, metric: str, value: float, *, unit: str = "", settings: str) -> Row:
    """The row of a figure that was measured once."""
    return Row(
        benchmark=benchmark, arm=arm, metric=metric, unit=unit, value=value, low=value, high=value, samples=1,
        statistic="single run", settings=settings,
    )  # fmt: skip


def settings_text(settings: Mapping[str, object]) -> str:
    """Settings as one JSON text with sorted keys, so that equal settings are equal texts."""
    return json.dumps(settings, sort_keys=True)


def machine(device: str | None = None) -> Machine:
    """This process's machine, versions and commit. Changes under benchmarks/results do not make a tree dirty.

    device: what the rows were measured on; None is the CPU.
    """
    status = _git("status", "--porcelain", "--", ".", ":(exclude)benchmarks/results")
    return Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        commit=_git("rev-parse", "--short=12", "HEAD") or "unknown",
        dirty="unknown" if status is None else str(bool(status)).lower(),
        device=device or _cpu_model(),
        threads=torch.get_num_threads(),
        os=platform.system(),
        python=platform.python_version(),
        torch=torch.__version__,
        peers=" ".join(f"{name}={version}" for name in PEERS if (version := _version(name))),
    )


def append_rows(path: Path, rows: Sequence[Row], *, device: str | None = None) -> None:
    """Append rows with the machine's columns; the header is written first if the file is new.

    Raises: ValueError if the file's header is another one (rows of two layouts in one file cannot be read back).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists() or path.stat().st_size == 0
    if not new:
        with path.open(newline="", encoding="utf-8") as file:
            header = tuple(next(csv.reader(file), ()))
        if header != COLUMNS:
            raise ValueError(f"{path} has columns {header}, expected {COLUMNS}: move the old file away")
    where = asdict(machine(device))
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            cells = {k: _cell(v) for k, v in asdict(row).items()}
            writer.writerow(cells | where)


def read_rows(path: Path) -> list[dict[str, str]]:
    """All rows of a results file, [] if there is none."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def wall_seconds(run: Callable[[], object]) -> float:
    """Seconds that `run` takes by the wall clock, garbage collected before."""
    gc.collect()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def time_rounds(
    arms: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 1,
    budget_seconds: float = math.inf,
    clock: Callable[[Callable[[], object]], float] = wall_seconds,
) -> dict[str, list[float]]:
    """Seconds of each arm in each round, the arms interleaved (A B C A B C ...) so that drift meets them all alike.

    Every arm is warmed up before the first round. Past `budget_seconds` no further round starts, but two are always
    made.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be >= 1, got {rounds}")
    for _ in range(warmup):
        for run in arms.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    began = time.perf_counter()
    for done in range(rounds):
        if done >= 2 and time.perf_counter() - began > budget_seconds:
            break
        for name, run in arms.items():
            seconds[name].append(clock(run))
    return seconds


def timing_row(
    name: str, arm: str, baseline: str, metric: str, seconds: Mapping[str, Sequence[float]], settings: str
) -> Row:
    """Median of the arm and the median of its per-round ratios to the baseline."""
    ratios = [b / a for a, b in zip(seconds[arm], seconds[baseline], strict=True)]
    return Row(
        benchmark=name,
        arm=arm,
        baseline=baseline,
        metric=metric,
        unit="s",
        value=statistics.median(seconds[arm]),
        low=min(seconds[arm]),
        high=max(seconds[arm]),
        samples=len(ratios),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        settings=settings,
    )


def peak_bytes_during(run: Callable[[], object]) -> int:
    """Growth of this process's peak resident memory while `run` runs; call it once, in a fresh process.

    Resident memory is what a user's machine has to have. The peak is read from /proc (Linux), not from getrusage, whose
    ru_maxrss starts at the parent's size. The kernel's high-water mark is reset first; where it cannot be, a peak that
    imports left behind may hide a small step.
    """
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        print(f"peak memory: the high-water mark could not be reset ({error})", file=sys.stderr)
    before = _proc_status("VmRSS")
    run()
    return max(0, _proc_status("VmHWM") - before)


def run_fresh(arguments: Sequence[str], *, timeout_seconds: float = 600.0) -> dict[str, float]:
    """Run `python -m <arguments>` in a new process; the JSON object on its last line of output.

    Raises: RuntimeError with the end of its stderr if it fails.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *arguments],
        cwd=RESULTS.parent.parent,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"python -m {' '.join(arguments)} exited with {done.returncode}: {done.stderr.strip()[-800:]}"
        )
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % interval by Student's t; infinite ends for one value or one that is not finite."""
    if not values:
        raise ValueError("t_interval needs at least one value")
    mean = statistics.fmean(values)
    if len(values) == 1 or not math.isfinite(mean):
        return mean, -math.inf, math.inf
    df = len(values) - 1
    quantile = T_975[df - 1] if df <= len(T_975) else 1.96 + 2.5 / df
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def interval_text(values: Sequence[float], *, digits: int = 3, sign: str = "") -> str:
    """`0.900 +- 0.050` by `t_interval`; no interval of one value, "" of none."""
    if not values:
        return ""
    mean, _, high = t_interval(values)
    text = f"{mean:{sign}.{digits}f}"
    return f"{text} +- {high - mean:.{digits}f}" if len(values) > 1 else text


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A markdown table with aligned columns: reads well in a terminal and in a README."""
    widths = [max(len(str(line[i])) for line in (header, *lines)) for i in range(len(header))]

    def draw(line: Sequence[str]) -> str:
        cells = (c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([draw(header), rule, *map(draw, lines)])


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=RESULTS.parent.parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _proc_status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: peak memory is measured on Linux only")
