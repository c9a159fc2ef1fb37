"""The least time a pass can take: floating-point operations, bytes, and what a device does of both in a second."""

from dataclasses import dataclass
from typing import Any

from benchmarks._miras_gpu_cases import Case

# Dense bf16 FLOP/s and bytes/s of data sheets, by what the device's name holds; the first match counts.
DATA_SHEETS = (
    ("H100 PCIe", 756e12, 2.0e12),
    ("H200", 989e12, 4.8e12),
    ("H100", 989e12, 3.35e12),
    ("A100", 312e12, 2.0e12),
)


@dataclass(frozen=True)
class Peaks:
    """What the device can do; `copied` is the bandwidth (read + written) that a large copy reached in this run."""

    flops: float
    bandwidth: float
    copied: float
    source: str


def data_sheet(device: str) -> tuple[float, float] | None:
    """(FLOP/s, bytes/s) of a device we know by name."""
    for name, flops, bandwidth in DATA_SHEETS:
        if name in device:
            return flops, bandwidth
    return None


def find_peaks(lab: Any) -> Peaks:
    """The data sheet's figures, measured ones (a large product of matrices, a large copy) for other devices."""
    multiplied, copied = lab.measure_peaks()
    known = data_sheet(lab.name)
    if known is None:
        return Peaks(multiplied, copied, copied, "measured")
    return Peaks(*known, copied, "data sheet")


def state_floats(memory: str, d: int) -> int:
    """Numbers in the memory of one head: W1 and W2 of hidden width 4 d, or one matrix."""
    return 8 * d * d if memory == "mlp" else d * d


def flop(case: Case, which: str) -> float:
    """Operations of a pass for all tokens and heads.

    MLP, per token and head: forward 56 d^2 + 20 C d, backward 152 d^2 + 60 C d. Matrix: forward 6 d^2 + 4 C d;
    backward 18 d^2 + 14 C d, counted from the kernel: nine products with a d x d matrix (two recompute the states, one
    the error, six are gradients) and seven with the C x C scores (two of them a second time, transposed).
    """
    d, c = case.head_dim, case.chunk
    forward, backward = (
        (56 * d * d + 20 * c * d, 152 * d * d + 60 * c * d)
        if case.memory == "mlp"
        else (6 * d * d + 4 * c * d, 18 * d * d + 14 * c * d)
    )
    each = forward if which == "forward" else forward + backward
    return float(each * case.tokens * case.batch_heads)


def least_bytes(case: Case, which: str, *, num_gates: int) -> float:
    """Bytes that any implementation moves: inputs and outputs once per direction, the last state; bf16, float32 gates.

    Checkpoints are not counted: they are our choice. num_gates: gates per token (2, or 3 with a threshold).
    """
    rows, gates = (4, 1) if which == "forward" else (11, 3)
    per_token = rows * 2 * case.head_dim + gates * 4 * num_gates
    state = 4 * state_floats(case.memory, case.head_dim)
    return float(case.batch_heads * (case.tokens * per_token + state))


def bound_seconds(case: Case, which: str, peaks: Peaks, *, num_gates: int = 2) -> float:
    """The least time of a forward or forward+backward pass; of a decoding step by the copy's bandwidth."""
    if which == "decode":
        # The memory of the chunk's start is read, the running memory read and written.
        return 3 * 4 * state_floats(case.memory, case.head_dim) * case.batch_heads / peaks.copied
    return max(flop(case, which) / peaks.flops, least_bytes(case, which, num_gates=num_gates) / peaks.bandwidth)
