"""Counter-based noise: known answers of the generator, the shape of the numbers, dependence on the counter alone."""

from __future__ import annotations

import pytest
import torch

from memarch.ops import _philox
from memarch.ops._philox import chosen, normal_from_words, normal_rows, philox, random_words

NOISE = {"std": 1.0, "seed": 7, "step": 3, "stream": _philox.RESET}


@pytest.mark.parametrize(
    "counter, seed, expected",
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(counter, seed, expected):
    words = philox(tuple(torch.tensor([c]) for c in counter), seed)
    assert tuple(int(w) for w in words) == expected


def test_numbers_are_the_normal_quantiles_of_their_words():
    edges = [0, 1, 2, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, (1 << 32) - 1]
    words = torch.cat([torch.tensor(edges), torch.randint(0, 1 << 32, (200_000,)), torch.arange(0, 1 << 24, 997)])
    z = normal_from_words(words)
    exact = -torch.special.ndtri(((words & 0x7FFFFFFF).double() + 0.5) / (1 << 32))
    exact = torch.where(words > 0x7FFFFFFF, -exact, exact)
    assert (z - exact).abs().max() < 5e-6
    assert z[0] == -z[4] and 6.3 < z[0] < 6.4
    assert z.dtype == torch.float32 and z.isfinite().all()


def test_moments_and_tails_of_a_million_numbers():
    z = normal_rows(torch.arange(1000), 1000, **NOISE).double()
    assert abs(z.mean()) < 4e-3 and abs(z.var() - 1) < 6e-3
    assert abs((z**3).mean()) < 1e-2 and abs((z**4).mean() - 3) < 3e-2
    assert 0.9 * 2700 < (z.abs() > 3).sum() < 1.1 * 2700
    assert abs(torch.corrcoef(z[:, :50].T).fill_diagonal_(0)).max() < 0.16
    assert abs(torch.corrcoef(z[:50]).fill_diagonal_(0)).max() < 0.16


def test_a_number_depends_on_its_own_place_only():
    whole = normal_rows(torch.arange(40), 24, **NOISE)
    assert torch.equal(normal_rows(torch.tensor([31, 5]), 24, **NOISE), whole[[31, 5]])
    assert torch.equal(normal_rows(torch.arange(40), 7, **NOISE, first_column=8), whole[:, 8:15])


def test_blocks_do_not_change_the_numbers(monkeypatch):
    whole = normal_rows(torch.arange(9), 10, **NOISE)
    monkeypatch.setattr(_philox, "_BLOCK", 4)
    assert torch.equal(normal_rows(torch.arange(9), 10, **NOISE), whole)


@pytest.mark.parametrize(
    "change", [{"seed": 8}, {"seed": 7 + (1 << 40)}, {"step": 4}, {"step": 3 + (1 << 40)}, {"stream": 1}]
)
def test_another_seed_step_or_stream_is_other_noise(change):
    same, other = (normal_rows(torch.arange(20), 20, **NOISE | c) for c in ({}, change))
    assert (same == other).sum() <= 1
    assert abs((same * other).mean()) < 0.2


def test_the_first_column_must_begin_a_counter():
    with pytest.raises(ValueError, match="multiple of 4.*got 6"):
        random_words(torch.arange(2), 4, seed=0, step=0, stream=0, first_column=6)


def test_tokens_are_chosen_one_by_one_with_the_probability_asked():
    tokens = torch.arange(20_000)
    hits = chosen(tokens, 0.1, seed=1, step=5)
    assert 0.09 < hits.double().mean() < 0.11
    assert torch.equal(chosen(tokens[[17, 3, 17]], 0.1, seed=1, step=5), hits[[17, 3, 17]])
    assert not chosen(tokens, 0.0, seed=1, step=5).any() and chosen(tokens, 1.0, seed=1, step=5).all()
    again = chosen(tokens, 0.1, seed=1, step=6)
    assert 0.005 < (hits & again).double().mean() < 0.015
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\]; got 1.5"):
        chosen(tokens, 1.5, seed=1, step=5)
