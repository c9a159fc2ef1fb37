"""Multiplication of numbers of several digits, a token a digit: `47*12=4650`, the least significant digit first.

Digits of the factors come in reading order; the product's are reversed by default, so that each can be computed from
what was written before it. Every number has all its digits, zeros in front included.

B batch, D digits of a factor.
"""

import torch
from torch import Tensor

IGNORE = -100
TIMES, EQUALS, VOCAB_SIZE = 10, 11, 12
"""Tokens 0 to 9 are the digits."""


def multiplication(
    batch_size: int, *, num_digits: int, reverse: bool = True, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Uniformly drawn factors of `num_digits` digits and their product of twice as many.

    Returns: tokens `[B, 4 D + 1]` (a, times, b, equals, the product but its last digit) and labels of the same shape,
    int64: from the equals sign on the digit that follows, else -100.
    Raises: ValueError for a batch_size below 1 or num_digits not from 1 to 9.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    if not 1 <= num_digits <= 9:
        raise ValueError(f"num_digits must be from 1 to 9 (products are of 64 bits), got {num_digits}")
    factors = torch.randint(10**num_digits, (batch_size, 2), generator=generator)
    a, b = (_digits(x, num_digits) for x in factors.unbind(1))
    product = _digits(factors.prod(1), 2 * num_digits)
    product = product.flip(1) if reverse else product
    times, equals = (torch.full((batch_size, 1), sign) for sign in (TIMES, EQUALS))
    tokens = torch.cat([a, times, b, equals, product[:, :-1]], 1)
    unasked = torch.full((batch_size, 2 * num_digits + 1), IGNORE)
    return tokens, torch.cat([unasked, product], 1)


def _digits(numbers: Tensor, count: int) -> Tensor:
    """`[B]` -> `[B, count]`, the most significant first."""
    powers = numbers.new_tensor([10**i for i in reversed(range(count))])
    return numbers[:, None] // powers % 10
