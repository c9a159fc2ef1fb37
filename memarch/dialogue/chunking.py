"""Cut a turn into chunks, the unit of retrieval: at paragraphs, else sentences, else words, else anywhere."""

from __future__ import annotations

import re
import unicodedata

# About 250 English tokens, what MiniLM reads of one text.
DEFAULT_MAX_CHARS = 1000

_PARAGRAPH = re.compile(r"\n[ \t\r]*\n\s*")
# A full stop needs space after it (3.5 is a number); the CJK ones do not.
_SENTENCE = re.compile(r"[.!?\u2026][\"'\u2019\u201d)\]]*\s+|[\u3002\uff01\uff1f][\u300d\u300f\u201d]*\s*|\n\s*")
_WORD = re.compile(r"\s+")
_JOINERS = "\u200d\ufe0e\ufe0f"


def spans(text: str, *, max_chars: int = DEFAULT_MAX_CHARS) -> tuple[tuple[int, int], ...]:
    """Half-open character ranges that together are exactly `text`, each of at most `max_chars` characters.

    A text that fits is one chunk; so is an empty one, ((0, 0),). A cut comes after the latest end of a paragraph in the
    second half of the room; where there is none, of a sentence; then of any word; and in a text without spaces between
    two characters, not inside a combined one. Time is linear in the length.

    >>> spans("One. Two. Three.", max_chars=10)
    ((0, 10), (10, 16))

    Raises: ValueError if max_chars is below 8 (a combined character may have several code points).
    """
    if max_chars < 8:
        raise ValueError(f"max_chars must be at least 8; got {max_chars}")
    found = []
    start = 0
    while len(text) - start > max_chars:
        end = _cut(text, start, start + max_chars)
        found.append((start, end))
        start = end
    found.append((start, len(text)))
    return tuple(found)


def _cut(text: str, start: int, stop: int) -> int:
    """Where the chunk that begins at `start` ends: after `start`, at most `stop`."""
    middle = start + (stop - start) // 2
    for boundary, first in ((_PARAGRAPH, middle), (_SENTENCE, middle), (_WORD, start)):
        # A run of spaces that goes on past `stop` is cut inside: what is left of it opens the next chunk.
        ends = [match.end() for match in boundary.finditer(text, first, stop)]
        if ends:
            return ends[-1]
    end = stop
    while end > middle and _joined(text[end - 1], text[end]):
        end -= 1
    return end if end > middle else stop


def _joined(left: str, right: str) -> bool:
    """Whether `right` belongs to the same visible character as `left`."""
    return right in _JOINERS or left == "\u200d" or unicodedata.combining(right) != 0
