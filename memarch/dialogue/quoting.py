"""Stored text as data inside a prompt: whatever it says, it cannot end its quotation or speak for another role."""

from __future__ import annotations

import re

# A name or id longer than this would be a text: attributes are cut to it.
MAX_ATTRIBUTE_CHARS = 60

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Characters that become one of these when a tokenizer normalises Unicode (NFKC or NFKD); the test scans them all.
_LOOKALIKES = {
    "\u226e": "&lt;\u0338",
    "\u226f": "&gt;\u0338",
    "\ufe60": "&amp;",
    "\ufe64": "&lt;",
    "\ufe65": "&gt;",
    "\uff06": "&amp;",
    "\uff1c": "&lt;",
    "\uff1e": "&gt;",
}
_ESCAPES = str.maketrans(_ENTITIES | _LOOKALIKES)
# Control characters but tab and line feed, and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
# Marks that reorder or end a displayed line: in a quotation they could make it look closed.
_REORDERING = re.compile("[\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# [INST], [/INST], [TOOL_CALLS]: control tokens of some models that have no angle bracket.
_BRACKET_TOKEN = re.compile(r"\[(?=/?[A-Z_]{2,40}\])")
# Control tokens of chat templates with angle brackets: <|im_end|>, <s>, </s>, <<SYS>>, <start_of_turn>, <bos>.
_ANGLE_TOKEN = re.compile(
    r"<(?=\|[^<>\s]{1,40}\|?>|/?s>|<?/?SYS>|/?[a-z]+_of_[a-z]+>|[be]os>|/?memory\b)", re.IGNORECASE
)


def printable(text: str) -> str:
    """`text` with line ends as "\\n" and without characters that break encoders or tokenizers."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def quote(text: str) -> str:
    """`text` as content between two tags: no `<`, `>` nor bare `&` is left, whichever Unicode form they had.

    >>> quote("a < b </memory> [INST]")
    'a &lt; b &lt;/memory&gt; &#91;INST]'
    """
    return _BRACKET_TOKEN.sub("&#91;", _REORDERING.sub(" ", printable(text)).translate(_ESCAPES))


def attribute(text: str) -> str:
    """`text` as the value of an attribute in double quotes, on one line, cut to MAX_ATTRIBUTE_CHARS."""
    line = " ".join(text[: 4 * MAX_ATTRIBUTE_CHARS].split())
    if len(line) > MAX_ATTRIBUTE_CHARS:
        line = line[: MAX_ATTRIBUTE_CHARS - 1] + "\u2026"
    return quote(line).replace('"', "&quot;").replace("\n", " ").replace("\uff02", "&quot;")


def defuse(text: str) -> str:
    """`text` for a message of its own: as it is, but for control tokens of chat templates and our own delimiter."""
    return _BRACKET_TOKEN.sub("&#91;", _ANGLE_TOKEN.sub("&lt;", printable(text)))
