"""Data: local text with tokenizers and resumable batches, and synthetic tasks (`recall`, `state_tracking`, ...)."""

from .batches import TextBatches, validation_windows
from .text import TextSource, default_text, load_text, split_text
from .tokenizer import BPETokenizer, ByteTokenizer, Tokenizer, decode, decode_stream, load_tokenizer, train_tokenizer

__all__ = [
    "BPETokenizer",
    "ByteTokenizer",
    "TextBatches",
    "TextSource",
    "Tokenizer",
    "decode",
    "decode_stream",
    "default_text",
    "load_text",
    "load_tokenizer",
    "split_text",
    "train_tokenizer",
    "validation_windows",
]
