"""Dialogues that others wrote down, as turns for a memory: LoCoMo's JSON, and lines of "role: text"."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

Entry = tuple[str, str, str | None, datetime | None, str | None]
"""Role, text, session, time, source_id: what `DialogueMemory.add_all` takes."""

_ROLE = re.compile(r"([^\s:][^:\n]{0,39}):(?:[ \t]+|$)")
_MONTHS = (
    "january february march april may june july august september october november december".split()
)  # not strptime: it reads the names of the user's language only
_LOCOMO_TIME = re.compile(r"(\d{1,2}):(\d\d) (am|pm) on (\d{1,2}) ([A-Za-z]+),? (\d{4})")


def guess_format(text: str) -> str:
    """ "jsonl" (an export of ours), "locomo" or "lines", by how a file begins.

    >>> guess_format("user: hello")
    'lines'
    """
    start = text.lstrip("\ufeff \t\r\n")
    if start.startswith("["):
        return "locomo"
    if not start.startswith("{"):
        return "lines"
    try:
        json.loads(start.split("\n", 1)[0])
    except json.JSONDecodeError:
        return "locomo"  # one object over many lines
    return "locomo" if '"conversation"' in start.split("\n", 1)[0] else "jsonl"


def parse_lines(text: str, *, session: str | None = None) -> list[Entry]:
    """Turns of lines like "Ada: hello". A line without a name in front goes on with the turn above it.

    A name has at most 40 characters, and a colon and a space (or the line's end) behind it. Empty lines between turns
    mean nothing, within a turn they are kept.
    Raises: ValueError with the line's number if the first line has no name.
    """
    turns: list[tuple[str, list[str]]] = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if match := _ROLE.match(line):
            turns.append((match[1].strip(), [line[match.end() :]]))
        elif turns:
            turns[-1][1].append(line)
        elif line.strip():
            raise ValueError(f'line {number} should begin with who speaks, like "user: hello"; got {line[:60]!r}')
    return [(role, "\n".join(lines).strip(), session, None, None) for role, lines in turns]


def parse_locomo(text: str, *, conversation: str | None = None) -> list[Entry]:
    """Turns of a LoCoMo file, all of its conversations or the one named; sessions and times as the file says, in UTC.

    The speaker is the role. A picture's caption is added to the text: "[shows a picture: ...]". The source_id is the
    file's dia_id ("D1:3"), with the conversation's name in front ("conv-26:D1:3") if several are read; so is a session.
    Raises: ValueError that names the place and what is wrong with it.
    """
    entries: list[Entry] = []
    for name, prefix, sample in locomo_samples(text, conversation):
        entries += _conversation(sample["conversation"], f"conversation {name}", prefix)
    return entries


def locomo_samples(text: str, conversation: str | None = None) -> list[tuple[str, str, dict[str, Any]]]:
    """Conversations of a LoCoMo file, or the one named: its name, what its turns' names begin with, the object itself.

    Raises: ValueError that names the place and what is wrong with it.
    """
    try:
        loaded = json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise ValueError(f"expected LoCoMo's JSON; got something else at line {error.lineno}: {error.msg}") from error
    samples = loaded if isinstance(loaded, list) else [loaded]
    names = []
    for position, sample in enumerate(samples):
        if not isinstance(sample, dict) or not isinstance(sample.get("conversation"), dict):
            raise ValueError(f'expected LoCoMo\'s JSON, objects with a "conversation"; item {position} has none')
        names.append(str(sample.get("sample_id", position + 1)))
    if conversation is not None and conversation not in names:
        raise ValueError(f"there is no conversation {conversation!r}; there are {', '.join(names)}")
    wanted = [pair for pair in zip(names, samples, strict=True) if conversation in (None, pair[0])]
    return [(name, f"{name}:" if len(wanted) > 1 else "", sample) for name, sample in wanted]


def as_jsonl(entries: Iterable[Entry]) -> list[bytes]:
    """Lines of a plain dialogue, which `DialogueMemory.import_` reads: repeating it adds nothing twice."""
    lines = []
    for role, text, session, time, source_id in entries:
        line = {"role": role, "text": text, "session": session, "source_id": source_id}
        line["time"] = None if time is None else time.isoformat()
        lines.append(json.dumps({name: value for name, value in line.items() if value is not None}).encode())
    return lines


def _conversation(conversation: dict[str, Any], where: str, prefix: str) -> Iterator[Entry]:
    numbers = sorted(int(match[1]) for key in conversation if (match := re.fullmatch(r"session_(\d+)", key)))
    for number in numbers:
        session = f"session_{number}"
        turns = conversation[session]
        if not isinstance(turns, list):
            raise ValueError(f"{session} of {where} should be a list of turns; got {type(turns).__name__}")
        start = _locomo_time(conversation.get(f"{session}_date_time"), f"{session} of {where}") if turns else None
        for position, turn in enumerate(turns):
            if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("speaker", "text")):
                raise ValueError(f'turn {position + 1} of {session} of {where} needs "speaker" and "text"')
            text = str(turn["text"])
            if caption := turn.get("blip_caption"):
                text = f"{text} [shows a picture: {caption}]".strip()
            time = None if start is None else start + timedelta(seconds=position)
            source_id = f"{prefix}{turn.get('dia_id', f'D{number}:{position + 1}')}"
            yield turn["speaker"], text, f"{prefix}{session}", time, source_id


def _locomo_time(value: object, where: str) -> datetime | None:
    if value is None:
        return None
    match = _LOCOMO_TIME.fullmatch(str(value).strip())
    if match is None or match[5].lower() not in _MONTHS:
        raise ValueError(f'the time of {where} should look like "1:56 pm on 8 May, 2023"; got {value!r}')
    hour = int(match[1]) % 12 + (12 if match[3] == "pm" else 0)
    return datetime(int(match[6]), _MONTHS.index(match[5].lower()) + 1, int(match[4]), hour, int(match[2]), tzinfo=UTC)
