"""Count tokens without a tokenizer: an estimate on the safe side, for when none is given."""

from __future__ import annotations

import re
from collections.abc import Callable

TokenCounter = Callable[[str], int]
"""The number of tokens of a text, as the model that reads it counts; any function will do."""

_PIECES = re.compile(
    r"(?P<word>[A-Z]?[a-z]+)"  # one word, or one hump of camelCase
    r"|(?P<capitals>[A-Z]+)"
    r"|(?P<gap>[ \t]{2,})"
    r"|(?P<single>[\x21-\x7e\n\r\x00-\x08\x0b-\x1f\x7f])"  # digits, punctuation, line ends, control characters
    r"|(?P<wide>[^\x00-\x7f]+)"
)


def estimate_tokens(text: str) -> int:
    """About as many tokens as a tokenizer for English of 30,000 tokens or more needs, or up to half more.

    English words count one token per five letters, digits and punctuation one each, other scripts one per byte of
    UTF-8: nothing that a byte-level tokenizer does with them costs more. Give a tokenizer's own count where there is
    one; for languages other than English it will be several times less.

    >>> estimate_tokens("The cat sat on the mat, 12 times.")
    11
    """
    total = 0
    for match in _PIECES.finditer(text):
        length = match.end() - match.start()
        match match.lastgroup:
            case "word":
                # A very long word is none: random letters take nearly a token each.
                total += 1 + (length - 1) // 5 if length <= 20 else length * 4 // 5
            case "capitals" | "gap":
                total += (length + 1) // 2
            case "single":
                total += 1
            case _:
                total += len(match.group().encode("utf-8", "surrogatepass"))
    return total
