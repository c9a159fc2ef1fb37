"""What `benchmarks.miras_gpu` measures: sizes, rules and peers of each case, and the aims its figures are held to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from benchmarks._harness import Row

Arms = tuple[str, ...]
PASSES = ("forward", "forward+backward")
OWN: dict[str, Arms] = {"mlp": ("l2", "yaad", "moneta", "memora"), "matrix": ("l2", "yaad-matrix")}
BASELINE = {"op mlp": "sdpa", "op matrix": "fla-gdr", "titans mlp": "titans"}
DECODE_BASELINE = {"mlp": "sdpa", "matrix": "fla-gdr"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One size at which arms are timed beside each other.

    Args:
        kind: "op": the operators alone, forward and backward; "titans": NeuralMemory whole, with its own memory and
            with ours; "decode": one token per sequence.
        tokens: T; for "decode" the length of attention's cache.
        batch_heads: B * H, the number of independent memories.
        rules: names of our arms, see `OWN`.
        peers: names of the arms that are not ours.
        control: also time our torch path.
    """

    kind: str = "op"
    memory: str
    head_dim: int = 64
    batch_heads: int = 128
    tokens: int = 4096
    chunk: int = 64
    rules: Arms = ("l2",)
    peers: Arms = ("sdpa",)
    control: bool = False

    @property
    def label(self) -> str:
        """What `--only` looks at, and the rows' setting "case"."""
        size = f"d={self.head_dim} n={self.batch_heads} T={self.tokens} C={self.chunk}"
        return f"{self.kind} {self.memory} {size}"

    @property
    def heads(self) -> int:
        """H. NeuralMemory's projections grow with its square: 8 of 64 are a model width of 512."""
        return min(8 if self.kind == "titans" else 16, self.batch_heads)

    @property
    def batch(self) -> int:
        """B."""
        return self.batch_heads // self.heads

    @property
    def baseline(self) -> str:
        """The arm that ratios are taken against."""
        return DECODE_BASELINE[self.memory] if self.kind == "decode" else BASELINE[f"{self.kind} {self.memory}"]

    @property
    def settings(self) -> dict[str, object]:
        """The rows' settings; arms add their own."""
        return {
            "case": self.label, "B": self.batch, "H": self.heads, "T": self.tokens, "D": self.head_dim,
            "C": self.chunk, "memory": self.memory, "kind": self.kind,
        }  # fmt: skip


def headline_cases() -> list[Case]:
    """The sizes that the aims are about, most important first: a run that is cut short has these."""
    mlp = Case(memory="mlp", rules=OWN["mlp"])
    matrix = Case(memory="matrix", rules=OWN["matrix"], peers=("fla-gdr", "fla-kda", "sdpa"))
    titans = Case(kind="titans", memory="mlp", rules=("l2", "yaad"), peers=("titans",))
    decode = Case(kind="decode", memory="mlp", rules=("l2", "yaad"))
    return [
        replace(mlp, peers=("sdpa", "fla-ttt"), control=True),
        replace(mlp, chunk=16, peers=("sdpa", "fla-ttt")),
        matrix,
        replace(matrix, head_dim=128),
        titans,
        replace(titans, chunk=16),
        decode,
        replace(decode, memory="matrix", rules=OWN["matrix"], peers=("fla-gdr", "sdpa")),
    ]


def default_cases() -> list[Case]:
    """The headline, then sweeps over T at B * H = 16 and over B * H at T = 4096, then the other widths."""
    mlp, matrix = Case(memory="mlp"), Case(memory="matrix", peers=("fla-gdr", "sdpa"))
    sweeps = [replace(case, batch_heads=16, tokens=t) for t in (4096, 32768, 1024, 8192) for case in (mlp, matrix)]
    sweeps += [replace(case, batch_heads=n) for n in (256, 64) for case in (mlp, matrix)]
    decode = Case(kind="decode", memory="mlp", batch_heads=16)
    others = [
        replace(mlp, head_dim=32, chunk=16),
        replace(matrix, chunk=16),
        decode,
        replace(decode, memory="matrix", batch_heads=128, head_dim=128, peers=("fla-gdr", "sdpa")),
    ]
    return headline_cases() + sweeps + others


def full_cases() -> list[Case]:
    """The product of all sizes."""
    cases = []
    for memory, n, t, chunk in product(OWN, (16, 64, 128, 256), (1024, 4096, 8192, 32768), (16, 64)):
        peers: Arms = ("sdpa", "fla-ttt") if memory == "mlp" else ("fla-gdr", "fla-kda", "sdpa")
        for d in (32, 64) if memory == "mlp" else (64, 128):
            case = Case(memory=memory, batch_heads=n, tokens=t, chunk=chunk, head_dim=d, rules=OWN[memory], peers=peers)
            cases.append(case)
            if chunk == 64:
                cases.append(replace(case, kind="decode", peers=("fla-gdr", "sdpa")))
            if memory == "mlp" and d == 64:
                cases.append(replace(case, kind="titans", rules=("l2", "yaad"), peers=("titans",)))
    return cases


def tiny_cases() -> list[Case]:
    """Every kind of case as small as a dry run on a CPU wants it."""
    one = Case(memory="mlp", head_dim=16, batch_heads=1, tokens=32, chunk=16)
    return [
        replace(one, rules=("l2", "yaad"), peers=("sdpa", "fla-ttt"), control=True),
        replace(one, memory="matrix", rules=OWN["matrix"], peers=("fla-gdr", "fla-kda", "sdpa")),
        replace(one, kind="titans", peers=("titans",), batch_heads=2),
        replace(one, kind="decode"),
        replace(one, kind="decode", memory="matrix", peers=("fla-gdr", "sdpa")),
    ]


@dataclass(frozen=True)
class Aim:
    """A figure to reach. field: "ratio" (at least `bound`) or "value" (`at_most` or at least `bound`)."""

    text: str
    case: str
    arm: str
    metric: str
    field: str
    bound: float
    at_most: bool = False


def aims() -> list[Aim]:
    """What the README promises of an H100."""
    mlp64, mlp16, matrix64, matrix128, titans64, titans16, decode_mlp, decode_matrix = (
        case.label for case in headline_cases()
    )
    found = [
        Aim(
            f"matrix memory {d}: at most 1.0x the time of chunk_gated_delta_rule", case, "l2", f"{p} time", "ratio", 1.0
        )
        for d, case in (("d=64", matrix64), ("d=128", matrix128))
        for p in PASSES
    ]
    found += [
        Aim(f"MLP memory C={c}: {times:.0f}x titans-pytorch", case, "l2", f"{p} time", "ratio", times)
        for c, case, times in ((16, titans16, 20.0), (64, titans64, 8.0))
        for p in PASSES
    ]
    found += [
        Aim(f"MLP memory {which}", case, "l2", metric, "value", seconds, at_most=True)
        for which, case, metric, seconds in (
            ("C=64: under 1 ms", mlp64, "forward time", 1e-3),
            ("C=64: under 4 ms", mlp64, "forward+backward time", 4e-3),
            ("C=16: under 2.5 ms", mlp16, "forward time", 2.5e-3),
        )
    ]
    found += [
        Aim(f"{memory} decoding: 60 % of copy bandwidth", case, "l2-graph", "decode of roofline", "value", 0.6)
        for memory, case in (("MLP", decode_mlp), ("matrix", decode_matrix))
    ]
    return found


def judge(aim: Aim, rows: Sequence[tuple[str, Row]]) -> tuple[str, str]:
    """("reached" | "missed" | "not measured", the figure); `rows` are (case label, row), the newest counts."""
    for label, row in reversed(rows):
        if (label, row.arm, row.metric) == (aim.case, aim.arm, aim.metric):
            value = row.ratio if aim.field == "ratio" else row.value
            if value is None:
                break
            reached = value <= aim.bound if aim.at_most else value >= aim.bound
            shown = f"{value * 1e3:.3g} ms" if row.unit == "s" and aim.field == "value" else f"{value:.3g}"
            return "reached" if reached else "missed", shown + ("x" if aim.field == "ratio" else "")
    return "not measured", ""
