"""Nearest neighbours with FAISS, in memory, saved as one file that is never trusted.

Two kinds: exact, or of a quarter of its size with 8 bits a number (SQ8), the answers of which are to be ranked again.

The file is what `faiss.write_index` writes (FAISS ignores what follows), then a JSON footer with the generation of the
records, count, dim, model and a checksum, its length, and a magic word. It is read only if all of these fit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from memarch.dialogue.errors import StoreUnavailable

from ._checks import check_chunks, check_query, check_vectors
from .base import Floats, Ids

_MAGIC = b"MEMARCH1"
_BLOCK_BYTES = 2**20
FLAT, SQ8 = "Flat", "SQ8"


class FaissIndex:
    """`IDMap2,Flat` by inner product: 0.3 ms for 10k vectors of 384, 9 ms for 100k on one thread.

    model: name of the embedder, kept in the file. path: where `flush` saves it; None keeps it in memory only.
    sample: some vectors `[n, dim]` make it `IDMap2,SQ8` with a range for each dimension taken from them.
    Raises: StoreUnavailable if faiss is not installed, or the file cannot be written (the old one is then intact).
    """

    def __init__(self, dim: int, *, model: str = "", path: Path | None = None, sample: Floats | None = None) -> None:
        faiss = _faiss()
        self.dim, self.model, self.path = dim, model, path
        self.kind = FLAT if sample is None else SQ8
        self._index: Any = faiss.index_factory(dim, f"IDMap2,{self.kind}", faiss.METRIC_INNER_PRODUCT)
        if sample is not None:
            self._index.train(sample)
        self._held: set[int] = set()
        self._saved_generation: int | None = None

    @classmethod
    def load(
        cls, path: Path, *, dim: int, model: str, generation: int, count: int, kinds: Sequence[str] = (FLAT,)
    ) -> FaissIndex | None:
        """The saved index, if it is whole and exactly this one; None where it must be rebuilt from the records."""
        try:
            with path.open("rb") as file:
                footer = _read_footer(file)
                expected = {"dim": dim, "model": model, "generation": generation, "count": count}
                if footer is None or any(footer.get(name) != value for name, value in expected.items()):
                    return None
                kind = str(footer.get("kind"))
                if kind not in kinds:
                    return None
                if _checksum(file, footer["size"]) != footer["sha256"]:
                    return None
                file.seek(0)
                saved = _faiss().read_index(_faiss().PyCallbackIOReader(file.read, _BLOCK_BYTES))
        except (OSError, RuntimeError):  # RuntimeError: FAISS refuses the file
            return None
        index = cls(dim, model=model, path=path)
        numbers = _faiss().vector_to_array(saved.id_map)
        if saved.d != dim or len(numbers) != count:
            return None
        index._index, index._held, index._saved_generation = saved, set(numbers.tolist()), generation
        index.kind = kind
        return index

    @staticmethod
    def file_problem(path: Path) -> str | None:
        """What is wrong with a saved file; None if it is whole or missing."""
        try:
            with path.open("rb") as file:
                if (footer := _read_footer(file)) is None:
                    return "its footer is missing or damaged"
                return None if _checksum(file, footer["size"]) == footer["sha256"] else "its checksum does not fit"
        except FileNotFoundError:
            return None
        except OSError as error:
            return str(error)

    def __len__(self) -> int:
        """How many vectors it holds."""
        return len(self._held)

    def add(self, chunks: Ids, vectors: Floats) -> None:
        """Insert or replace; vectors `[n, dim]`, unit length."""
        chunks, vectors = check_vectors(chunks, vectors, self.dim)
        if len(chunks) == 0:
            return
        self._saved_generation = None
        self.remove(np.array([chunk for chunk in chunks.tolist() if chunk in self._held], dtype=np.int64))
        self._index.add_with_ids(vectors, chunks)
        self._held.update(chunks.tolist())

    def remove(self, chunks: Ids) -> None:
        """Forget these; unknown numbers are ignored."""
        known = self._held.intersection(check_chunks(chunks).tolist())
        if known:
            self._saved_generation = None
            self._index.remove_ids(np.fromiter(known, dtype=np.int64, count=len(known)))
            self._held -= known

    def search(self, query: Floats, k: int) -> tuple[Ids, Floats]:
        """The k chunks nearest to `query` `[dim]`, best first, and their cosines; all where there are fewer.

        Of the kind SQ8 both are approximate.
        """
        query = check_query(query, k, self.dim)
        if not self._held:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        with _one_thread():
            cosines, chunks = self._index.search(query[None], min(k, len(self._held)))
        return chunks[0], cosines[0]

    def ids(self) -> Ids:
        """All chunk numbers it holds, ascending."""
        return np.array(sorted(self._held), dtype=np.int64)

    def flush(self, generation: int) -> None:
        """Save it as of this generation of the records, if it changed: into a new file that replaces the old one."""
        if self.path is None or self._saved_generation == generation:
            return
        if not self._held:
            self.erase()
        else:
            try:
                _replace(self.path, lambda file: self._write(file, generation))
            except (OSError, RuntimeError) as error:  # RuntimeError: FAISS could not write
                raise StoreUnavailable(
                    f"{self.path} could not be saved ({error}): make room or make it writable. "
                    "It is a cache, the records are safe"
                ) from error
        self._saved_generation = generation

    def _write(self, file: BinaryIO, generation: int) -> None:
        digest, size = hashlib.sha256(), 0

        def write(block: bytes) -> None:
            nonlocal size
            digest.update(block)
            size += file.write(block)

        writer = _faiss().PyCallbackIOWriter(write, _BLOCK_BYTES)
        _faiss().write_index(self._index, writer)
        del writer  # hands over what it still buffers
        footer = {
            "generation": generation,
            "count": len(self._held),
            "dim": self.dim,
            "model": self.model,
            "kind": self.kind,
            "size": size,
        }
        data = json.dumps({**footer, "sha256": digest.hexdigest()}).encode()
        file.write(data + len(data).to_bytes(8, "little") + _MAGIC)

    def erase(self) -> tuple[str, ...]:
        """Delete its file and what a crash left of a new one; the next `flush` writes what is alive."""
        self._saved_generation = None
        return () if self.path is None else erase_file(self.path)

    def close(self) -> None:
        """Release the memory."""
        self._index, self._held = None, set()


def erase_file(path: Path) -> tuple[str, ...]:
    """Delete a saved index and its unfinished successor; names of what there was."""
    there = [file for file in (path, temporary(path)) if file.exists()]
    for file in there:
        file.unlink()
    return tuple(file.name for file in there)


def temporary(path: Path) -> Path:
    """Where a file is written before it replaces `path`."""
    return path.with_name(path.name + ".tmp")


def _replace(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a new file, make it durable, and only then give it the name."""
    try:
        with temporary(path).open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary(path).replace(path)
    except BaseException:
        temporary(path).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable; does nothing where directories cannot be opened (Windows)."""
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_footer(file: BinaryIO) -> dict[str, Any] | None:
    end = file.seek(0, os.SEEK_END)
    if end < 16:
        return None
    file.seek(end - 16)
    tail = file.read(16)
    length = int.from_bytes(tail[:8], "little")
    if tail[8:] != _MAGIC or length > end - 16:
        return None
    file.seek(end - 16 - length)
    try:
        footer = json.loads(file.read(length))
    except ValueError:
        return None
    fits = isinstance(footer, dict) and footer.get("size") == end - 16 - length
    return footer if fits and isinstance(footer.get("sha256"), str) else None


def _checksum(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (block := file.read(min(size, _BLOCK_BYTES))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise StoreUnavailable("vector search needs faiss: pip install 'memarch[chat]'") from error
    return faiss


@contextmanager
def _one_thread() -> Iterator[None]:
    """FAISS shares queries out among threads. Here is one: waiting for idle threads takes 24 ms on a busy machine."""
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
