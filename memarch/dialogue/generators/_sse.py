"""Read what OpenAI-compatible servers stream: server-sent events, each a JSON object with a piece of the answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from memarch.dialogue.errors import BackendDown, GeneratorError

_MAX_LINE_BYTES = 1 << 20


def answer_pieces(lines: Iterable[bytes], where: str) -> Iterator[str]:
    """The texts of a stream's events up to its end.

    Raises: GeneratorError for what is no such stream or reports an error; BackendDown if it breaks off.
    """
    finished = False
    for line in lines:
        if len(line) > _MAX_LINE_BYTES:
            raise GeneratorError(f"{where} sent a line of more than {_MAX_LINE_BYTES} bytes: is this a chat server?")
        field, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
        if field != "data":
            continue  # comments, ids, blank lines
        if value.strip() == "[DONE]":
            return
        event = parse(value, where)
        text, ended = piece_of(event, where, key="delta")
        finished = finished or ended
        if text:
            yield text
    if not finished:
        raise BackendDown(f"{where} broke off in the middle of the answer: ask again")


def parse(text: str, where: str) -> dict[str, Any]:
    """A JSON object that is no error report."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise GeneratorError(f"{where} should send JSON objects as OpenAI's API does; got {text.strip()[:80]!r}")
    if value.get("error"):
        raise GeneratorError(f"{where} reports: {error_text(value)}")
    return value


def piece_of(event: dict[str, Any], where: str, *, key: str) -> tuple[str, bool]:
    """The text in an event's first choice, under "delta" or "message", and whether it is the last one."""
    choices = event.get("choices") or []
    if not choices:
        return "", False  # usage, keep-alive
    try:
        content = (choices[0].get(key) or {}).get("content")
        return ("" if content is None else str(content)), choices[0].get("finish_reason") is not None
    except (AttributeError, KeyError, TypeError) as error:
        raise GeneratorError(f"{where} should send chat completions; got {str(event)[:80]}") from error


def error_text(value: object) -> str:
    """The message inside an error report of any of the usual forms."""
    while isinstance(value, dict):
        value = value.get("error") or value.get("message") or value.get("detail") or str(value)
    return " ".join(str(value).split())[:300]
