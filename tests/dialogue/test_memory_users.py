"""Ten turns beside another user's hundred thousand: all are found, by their owner only."""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from memarch.dialogue.embedders import Floats
from memarch.dialogue.memory import DialogueMemory
from memarch.dialogue.stores import users

NUM_LARGE, DIM = 100_000, 16
PLACES = ("Lyon", "Porto", "Ghent", "Turin", "Bergen", "Leeds", "Split", "Malmo", "Graz", "Brno")
MINE = [f"Nora hid the {place} letter under a flowerpot" for place in PLACES]


class HashEmbedder:
    """One row of a table for each text: quick, and equal texts are equal."""

    name, dim = "hash", DIM
    _table = np.random.default_rng(0).standard_normal((4096, DIM)).astype(np.float32)

    def embed_documents(self, texts: Sequence[str]) -> Floats:
        """Unit vectors `[n, dim]`."""
        rows: Floats = self._table[[zlib.crc32(text.split(": ", 1)[-1].encode()) % 4096 for text in texts]]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_query(self, text: str) -> Floats:
        """The unit vector `[dim]`."""
        vector: Floats = self.embed_documents([text])[0]
        return vector


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Ada's 100,000 turns speak of the same things as Bo's ten."""
    place = tmp_path_factory.mktemp("memories")
    said = [f"Nora hid the {PLACES[i % 10]} letter number {i} under a flowerpot" for i in range(NUM_LARGE)]
    with DialogueMemory(place, user="ada", embedder=HashEmbedder(), policy=None) as ada:
        ada.add_all([("user", text, None, None, None) for text in said[: NUM_LARGE // 2]])
        with DialogueMemory(place, user="bo", embedder=HashEmbedder(), policy=None) as bo:
            bo.add_all([("user", text, None, None, f"mine {i}") for i, text in enumerate(MINE)])
        ada.add_all([("user", text, None, None, None) for text in said[NUM_LARGE // 2 :]])
        ada.index()
    yield place


@pytest.mark.slow
def test_all_ten_are_found_and_nothing_of_the_other_user(directory: Path) -> None:
    with DialogueMemory(directory, user="bo", embedder=HashEmbedder()) as memory:
        for text in MINE:  # one by one, by words and by meaning
            assert memory.search(text, 1)[0].text == text
        for query in ("flowerpot", MINE[3], "number 77 letter", "Who is Ada?"):
            assert {hit.text for hit in memory.search(query, 50)} <= set(MINE)
        assert {hit.source_id for hit in memory.search("flowerpot", 50)} == {f"mine {i}" for i in range(10)}
        chunks, _ = memory.store.nearest(HashEmbedder().embed_query("anything"), 1000)
        assert sorted(chunks.tolist()) == list(range(1, 11))
        shown = str(memory.compose("flowerpot", budget_tokens=100_000, num_retrieved=100).messages)
        assert "number" not in shown and "number" not in memory.summary()
        assert memory.stats().num_turns == 10


@pytest.mark.slow
def test_the_large_memory_finds_its_own_only(directory: Path) -> None:
    assert users(directory) == ["ada", "bo"]
    with DialogueMemory(directory, user="ada", embedder=HashEmbedder()) as memory:
        assert memory.stats().num_turns == NUM_LARGE
        for query in (MINE[0], "mine 3"):
            hits = memory.search(query, 50)
            assert hits and not {hit.text for hit in hits} & set(MINE)
        assert memory.search("letter number 99123 flowerpot", 1)[0].turn == 99_124
