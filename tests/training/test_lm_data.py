"""A text made ready: split before the tokenizer learns, encoded without loss, identified by its digest."""

import pytest
import torch

from memarch.data import TextSource, decode
from memarch.training.lm_data import prepare_text

TEXT = "".join(f"line {i} of the text\n" for i in range(200)) + "zzzz ZZZZ\n" * 30


def test_nothing_is_lost_and_validation_stays_unseen() -> None:
    source = TextSource(TEXT, "poem", "CC0")
    for kind, size in (("byte", 256), ("bpe", 300)):
        data = prepare_text(source, tokenizer=kind, vocab_size=300)
        assert data.tokenizer.vocab_size == size == len(data.bytes_per_token)
        both = decode(data.tokenizer, data.train.tolist()) + decode(data.tokenizer, data.validation.tolist())
        assert both == TEXT and data.train.dtype == torch.int64
        assert int(data.bytes_per_token[data.train].sum() + data.bytes_per_token[data.validation].sum()) == len(TEXT)
    assert data.source == "poem (CC0)"
    # The validation part holds the rare word: a tokenizer that had seen it would have joined its letters.
    assert "ZZZZ" in decode(data.tokenizer, data.validation.tolist())
    assert "ZZZZ" not in decode(data.tokenizer, data.train.tolist())
    assert len(data.tokenizer.encode("ZZZZ")) == 4


def test_an_existing_tokenizer_is_kept_and_the_digest_follows_the_text() -> None:
    first = prepare_text(TextSource(TEXT, "a", "x"), vocab_size=300)
    again = prepare_text(TextSource(TEXT, "b", "x"), tokenizer=first.tokenizer)
    assert again.tokenizer is first.tokenizer and again.digest == first.digest
    assert prepare_text(TextSource(TEXT + "!", "a", "x"), tokenizer=first.tokenizer).digest != first.digest
    with pytest.raises(ValueError, match="got 'words'"):
        prepare_text(TextSource(TEXT, "a", "x"), tokenizer="words")
