"""The noise of `memarch.ops._philox` in Triton: the same operations in the same order, launched with fusion off.

enable_fp_fusion=False is part of the definition: a fused multiply-add rounds once where the reference rounds twice.
"""

from __future__ import annotations

import triton
import triton.language as tl

RESET, SUBSTITUTE, CHOOSE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _log(x):
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    y = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    z = y * y
    p = y * 7.0376836292e-2 + -1.1514610310e-1
    p = p * y + 1.1676998740e-1
    p = p * y + -1.2420140846e-1
    p = p * y + 1.4249322787e-1
    p = p * y + -1.6668057665e-1
    p = p * y + 2.0000714765e-1
    p = p * y + -2.4999993993e-1
    p = p * y + 3.3333331174e-1
    e = exponent.to(tl.float32)
    return y + (p * (y * z) + e * -2.12194440e-4 - 0.5 * z) + e * 0.693359375


@triton.jit
def normal_from_word(word):
    """A standard normal number per 32-bit word; see the function of this name on the torch side."""
    bits = word.to(tl.int32, bitcast=True)
    tail = ((bits & 0x7FFFFFFF).to(tl.float32) + 0.5) * 4.656612873077393e-10
    x = 1.0 - tail
    w = -_log(tail * (2.0 - tail))
    near = w < 5.0
    # sqrt of w on both sides would be NaN at the centre, where w can round below zero.
    v = tl.where(near, w - 2.5, tl.sqrt_rn(tl.where(near, 1.0, w)) - 3.0)
    p = tl.where(near, 2.81022636e-08, -2.16583021e-06)
    p = p * v + tl.where(near, 3.43273939e-07, -0.000173615306)
    p = p * v + tl.where(near, -3.5233877e-06, 0.00118258130)
    p = p * v + tl.where(near, -4.39150654e-06, -0.00336887594)
    p = p * v + tl.where(near, 0.00021858087, 0.00577036850)
    p = p * v + tl.where(near, -0.00125372503, -0.00772249140)
    p = p * v + tl.where(near, -0.00417768164, 0.00943912752)
    p = p * v + tl.where(near, 0.246640727, 1.00168264)
    p = p * v + tl.where(near, 1.50140941, 2.83297682)
    z = p * x * 1.41421356
    return tl.where(bits < 0, -z, z)


@triton.jit
def normal_tile(rows, first_quad, step_low, step_high, seed, QUADS: tl.constexpr, STREAM: tl.constexpr):
    """Standard normal numbers `[R, 4 * QUADS]` for rows `[R]` and the columns from 4 * first_quad."""
    quad = first_quad + tl.arange(0, QUADS)
    row = rows.to(tl.uint32)[:, None] + tl.zeros([1, QUADS], tl.uint32)
    column = quad.to(tl.uint32)[None, :] + tl.zeros_like(row)
    c2 = step_low.to(tl.uint32) + tl.zeros_like(row)
    c3 = (step_high.to(tl.uint32) | (STREAM << 24)) + tl.zeros_like(row)
    w0, w1, w2, w3 = tl.philox(seed, column, row, c2, c3)
    even = tl.interleave(normal_from_word(w0), normal_from_word(w2))
    odd = tl.interleave(normal_from_word(w1), normal_from_word(w3))
    return tl.interleave(even, odd)


@triton.jit
def choice_word(rows, step_low, step_high, seed):
    """The word by which each of `rows` is chosen or not, uint32."""
    row = rows.to(tl.uint32)
    zero = tl.zeros_like(row)
    c2 = step_low.to(tl.uint32) + zero
    c3 = (step_high.to(tl.uint32) | (CHOOSE << 24)) + zero
    word, _, _, _ = tl.philox(seed, zero, row, c2, c3)
    return word
