"""Text to token ids and back: bytes as they are, or byte-level BPE trained on the text by Hugging Face tokenizers."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

TOKENIZER_FILE = "tokenizer.json"


class Tokenizer(Protocol):
    """What training and generation need; any sequence of ids decodes to bytes, and bytes to text."""

    kind: str

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for."""
        ...

    def to_json(self) -> str | None:
        """What `load_tokenizer` reads back; None if the kind says everything."""
        ...


class ByteTokenizer:
    """One token per UTF-8 byte: 256 of them, nothing to train or save."""

    kind = "byte"
    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        """The bytes of `text`."""
        return list(text.encode("utf-8"))

    def token_bytes(self, token: int) -> bytes:
        """That byte."""
        return bytes([token])

    def to_json(self) -> str | None:
        """None: there is nothing to save."""
        return None


class BPETokenizer:
    """Byte-level byte-pair encoding: every byte is a token, so no text is unknown."""

    kind = "bpe"

    def __init__(self, serialized: str) -> None:
        """From the JSON of a `tokenizers.Tokenizer`.

        Raises:
            ImportError: the package tokenizers is missing.
            ValueError: not the JSON of a byte-level tokenizer.
        """
        tokenizers = _import_tokenizers()
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(serialized)
        except Exception as error:  # tokenizers raises bare Exception
            raise ValueError(f"expected the JSON of a tokenizers.Tokenizer: {error}") from error
        bytes_of = {character: byte for byte, character in _byte_characters().items()}
        vocab = sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])
        if [index for _, index in vocab] != list(range(len(vocab))):
            raise ValueError("expected token ids 0, 1, 2, ... without a gap")
        if not set(bytes_of) <= {token for token, _ in vocab}:
            raise ValueError("expected a byte-level tokenizer: one whose vocabulary has every single byte")
        self._bytes = [bytes(bytes_of[character] for character in token) for token, _ in vocab]

    @classmethod
    def train(cls, text: str, *, vocab_size: int) -> BPETokenizer:
        """Learn at most `vocab_size` tokens (fewer on a short text) from `text`.

        Raises:
            ImportError: the package tokenizers is missing.
            ValueError: a vocabulary below 257: the bytes alone take 256.
        """
        if vocab_size < 257:
            raise ValueError(
                f"vocab_size of a bpe tokenizer must be at least 257 (256 bytes and a merge); got {vocab_size}: "
                "choose the byte tokenizer for less"
            )
        tokenizers = _import_tokenizers()
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([text], trainer)
        return cls(tokenizer.to_str())

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        return self._tokenizer.encode(text).ids

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for."""
        return self._bytes[token]

    def to_json(self) -> str | None:
        """The JSON of the underlying `tokenizers.Tokenizer`."""
        return self._tokenizer.to_str()


def train_tokenizer(kind: str, text: str, *, vocab_size: int = 1024) -> Tokenizer:
    """A tokenizer of the given kind for `text`; `vocab_size` is for "bpe".

    Raises:
        ImportError: "bpe" without the package tokenizers.
        ValueError: an unknown kind, or a vocabulary too small.
    """
    if kind == "byte":
        return ByteTokenizer()
    if kind == "bpe":
        return BPETokenizer.train(text, vocab_size=vocab_size)
    raise ValueError(f"tokenizer must be 'byte' or 'bpe'; got {kind!r}")


def load_tokenizer(directory: str | Path, kind: str) -> Tokenizer:
    """The tokenizer saved beside a model.

    Raises:
        ImportError: "bpe" without the package tokenizers.
        OSError: no tokenizer.json, or unreadable.
        ValueError: a corrupt file, or an unknown kind.
    """
    if kind == "byte":
        return ByteTokenizer()
    if kind != "bpe":
        raise ValueError(f"tokenizer must be 'byte' or 'bpe'; got {kind!r}")
    path = Path(directory) / TOKENIZER_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a checkpoint with a bpe tokenizer has one")
    try:
        return BPETokenizer(path.read_bytes().decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is truncated or corrupt ({error}): use an earlier checkpoint") from error


def decode(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """The text of `tokens`; bytes that are no UTF-8 become U+FFFD."""
    return "".join(decode_stream(tokenizer, tokens))


def decode_stream(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """The text of `tokens` piece by piece; a character split over tokens arrives whole, with its last one."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        yield decoder.decode(tokenizer.token_bytes(token))
    yield decoder.decode(b"", True)


def _byte_characters() -> dict[int, str]:
    """The printable character that byte-level BPE (as in GPT-2) writes for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def _import_tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise ImportError("the bpe tokenizer needs the package tokenizers: pip install 'memarch[train]'") from error
    return tokenizers
