"""Choosing tokens: greedy, top-k, nucleus, temperature, seeds, errors."""

import math

import pytest
import torch

from memarch.models.sampling import sample_next

PROBABILITIES = torch.tensor([0.05, 0.4, 0.2, 0.3, 0.05])


def seen(**options: float | int) -> set[int]:
    generator = torch.Generator().manual_seed(0)
    logits = PROBABILITIES.log().expand(2000, -1)
    return set(sample_next(logits, generator=generator, **options).tolist())  # type: ignore[arg-type]


def test_temperature_zero_is_greedy() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 3.0, 4.0]])
    assert sample_next(logits, temperature=0).tolist() == [1, 0]


def test_top_k_and_top_p_keep_the_likely_tokens() -> None:
    assert seen() == {0, 1, 2, 3, 4}
    assert seen(top_k=2) == {1, 3}
    assert seen(top_k=9) == {0, 1, 2, 3, 4}
    assert seen(top_p=0.01) == {1}
    assert seen(top_p=0.6) == {1, 3}
    assert seen(top_p=0.75) == {1, 2, 3}
    assert seen(top_k=3, top_p=0.5) == {1, 3}


def test_temperature_sharpens() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = sample_next(PROBABILITIES.log().expand(20000, -1), temperature=0.5, generator=generator)
    expected = (PROBABILITIES**2 / (PROBABILITIES**2).sum())[1].item()
    assert math.isclose((draws == 1).float().mean().item(), expected, abs_tol=0.02)


def test_one_seed_one_result() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(1))
    first, again, other = (sample_next(logits, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 .* got -1.0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k must be at least 1.* got 0"),
        ({"top_p": 0.0}, "top_p must be in .* got 0.0"),
        ({"top_p": 1.5}, "top_p must be in .* got 1.5"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_next(torch.zeros(1, 3), **options)
