"""Counter-based noise: the same bits on every device, in any order and for any sharding of a matrix.

Philox4x32-10 (Salmon et al., SC 2011) turns a counter (row, column, step, stream) and a key (seed) into 32 random bits;
a quantile function made only of IEEE additions, multiplications and square roots turns those into a normal number.
`memarch_kernels._philox` does the same operations in the same order, none of them fused.
"""

from __future__ import annotations

import torch
from torch import Tensor

RESET, SUBSTITUTE, CHOOSE = 0, 1, 2
"""Streams: noise of a reset, noise of a substituted row, the choice of the tokens to substitute."""

MAX_STEP = 1 << 56
_LOW = 0xFFFFFFFF
_BLOCK = 1 << 16
"""Counters worked on at once, so that the dozen integers per counter stay in the cache."""

# erfinv(x) / x by polynomials, after M. Giles, "Approximating the erfinv function", GPU Computing Gems Jade, 2011.
# CENTRE is his, in w - 2.5; TAIL, in sqrt(w) - 3, is fitted here at Chebyshev nodes of 5 <= w <= 21.6: his ends at 16.
CENTRE = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
          -0.00417768164, 0.246640727, 1.50140941)  # fmt: skip
TAIL = (-2.16583021e-06, -0.000173615306, 0.00118258130, -0.00336887594, 0.00577036850, -0.00772249140,
        0.00943912752, 1.00168264, 2.83297682)  # fmt: skip
# log in single precision: the Cephes library's logf.
LOG = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
       2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)  # fmt: skip
LOG2_HIGH, LOG2_LOW = 0.693359375, -2.12194440e-4
SQRT_HALF_BITS = 0x3F3504F3
SQRT_TWO = 1.41421356


def check_seed_and_step(seed: int, step: int) -> None:
    """Raises: ValueError outside 0 <= seed < 2^64, 0 <= step < 2^56."""
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must be in [0, 2^64); got {seed}")
    if not 0 <= step < MAX_STEP:
        raise ValueError(f"step must be in [0, 2^56); got {step}")


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four words of 32 random bits from four counters below 2^32, all int64, and a 64-bit key."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _LOW, seed >> 32
    for _ in range(10):
        # A product of two 32-bit words wraps into int64's sign; shift and mask give its halves all the same.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32 & _LOW) ^ c1 ^ k0, p1 & _LOW, (p0 >> 32 & _LOW) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = k0 + 0x9E3779B9 & _LOW, k1 + 0xBB67AE85 & _LOW
    return c0, c1, c2, c3


def random_words(rows: Tensor, num_columns: int, *, seed: int, step: int, stream: int, first_column: int = 0) -> Tensor:
    """32 random bits each, `[N, num_columns]` int64, for rows `[N]` int64 and columns from `first_column` (in fours).

    The word of an element depends on its row, its column, seed, step and stream, on nothing else.
    """
    if first_column % 4:
        raise ValueError(f"first_column must be a multiple of 4: one counter serves four columns; got {first_column}")
    quads = torch.arange(first_column // 4, first_column // 4 + -(-num_columns // 4), device=rows.device)
    count = (step & _LOW, step >> 32 | stream << 24)
    words = rows.new_empty(rows.numel(), 4 * quads.numel())
    at_once = max(1, _BLOCK // max(1, quads.numel()))
    for block, out in zip(rows.split(at_once), words.split(at_once), strict=True):
        c0, c1 = torch.broadcast_tensors(quads, block[:, None])
        c2, c3 = (torch.full_like(c0, part) for part in count)
        torch.stack(philox((c0, c1, c2, c3), seed), dim=-1, out=out.view(*c0.shape, 4))
    return words[:, :num_columns]


def normal_from_words(words: Tensor) -> Tensor:
    """A standard normal number per word, float32, at most 6.4 sigma out; within 5e-6 of the exact quantile.

    The top bit is the sign; the lower 31, n, say that (n + 1/2) / 2^31 of all numbers are farther out. So both tails
    are equally fine.
    """
    tail = ((words & 0x7FFFFFFF).float() + 0.5) * 2.0**-31  # in (0, 1]: twice the probability beyond
    x = 1.0 - tail
    w = -_log(tail * (2.0 - tail))
    near = w < 5.0
    # torch's float32 square root is not correctly rounded on every CPU; that of a float64, rounded, is.
    v = torch.where(near, w - 2.5, w.double().sqrt().float() - 3.0)
    p = torch.where(near, CENTRE[0], TAIL[0])
    for centre, far in zip(CENTRE[1:], TAIL[1:], strict=True):
        p = p * v + torch.where(near, centre, far)
    z = p * x * SQRT_TWO
    return torch.where(words > 0x7FFFFFFF, -z, z)


def normal_rows(
    rows: Tensor, num_columns: int, *, std: float, seed: int, step: int, stream: int, first_column: int = 0
) -> Tensor:
    """N(0, std^2), `[N, num_columns]` float32: row by row what any device computes for these ids of rows `[N]`."""
    noise = torch.empty(rows.numel(), num_columns, device=rows.device)
    at_once = max(1, 4 * _BLOCK // max(1, num_columns))
    for block, out in zip(rows.split(at_once), noise.split(at_once), strict=True):
        words = random_words(block, num_columns, seed=seed, step=step, stream=stream, first_column=first_column)
        torch.mul(normal_from_words(words), std, out=out)
    return noise


def chosen(rows: Tensor, probability: float, *, seed: int, step: int) -> Tensor:
    """Bool like `rows`: True with this probability, by a word that depends on the row, seed and step only."""
    unique, index = rows.reshape(-1).unique(return_inverse=True)
    words = random_words(unique, 1, seed=seed, step=step, stream=CHOOSE)[:, 0]
    return (words < threshold(probability))[index].view(rows.shape)


def threshold(probability: float) -> int:
    """The words below it are those chosen."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be in [0, 1]; got {probability}")
    return round(probability * (1 << 32))


def _log(x: Tensor) -> Tensor:
    """ln x of normal positive float32, by additions and multiplications alone."""
    bits = x.view(torch.int32)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    y = (bits - (exponent << 23)).view(torch.float32) - 1.0
    z = y * y
    p = torch.full_like(y, LOG[0])
    for coefficient in LOG[1:]:
        p = p * y + coefficient
    e = exponent.float()
    return y + (p * (y * z) + e * LOG2_LOW - 0.5 * z) + e * LOG2_HIGH
