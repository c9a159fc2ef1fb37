import pytest
import torch

from memarch.cache import EveryTokensTrigger, NewlineTrigger
from memarch.cache.triggers import make_trigger

from ._tiny_models import NEWLINES, VOCAB, Characters


def test_every_token_with_a_newline_ends_a_step():
    trigger = NewlineTrigger(Characters())
    tokens = torch.arange(VOCAB + 3)  # some are beyond the tokenizer's vocabulary, as in padded embeddings
    assert trigger(tokens, tokens).nonzero()[:, 0].tolist() == list(NEWLINES)


def test_the_vocabulary_is_read_once():
    tokenizer = Characters()
    NewlineTrigger(tokenizer)
    tokenizer.batch_decode = None
    assert NewlineTrigger(tokenizer).table.sum() == len(NEWLINES)


def test_a_tokenizer_without_newlines_is_refused():
    tokenizer = Characters()
    tokenizer.batch_decode = lambda ids, **options: ["a" for _ in ids]
    with pytest.raises(ValueError, match="no token of this tokenizer contains a newline"):
        NewlineTrigger(tokenizer)


def test_every_tokens():
    since = torch.tensor([0, 3, 4, 9])
    assert EveryTokensTrigger(4)(since, since).tolist() == [False, False, True, True]
    with pytest.raises(ValueError, match="num_tokens must be an integer of at least 1; got 0"):
        EveryTokensTrigger(0)


def test_make_trigger():
    assert make_trigger(7, None).num_tokens == 7
    own = lambda tokens, since: tokens == 3  # noqa: E731 (any callable is a trigger)
    assert make_trigger(own, None) is own
    with pytest.raises(ValueError, match="needs the model's tokenizer"):
        make_trigger("newline", None)
    with pytest.raises(ValueError, match="must be 'newline', a number of tokens, or a callable; got 'line'"):
        make_trigger("line", Characters())
