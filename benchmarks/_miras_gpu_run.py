"""Run cases: build every arm or say why not, warm it up, time the arms interleaved, give rows."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from benchmarks._harness import Row, settings_text, time_rounds, timing_row
from benchmarks._miras_gpu_arms import (
    LAYERS,
    RULES,
    Arm,
    draw_inputs,
    own_arm,
    own_decode_arm,
    sdpa_arm,
    sdpa_decode_arm,
)
from benchmarks._miras_gpu_cases import PASSES, Case
from benchmarks._miras_gpu_check import check_all
from benchmarks._miras_gpu_lab import ArmLost, DeviceLost, Lab, reason
from benchmarks._miras_gpu_peers import fla_arm, fla_decode_arm, titans_arm
from benchmarks._miras_gpu_roofline import Peaks, bound_seconds

NAME = "miras_gpu"
CONTROL = "torch"
GRAPH = "-graph"


@dataclass(frozen=True)
class Options:
    """How long to measure and what not to.

    refused: (memory, rule, chunk size) that failed the check. skipped: "case: arm" under which the device was lost.
    """

    rounds: int = 20
    case_seconds: float = 8.0
    arm_seconds: float = 60.0
    layers: int = LAYERS
    refused: frozenset[tuple[str, str, int]] = frozenset()
    skipped: frozenset[str] = frozenset()


@dataclass
class Outcome:
    """What a case gave: rows, and our arms that did not run."""

    rows: list[Row] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def builders(case: Case, device: torch.device, layers: int) -> dict[str, Callable[[], Arm]]:
    """How each arm of a case is made; nothing is made yet."""
    found: dict[str, Callable[[], Arm]] = {}
    if case.kind == "decode":
        for name in case.rules:
            found[name] = partial(own_decode_arm, name, case, device, layers)
        for name in case.peers:
            found[name] = partial(sdpa_decode_arm if name == "sdpa" else fla_decode_arm, case, device, layers)
    elif case.kind == "titans":
        for name in (*case.peers, *case.rules):
            found[name] = partial(titans_arm, name, case, device)
    else:
        inputs = draw_inputs(case, device)
        for name in case.rules:
            found[name] = partial(own_arm, name, case, inputs, device)
        for name in case.peers:
            found[name] = partial(sdpa_arm, inputs, device) if name == "sdpa" else partial(fla_arm, name, case, inputs)
        if case.control:
            found[CONTROL] = partial(own_arm, case.rules[0], case, inputs, device, backend="torch")
    return found


def is_own(case: Case, arm: str) -> bool:
    """Whether an arm (or its graph) is ours, by the kernels."""
    return arm.removesuffix(GRAPH) in case.rules


class CaseRun:
    """One case on one device; `lost` arms print a line and the others go on."""

    def __init__(self, case: Case, lab: Lab, peaks: Peaks, options: Options) -> None:
        self.case, self.lab, self.peaks, self.options = case, lab, peaks, options
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Measure everything of the case."""
        arms = self.build()
        if self.case.kind == "decode":
            self.decode(arms)
        else:
            for which in PASSES:
                self.time_pass(which, arms)
        return self.outcome

    def say(self, arm: str, what: str, error: BaseException) -> None:
        """One line for an arm that does not run; raise if the device went with it."""
        print(f"  {arm}: {what} not measured: {reason(error)}", flush=True)
        if is_own(self.case, arm):
            self.outcome.failed.append(f"{self.case.label}: {arm} {what}")
        try:
            self.lab.free()
        except DeviceLost as lost:
            raise ArmLost(f"{self.case.label}: {arm}", str(lost)) from error

    def build(self) -> dict[str, Arm]:
        """The arms that could be made."""
        arms = {}
        try:
            makers = builders(self.case, self.lab.device, self.options.layers)
        except torch.OutOfMemoryError as error:
            self.say("inputs", "the case", error)
            return {}
        for name, make in makers.items():
            if (self.case.memory, name, self.case.chunk) in self.options.refused:
                print(f"  {name}: not timed, it failed the check", flush=True)
            elif f"{self.case.label}: {name}" in self.options.skipped:
                print(f"  {name}: not timed, the device was lost under it", flush=True)
            else:
                try:
                    arms[name] = make()
                except Exception as error:  # peers and kernels may raise anything
                    self.say(name, "all", error)
        return arms

    def warm(self, runs: Mapping[str, Callable[[], object]], what: str) -> dict[str, Callable[[], object]]:
        """The runs that work, warmed up."""
        works = {}
        for name, run in runs.items():
            try:
                self.lab.warm_up(run, self.options.arm_seconds)
                works[name] = run
            except Exception as error:  # as above
                self.say(name, what, error)
        return works

    def time_pass(self, which: str, arms: dict[str, Arm]) -> None:
        """Rows of a forward or forward+backward pass: time, share of the roofline, peak memory of the latter.

        Arms that do not run are dropped from `arms`.
        """
        runs = {n: arm.forward if which == "forward" else arm.forward_backward for n, arm in arms.items()}
        works = self.warm(runs, which)
        for name in runs.keys() - works.keys():
            del arms[name]
        if not works:
            return
        seconds = self.rounds(works, self.lab.seconds)
        self.outcome.rows += self.time_rows(which, seconds)
        if which == "forward" or self.case.kind == "decode":
            return
        peaks: dict[str, float] = {}
        for name, run in works.items():
            try:
                self.lab.free()
                peaks[name] = self.lab.peak_bytes(run) / 2**20
            except DeviceLost as error:
                raise ArmLost(f"{self.case.label}: {name}", str(error)) from error
        base = peaks.get(self.case.baseline)
        self.outcome.rows += [
            self.row(
                name, f"{which} peak memory", "MiB", peak, peak, peak, samples=1, statistic="single run",
                baseline=self.case.baseline if base else "", ratio=base / peak if base and peak else None,
            )
            for name, peak in peaks.items()
        ]  # fmt: skip

    def decode(self, arms: dict[str, Arm]) -> None:
        """Rows of decoding steps, launched by the host and replayed from a CUDA graph."""
        works = self.warm({n: arm.forward for n, arm in arms.items()}, "decode")
        graphs = {}
        for name, run in works.items():
            try:
                graphs[name + GRAPH] = self.lab.graph(run)
            except Exception as error:  # a peer may not be capturable
                self.say(name + GRAPH, "decode", error)
        for group, clock in ((works, self.lab.host_seconds), (self.warm(graphs, "decode"), self.lab.seconds)):
            if group:
                seconds = self.rounds(group, clock)
                steps = self.options.layers
                self.outcome.rows += self.time_rows("decode", {n: [s / steps for s in x] for n, x in seconds.items()})

    def rounds(self, runs: Mapping[str, Callable[[], object]], clock: Callable[..., float]) -> dict[str, list[float]]:
        """Seconds of every arm and round; the arms are warm already."""
        return time_rounds(
            runs, rounds=self.options.rounds, warmup=0, budget_seconds=self.options.case_seconds, clock=clock
        )

    def time_rows(self, which: str, seconds: Mapping[str, Sequence[float]]) -> list[Row]:
        """A row of time for every arm, for ours one of the roofline's share too."""
        rows = []
        graph = GRAPH if any(n.endswith(GRAPH) for n in seconds) else ""
        baseline = self.case.baseline + graph
        for name in seconds:
            known = baseline in seconds
            settings = settings_text(self.case.settings)
            row = timing_row(NAME, name, baseline if known else name, f"{which} time", seconds, settings)
            rows.append(row if known else replace(row, baseline="", ratio=None, ratio_low=None, ratio_high=None))
            if is_own(self.case, name) and self.case.kind != "titans":
                gates = 3 if RULES[self.case.memory][name.removesuffix(GRAPH)].needs_threshold else 2
                bound = bound_seconds(self.case, which, self.peaks, num_gates=gates)
                shares = [bound / s for s in seconds[name]]
                middle = bound / statistics.median(seconds[name])
                metric = f"{which} of roofline"
                rows.append(self.row(name, metric, "1", middle, min(shares), max(shares), samples=len(shares)))
        return rows

    def row(
        self, arm: str, metric: str, unit: str, value: float, low: float, high: float, *, samples: int,
        statistic: str = "median", baseline: str = "", ratio: float | None = None,
    ) -> Row:  # fmt: skip
        """A row of this case."""
        return Row(
            benchmark=NAME, arm=arm, metric=metric, unit=unit, value=value, low=low, high=high, samples=samples,
            statistic=statistic, baseline=baseline, ratio=ratio, settings=settings_text(self.case.settings),
        )  # fmt: skip


def compile_case(case: Case, lab: Lab, check_size: tuple[int, int]) -> None:
    """Run each of our arms and its check once, so that Triton has the kernels on disk; results are dropped."""
    peers_off = replace(case, peers=(), control=False)
    if case.kind == "op":
        check_all([(case.memory, rule, case.chunk) for rule in case.rules], lab, size=check_size)
    for name, make in builders(peers_off, lab.device, layers=1).items():
        try:
            arm = make()
            arm.forward()
            if case.kind != "decode":
                arm.forward_backward()
            lab.synchronize()
        except Exception as error:  # the measuring process meets it again and says so
            print(f"{case.label}: {name}: {reason(error)}", flush=True)
