"""The part-of-speech task: its grammar, its frequencies, its splits."""

from __future__ import annotations

import pytest
import torch

from memarch.data.parts_of_speech import IGNORE, SPLITS, PartsOfSpeech

TASK = PartsOfSpeech(num_words=100, zipf=1.5, ambiguous=0.1, seed=3)


def draw(split, rows=4000, task=TASK):
    return task.draw(rows, split=split, generator=torch.Generator().manual_seed(1))


def slots(tokens, task=TASK):
    """The words in the noun's and the adjective's slot, read from the context."""
    copula_first = tokens[:, 0] == task.cop
    assert (tokens[~copula_first, 1] == task.cop).all()
    adjective = torch.where(copula_first, tokens[:, 1], tokens[:, 2])
    noun = torch.where(copula_first, tokens[:, 2], tokens[:, 0])
    return noun, adjective, copula_first


@pytest.mark.parametrize("split", SPLITS)
def test_grammar_and_pattern(split):
    batch = draw(split)
    noun, adjective, copula_first = slots(batch.tokens)
    query = batch.tokens[:, 3]
    is_noun = query == noun
    assert (is_noun | (query == adjective)).all()
    assert (batch.tokens[:, 4:] == TASK.mask).all()
    assert (batch.labels[:, :4] == IGNORE).all() and (batch.in_weights[:, :4] == IGNORE).all()
    for row in range(200):
        n, a = int(noun[row]), int(adjective[row])
        assert batch.labels[row, 4:].tolist() == ([a, n, n] if is_noun[row] else [a, a, a])
        if "switch" in split:
            assert batch.in_weights[row, 4:].tolist() == ([n, n, n] if is_noun[row] else [n, a, a])
    if "switch" not in split:
        assert torch.equal(batch.in_weights, batch.labels)
    distinct = noun != adjective
    assert 0.45 < is_noun[distinct].double().mean() < 0.55 and 0.45 < copula_first.double().mean() < 0.55


def test_words_follow_zipf_and_ambiguous_ones_stand_in_both_slots():
    noun, adjective, _ = slots(draw("val", 60_000).tokens)
    counts = torch.stack([torch.bincount(noun, minlength=100), torch.bincount(adjective, minlength=100)]).double()
    expected = 60_000 * TASK.word_weights()
    assert ((counts - expected).abs() <= 5 * expected.clamp_min(1).sqrt()).all()
    ambiguous = TASK.is_ambiguous()
    assert ambiguous[:50].sum() == ambiguous[50:].sum() == 5
    share = counts[0, :50] / counts[:, :50].sum(0)
    assert (share[~ambiguous[:50]] == 1).all()
    frequent = ambiguous[:50] & (counts[:, :50].sum(0) > 200)
    assert ((share[frequent] - 0.5).abs() < 0.2).all()
    plain = PartsOfSpeech(num_words=20, zipf=2.0, ambiguous=0.0).word_weights()
    torch.testing.assert_close(plain[0, 0] / plain[0, 2], torch.tensor(9.0, dtype=torch.float64))
    flat = PartsOfSpeech(num_words=20, zipf=None, ambiguous=0.0).word_weights()
    assert (flat[0, :10] == 0.1).all() and (flat[0, 10:] == 0).all()


def test_splits_use_the_words_they_name():
    ambiguous = TASK.is_ambiguous()
    for split, nouns, adjectives in [
        ("switch", range(50, 100), range(50)),
        ("tail", range(45, 50), range(95, 100)),
        ("tail_switch", range(95, 100), range(45, 50)),
        ("holdout", TASK.holdout, TASK.holdout),
    ]:
        noun, adjective, _ = slots(draw(split).tokens)
        assert set(noun.tolist()) <= set(nouns) and set(adjective.tolist()) <= set(adjectives), split
        if split != "holdout":
            assert not ambiguous[noun].any() and not ambiguous[adjective].any()
        else:
            assert (noun != adjective).all() and set(noun.tolist()) == set(TASK.holdout)
    val = draw("val").tokens
    assert not torch.isin(val, torch.tensor(list(TASK.holdout))).any()


def test_ids_and_seeds():
    assert (TASK.cop, TASK.mask, TASK.vocab_size) == (100, 101, 112) and list(TASK.holdout) == list(range(102, 112))
    assert torch.equal(draw("val").tokens, draw("val").tokens)
    other = PartsOfSpeech(num_words=100, ambiguous=0.1, seed=4)
    assert not torch.equal(other.is_ambiguous(), TASK.is_ambiguous())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_words": 21}, "num_words must be even and at least 20; got 21"),
        ({"num_words": 10}, "num_words must be even and at least 20; got 10"),
        ({"ambiguous": 1.5}, r"ambiguous must be in \[0, 1\]; got 1.5"),
        ({"zipf": -1.0}, "zipf must be at least 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        PartsOfSpeech(**options)


def test_bad_draws():
    with pytest.raises(ValueError, match="split must be one of val, switch, .*; got 'train'"):
        TASK.draw(2, split="train")
    with pytest.raises(ValueError, match="leaves no unambiguous word in the tail"):
        PartsOfSpeech(num_words=20, ambiguous=1.0).draw(2, split="tail")
