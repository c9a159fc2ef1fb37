"""What every store checks before it writes, so that all of them refuse the same input with the same words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import ArrayLike

from memarch.dialogue.records import NewTurn

from .base import Floats, Ids

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNIT_TOLERANCE = 1e-3


def check_user(user: str) -> str:
    """Any text but the empty one names a user."""
    if not isinstance(user, str) or not user:
        raise ValueError(f"a user's name must be a non-empty string; got {user!r}")
    return user


def check_name(what: str, value: str, *, empty: bool = True) -> None:
    """Names (session, role, source_id, ...) are ordinary Unicode: no NUL, no lone surrogate. Texts may hold both."""
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a string; got {value!r}")
    if not value and not empty:
        raise ValueError(f"{what} must not be empty")
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError(f"{what} may hold neither NUL nor lone surrogates; got {value!r}: clean it before adding")


def check_turns(turns: Sequence[NewTurn]) -> None:
    """Names, times with a zone, spans that cover the text, and no source_id twice among these."""
    seen: set[str] = set()
    for turn in turns:
        check_name("session", turn.session)
        check_name("role", turn.role)
        check_name("source_id", turn.source_id, empty=False)
        if not isinstance(turn.text, str):
            raise ValueError(f"text must be a string; got {turn.text!r} in {turn.source_id!r}")
        if turn.source_id in seen:
            raise ValueError(f"source_id must be unique per user; got {turn.source_id!r} twice")
        seen.add(turn.source_id)
        to_microseconds(turn.time)
        if problem := span_problem(turn.spans, len(turn.text)):
            raise ValueError(f"spans of {turn.source_id!r} must cover its text: {problem}")


def span_problem(spans: Sequence[tuple[int, int]], length: int) -> str | None:
    """Why these character ranges do not cover a text of this length; None where they do. They may overlap."""
    if not spans:
        return "expected at least one span; got none"
    reach = 0
    for start, stop in spans:
        if not 0 <= start <= stop <= length:
            return f"expected ranges within 0..{length}; got {(start, stop)}"
        if start > reach:
            return f"characters {reach}..{start} are in no span"
        reach = max(reach, stop)
    return None if reach == length else f"characters {reach}..{length} are in no span"


def to_microseconds(time: datetime) -> int:
    """Microseconds since 1970 in UTC. ValueError for a time without a zone or outside what UTC can hold."""
    if time.tzinfo is None or time.utcoffset() is None:
        raise ValueError(f"expected a time with its zone, like datetime.now(UTC); got {time!r}")
    try:
        return (time.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
    except OverflowError as error:
        raise ValueError(f"expected a time that UTC can hold; got {time!r}") from error


def from_microseconds(value: int) -> datetime:
    """The inverse of `to_microseconds`, in UTC."""
    return _EPOCH + timedelta(microseconds=value)


def check_embedder(name: str, dim: int) -> None:
    """A model has a name and at least one dimension."""
    check_name("embedder", name, empty=False)
    if not isinstance(dim, int) or dim < 1:
        raise ValueError(f"an embedder's dim must be at least 1; got {dim!r}")


def check_chunks(chunks: ArrayLike) -> Ids:
    """Chunk numbers as `[n]` int64, each once."""
    array = np.asarray(chunks)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"expected chunk numbers as integers [n]; got {array.dtype} of shape {array.shape}")
    if len(np.unique(array)) != len(array):
        raise ValueError("expected each chunk number once; got some twice")
    return array.astype(np.int64)


def check_vectors(chunks: ArrayLike, vectors: ArrayLike, dim: int) -> tuple[Ids, Floats]:
    """Numbers `[n]` and finite unit vectors `[n, dim]` as float32."""
    numbers = check_chunks(chunks)
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.shape != (len(numbers), dim):
        raise ValueError(f"expected vectors [{len(numbers)}, {dim}]; got {list(array.shape)}")
    bad = ~(np.abs(np.linalg.norm(array, axis=1) - 1) <= UNIT_TOLERANCE)
    if bad.any():
        raise ValueError(
            f"expected unit vectors; {int(bad.sum())} are not (chunk {int(numbers[bad][0])} first): normalise"
        )
    return numbers, array


def check_query(query: ArrayLike, k: int, dim: int) -> Floats:
    """A finite query `[dim]` as float32, and k of at least 1."""
    array = np.ascontiguousarray(query, dtype=np.float32)
    if array.shape != (dim,):
        raise ValueError(f"expected a query of shape [{dim}]; got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError("expected a finite query; got NaN or infinity")
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}")
    return array


def encode_text(text: str) -> bytes:
    """UTF-8 that also carries lone surrogates and NUL: any Python string comes back as it was."""
    return text.encode("utf-8", "surrogatepass")


def decode_text(data: bytes) -> str:
    """The inverse of `encode_text`."""
    return data.decode("utf-8", "surrogatepass")
