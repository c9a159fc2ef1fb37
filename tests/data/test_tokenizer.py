"""Tokenizers: round trips on any text, streaming of split characters, saving, errors."""

import builtins
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memarch.data.tokenizer import (
    BPETokenizer,
    ByteTokenizer,
    Tokenizer,
    decode,
    decode_stream,
    load_tokenizer,
    train_tokenizer,
)

SAMPLE = "The cat sat on the mat. The dog sat on the cat, naïve 文字 🙂\n" * 20
BPE = BPETokenizer.train(SAMPLE, vocab_size=300)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE])
@given(text=st.text(max_size=60))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert decode(tokenizer, tokens) == text
    assert b"".join(map(tokenizer.token_bytes, tokens)) == text.encode()
    assert all(0 <= token < tokenizer.vocab_size for token in tokens)


def test_bpe_learns_words_and_is_deterministic() -> None:
    assert len(BPE.encode(SAMPLE)) < 0.45 * len(SAMPLE.encode())
    assert 256 < BPE.vocab_size <= 300
    assert BPETokenizer.train(SAMPLE, vocab_size=300).to_json() == BPE.to_json()


def test_streaming_keeps_split_characters_whole() -> None:
    tokenizer = ByteTokenizer()
    pieces = list(decode_stream(tokenizer, tokenizer.encode("aé🙂")))
    assert pieces == ["a", "", "é", "", "", "", "🙂", ""]
    assert list(decode_stream(tokenizer, [0x61, 0xC3])) == ["a", "", "\ufffd"]
    assert decode(tokenizer, [0xFF, 0x61]) == "\ufffda"


def test_save_and_load(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(BPE.to_json() or "", encoding="utf-8")
    again = load_tokenizer(tmp_path, "bpe")
    assert again.encode(SAMPLE) == BPE.encode(SAMPLE) and again.vocab_size == BPE.vocab_size
    assert ByteTokenizer().to_json() is None and load_tokenizer(tmp_path / "nowhere", "byte").vocab_size == 256


def test_errors_name_file_and_value(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="tokenizer.json does not exist"):
        load_tokenizer(tmp_path, "bpe")
    word_level = json.loads(BPE.to_json() or "")
    word_level["model"] = {"type": "WordLevel", "vocab": {"cat": 0}, "unk_token": "cat"}
    for content in ((BPE.to_json() or "")[:500], json.dumps(word_level)):
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match="tokenizer.json is truncated or corrupt"):
            load_tokenizer(tmp_path, "bpe")
    for call in (lambda: train_tokenizer("words", SAMPLE), lambda: load_tokenizer(tmp_path, "words")):
        with pytest.raises(ValueError, match="tokenizer must be 'byte' or 'bpe'; got 'words'"):
            call()
    with pytest.raises(ValueError, match="at least 257 .* got 256"):
        train_tokenizer("bpe", SAMPLE, vocab_size=256)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: object) -> object:
        if name.startswith("tokenizers"):
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'memarch\[train\]'"):
        train_tokenizer("bpe", SAMPLE, vocab_size=300)
    assert train_tokenizer("byte", SAMPLE).vocab_size == 256
