"""Plain text to train on: a text that ships with Python, or the user's own files, cut into training and validation."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TextSource:
    """A text with where it comes from.

    Attributes:
        text: all of it.
        name: what to call it in a log.
        licence: its licence, or "the user's own" for files.
    """

    text: str
    name: str
    licence: str


def default_text() -> TextSource:
    """The Python language reference that every Python carries (`pydoc_data.topics`): about 0.4 MB of technical English.

    Topics come in alphabetical order; a paragraph that several topics share is kept once, so that validation text does
    not occur in training text. The wording differs a little between Python versions; `name` says which it is.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    paragraphs = []
    for name in sorted(topics):
        for paragraph in topics[name].strip().split("\n\n"):
            if paragraph.strip() and paragraph not in seen:
                seen.add(paragraph)
                paragraphs.append(paragraph.strip("\n"))
    return TextSource(
        text="\n\n".join(paragraphs) + "\n",
        name=f"the Python {platform.python_version()} language reference (pydoc_data.topics)",
        licence="PSF-2.0, Copyright (c) 2001 and later, Python Software Foundation",
    )


def load_text(paths: Sequence[str | Path]) -> TextSource:
    """The UTF-8 text of `paths`, one after the other in the given order.

    Raises:
        OSError: a file is missing, a directory, or unreadable.
        ValueError: no paths, or a file that is empty, binary or not UTF-8; the message names it.
    """
    if not paths:
        raise ValueError("expected at least one text file; got none")
    parts = [_read(Path(path)) for path in paths]
    text = "".join(part if part.endswith("\n") else part + "\n" for part in parts)
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return TextSource(text=text, name=name, licence="the user's own")


def split_text(text: str, *, validation_fraction: float = 0.1) -> tuple[str, str]:
    """Cut `text` into a training part and a validation part: its last fraction by characters, from a line's start.

    Raises:
        ValueError: a fraction outside (0, 1), or a text without a line break to cut at.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction must be between 0 and 1; got {validation_fraction}")
    wanted = int(len(text) * (1 - validation_fraction))
    cut = text.rfind("\n", 0, min(wanted + 1, len(text) - 1)) + 1
    if cut == 0 or cut >= len(text):
        cut = text.find("\n", wanted) + 1
    if cut == 0 or cut >= len(text):
        raise ValueError(
            f"a text of {len(text):,} characters has no line break to cut a validation part at: "
            "give a longer text, or several lines"
        )
    return text[:cut], text[cut:]


def _read(path: Path) -> str:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; expected text files: use {path}/*.txt")
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist; expected a UTF-8 text file") from error
    except OSError as error:
        raise OSError(error.errno, f"cannot read {path}: {error.strerror or error}") from error
    if b"\x00" in raw:
        raise ValueError(f"{path} is a binary file (it has a zero byte); expected UTF-8 text")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start}): convert it, for example with iconv -t UTF-8"
        ) from error
    if not text.strip():
        raise ValueError(f"{path} is empty; expected some text")
    return text.replace("\r\n", "\n")
