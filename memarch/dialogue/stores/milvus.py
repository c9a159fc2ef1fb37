"""Nearest neighbours in Milvus: the engine for memories that outgrow one machine.

`MilvusIndex` is a `VectorIndex`, a cache beside the records (SQLite or PostgreSQL), which stay the only truth: Milvus
has no transactions. It holds vectors and chunk numbers and never a word of text; users appear as a hash of their name.

    store = open_store("postgresql://db/memories", user="ada", vectors="http://user:password@milvus:19530")

One collection a dimension (`memarch_384`) holds all users. The partition key is the user, each search filters by the
user inside the engine, so a small memory beside a large one is found in full, and the index is FLAT: exact. For users
with millions of chunks make the collection yourself, before its first use, with the same fields and another index.

What an erasure guarantees. On Milvus Lite (a path ending in .db): the collections are rewritten, and no file below the
path holds a byte of an erased vector when `erase` returns; the time grows with all users' vectors together. On a
server: the vector is out of every search at once, and a compaction is run to its end, which leaves it out of the new
segments where Milvus chooses to rewrite them; Milvus deletes the old segments later (`dataCoord.gc.dropTolerance`,
hours by default), and its message queue and backups keep their own time. That part is the operator's.

Milvus Lite is for trying out and for tests: one process, and 10,000 new vectors take about a second to index.
"""

from __future__ import annotations

import hashlib
import time

import numpy as np

from memarch.dialogue.errors import StoreUnavailable

from ._checks import check_chunks, check_query, check_user, check_vectors, encode_text
from ._milvus_client import FIELDS, TIMEOUT_SECONDS, MilvusConnection
from .base import Floats, Ids

# The most that Milvus returns for one search, and small enough requests for its default limit of 64 MB.
MAX_HITS = 16_384
BATCH_FLOATS = 1_000_000
COMPACTION_SECONDS = 300.0


class MilvusIndex:
    """Unit vectors `[n, dim]` of one user's chunks, in a Milvus collection shared by all users.

    uri: of a server ("http://user:password@host:19530", or with a token), or a path ending in .db for Milvus Lite.
    model: the embedder's name; vectors of the user from another model are removed when the index opens. collection:
    prefix of the collections' names.

    Raises: ValueError for wrong arguments or shapes; StoreUnavailable if a package is missing or the server is away.
    """

    def __init__(
        self, uri: str, *, user: str, dim: int, model: str, collection: str = "memarch", token: str | None = None
    ) -> None:
        if dim < 2:  # Milvus' own limit
            raise ValueError(f"expected dim of at least 2, got {dim}")
        self.dim = dim
        self.model = model
        self._prefix = collection
        self._name = f"{collection}_{dim}"
        # 128 bits of a hash: a name of any length and script becomes a fixed key, and Milvus learns no names.
        self._owner = hashlib.sha256(encode_text(check_user(user))).hexdigest()[:32]
        self._unsaved = 0
        self._connection = MilvusConnection(uri, token=token)
        self._client = self._connection.client
        self.location = self._connection.shown
        try:
            with self._connection.guard():
                self._connection.ensure(self._name, dim)
                self._drop_other_models()
        except StoreUnavailable:
            self._connection.close()
            raise

    def _where(self, condition: str = "chunk >= 0") -> str:
        return f'owner == "{self._owner}" and {condition}'

    def _drop_other_models(self) -> None:
        """Vectors of a former model would only be personal data that nothing serves."""
        for name in self._connection.collections(self._prefix):
            if name == self._name:
                state = self._state()
                if state is None or state[1] == self._model_key():
                    continue
            else:
                self._connection.ensure(name, int(name.rsplit("_", 1)[1]))
            self._client.delete(name, filter=self._where("chunk >= -1"), timeout=TIMEOUT_SECONDS)

    def _model_key(self) -> str:
        return hashlib.sha256(encode_text(self.model)).hexdigest()

    def _state(self) -> tuple[int, str] | None:
        rows = self._client.query(
            self._name, filter=self._where("chunk == -1"), output_fields=["state"], timeout=TIMEOUT_SECONDS
        )
        if not rows:
            return None
        generation, model = rows[0]["state"].split(" ", 1)
        return int(generation), model

    def _upsert(self, chunks: Ids, vectors: Floats, state: str = "") -> None:
        values = zip([int(chunk) for chunk in chunks], vectors, strict=True)
        rows = [
            dict(zip(FIELDS, (f"{self._owner}:{chunk}", self._owner, chunk, state, vector), strict=True))
            for chunk, vector in values
        ]
        self._client.upsert(self._name, rows, timeout=TIMEOUT_SECONDS)

    def generation(self) -> int | None:
        """The generation of the last `flush`, by which a stale or emptied index shows; None if there was none."""
        with self._connection.guard():
            state = self._state()
        return state[0] if state is not None and state[1] == self._model_key() else None

    def count(self) -> int:
        """How many chunks it holds."""
        with self._connection.guard():
            rows = self._client.query(
                self._name, filter=self._where(), output_fields=["count(*)"], timeout=TIMEOUT_SECONDS
            )
        return int(rows[0]["count(*)"])

    def add(self, chunks: Ids, vectors: Floats) -> None:
        """Insert or replace; vectors `[n, dim]`, unit length."""
        chunks, vectors = check_vectors(chunks, vectors, self.dim)
        step = max(1, BATCH_FLOATS // self.dim)
        with self._connection.guard():
            for start in range(0, len(chunks), step):
                self._upsert(chunks[start : start + step], vectors[start : start + step])
        self._unsaved += len(chunks)

    def remove(self, chunks: Ids) -> None:
        """Forget these; unknown numbers are ignored."""
        chunks = check_chunks(chunks)
        with self._connection.guard():
            for start in range(0, len(chunks), MAX_HITS):
                ids = [f"{self._owner}:{chunk}" for chunk in chunks[start : start + MAX_HITS]]
                self._client.delete(self._name, ids=ids, timeout=TIMEOUT_SECONDS)
        self._unsaved += len(chunks)

    def search(self, query: Floats, k: int) -> tuple[Ids, Floats]:
        """The k chunks nearest to `query` `[dim]`, best first, and their cosines; all where there are fewer."""
        query = check_query(query, k, self.dim)
        if k > MAX_HITS:
            chunks, scores = self._score_all(query)
        else:
            with self._connection.guard():
                (hits,) = self._client.search(
                    self._name,
                    data=[query],
                    anns_field="vector",
                    filter=self._where(),
                    limit=k,
                    output_fields=["chunk"],
                    timeout=TIMEOUT_SECONDS,
                )
            chunks = np.array([hit["entity"]["chunk"] for hit in hits], np.int64)
            scores = np.array([hit["distance"] for hit in hits], np.float32)
        order = np.lexsort((chunks, -scores))[:k]
        return chunks[order], scores[order]

    def _score_all(self, query: Floats) -> tuple[Ids, Floats]:
        chunks: list[int] = []
        scores: list[Floats] = []
        with self._connection.guard():
            for page in self._connection.rows(self._name, self._where(), ["chunk", "vector"]):
                chunks += [row["chunk"] for row in page]
                scores.append(np.array([row["vector"] for row in page], np.float32) @ query)
        return np.array(chunks, np.int64), np.concatenate([np.empty(0, np.float32), *scores])

    def ids(self) -> Ids:
        """All chunk numbers it holds, ascending."""
        with self._connection.guard():
            pages = self._connection.rows(self._name, self._where(), ["chunk"])
            return np.sort(np.array([row["chunk"] for page in pages for row in page], np.int64))

    def flush(self, generation: int) -> None:
        """Note that the index holds this generation of the records.

        What was added is durable before. Only Milvus Lite is told to write its segments, since it answers slowly
        until then; a server seals them by itself and limits how often it may be asked.
        """
        marker = np.eye(1, self.dim, dtype=np.float32)
        with self._connection.guard():
            self._upsert(np.array([-1]), marker, f"{generation} {self._model_key()}")
            if self._connection.lite and self._unsaved:
                self._client.flush(self._name, timeout=TIMEOUT_SECONDS)
        self._unsaved = 0

    def erase(self) -> tuple[str, ...]:
        """Take removed vectors out of the files as far as the engine lets us (see above); the rewritten collections."""
        with self._connection.guard():
            names = self._connection.collections(self._prefix)
            for name in names:
                self._connection.ensure(name, int(name.rsplit("_", 1)[1]))
                if self._connection.lite:
                    self._connection.rewrite(name, int(name.rsplit("_", 1)[1]))
                else:
                    self._compact(name)
        return tuple(names)

    def _compact(self, name: str) -> None:
        self._client.flush(name, timeout=TIMEOUT_SECONDS)
        job = self._client.compact(name, timeout=TIMEOUT_SECONDS)
        end = time.monotonic() + COMPACTION_SECONDS
        while self._client.get_compaction_state(job, timeout=TIMEOUT_SECONDS) == "Executing":
            if time.monotonic() > end:
                raise StoreUnavailable(
                    f"expected Milvus to compact {name!r} within {COMPACTION_SECONDS:.0f} s, and it still does: the "
                    "vectors are out of every search; erase again later to see it done"
                )
            time.sleep(0.2)

    def erase_user(self) -> None:
        """Remove all rows of this user, the note of the generation too; `erase` then takes them out of the files."""
        with self._connection.guard():
            self._client.delete(self._name, filter=self._where("chunk >= -1"), timeout=TIMEOUT_SECONDS)

    def close(self) -> None:
        """Release the connection; Milvus Lite stops with its last index. Closing twice is allowed."""
        self._connection.close()
