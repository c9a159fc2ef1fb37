"""The connection to Milvus under `MilvusIndex`: opening, errors, collections, and the rewriting for Milvus Lite."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from memarch.dialogue.errors import StoreUnavailable

TIMEOUT_SECONDS = 60.0
PAGE_ROWS = 4000
FIELDS = ["id", "owner", "chunk", "state", "vector"]

# Milvus Lite serves one process and asks that writes to a collection do not overlap: every call to it takes its turn.
_lite_lock = threading.RLock()
_lite_users: Counter[str] = Counter()


class MilvusConnection:
    """An open client. `lite` tells whether the engine is Milvus Lite, by what the server says of itself.

    Raises: ValueError for a uri of another form; StoreUnavailable if a package or the server is missing.
    """

    def __init__(self, uri: str, *, token: str | None) -> None:
        self.shown = re.sub(r"//[^/@]*@", "//", uri)  # it may hold a password
        self._path: str | None = None
        if not re.match(r"(https?|tcp|unix):", uri):
            if not uri.endswith(".db"):
                raise ValueError(
                    "expected the URI of a Milvus server (http://host:19530) or a Milvus Lite file ending in .db, got "
                    f"{self.shown!r}"
                )
            self._path = os.path.abspath(uri)
        try:
            from pymilvus import MilvusClient

            if self._path is not None:
                import milvus_lite  # noqa: F401
        except ImportError as error:
            raise StoreUnavailable(
                f"Milvus needs the package {error.name!r}, which is missing: pip install 'memarch[milvus]'"
                + (" milvus-lite" if error.name == "milvus_lite" else "")
            ) from error
        self.lite = True  # until the server has said otherwise, take turns
        if self._path is not None:
            Path(self._path).mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.guard():
            self.client: Any = MilvusClient(self._path or uri, token=token or "", timeout=TIMEOUT_SECONDS)
            lite = "lite" in self.client.get_server_version(timeout=TIMEOUT_SECONDS)
            if self._path is not None:
                _lite_users[self._path] += 1
        self.lite = lite
        self._closed = False

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Around every call: one at a time on Milvus Lite, and what fails becomes StoreUnavailable."""
        from grpc import RpcError
        from pymilvus.exceptions import MilvusException

        with _lite_lock if self.lite else nullcontext(), _quiet():
            try:
                yield
            except (MilvusException, RpcError) as error:
                raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        if self._path is not None:
            hint = "Milvus Lite serves one process at a time: close the other one, or move to a Milvus server."
        else:
            hint = "Check that the server runs and that the URI and token are right."
        return StoreUnavailable(
            f"Milvus at {self.shown!r} did not do as asked: {getattr(error, 'message', error)}. {hint} "
            "The records are unharmed; the index is rebuilt from them when it is back."
        )

    def collections(self, prefix: str) -> list[str]:
        """Names of our collections, one a dimension."""
        names = self.client.list_collections(timeout=TIMEOUT_SECONDS)
        return sorted(name for name in names if re.fullmatch(re.escape(prefix) + "_[0-9]+", name))

    def ensure(self, name: str, dim: int) -> None:
        """Create and load this collection; end a rewriting that a crash interrupted."""
        client, spare = self.client, name + "_rewriting"
        if self.lite and client.has_collection(spare):
            if client.has_collection(name):
                client.drop_collection(spare)
            else:  # the old one was dropped last of all, so the spare one is complete
                client.rename_collection(spare, name)
        if not client.has_collection(name, timeout=TIMEOUT_SECONDS):
            self._create(name, dim)
        client.load_collection(name, timeout=TIMEOUT_SECONDS)

    def _create(self, name: str, dim: int) -> None:
        from pymilvus import DataType

        client = self.client
        schema = client.create_schema(auto_id=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("owner", DataType.VARCHAR, max_length=32, is_partition_key=True)
        schema.add_field("chunk", DataType.INT64)
        schema.add_field("state", DataType.VARCHAR, max_length=1024)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        index = client.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="IP")
        client.create_collection(name, schema=schema, consistency_level="Strong", timeout=TIMEOUT_SECONDS)
        # Without rows there is nothing to wait for; pymilvus would sleep half a second all the same.
        client.create_index(name, index, timeout=TIMEOUT_SECONDS, sync=False)
        client.load_collection(name, timeout=TIMEOUT_SECONDS)

    def rows(self, name: str, where: str, fields: list[str]) -> Iterator[list[dict[str, Any]]]:
        """Pages of the rows that match."""
        pages = self.client.query_iterator(
            name, batch_size=PAGE_ROWS, filter=where, output_fields=fields, timeout=TIMEOUT_SECONDS
        )
        try:
            while page := pages.next():
                yield page
        finally:
            pages.close()

    def rewrite(self, name: str, dim: int) -> None:
        """Milvus Lite only: copy the rows that live into a new collection and drop the old one with all its files.

        Lite writes deletions beside the data and merges files when it likes; asked to compact, it does nothing.
        """
        client, spare = self.client, name + "_rewriting"
        if client.has_collection(spare):
            client.drop_collection(spare)
        self._create(spare, dim)
        for page in self.rows(name, "chunk >= -1", FIELDS):
            client.upsert(spare, [{field: row[field] for field in FIELDS} for row in page])
        client.flush(spare)
        client.drop_collection(name)
        client.rename_collection(spare, name)
        client.load_collection(name)

    def close(self) -> None:
        """Let go of the server; the last one out stops Milvus Lite, so that another process may open the file."""
        if self._closed:
            return
        self._closed = True
        with self.guard():
            self.client.close()
            if self._path is None:
                return
            _lite_users[self._path] -= 1
            if _lite_users[self._path] == 0:
                from milvus_lite.server_manager import server_manager_instance

                server_manager_instance.release_server(self._path)


@contextmanager
def _quiet() -> Iterator[None]:
    """pymilvus logs each error that it also raises, with a traceback; Milvus Lite's server logs what it lacks."""
    loggers = [logging.getLogger(name) for name in ("pymilvus", "grpc._server")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
