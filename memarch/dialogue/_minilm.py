"""MiniLM (a BERT of six layers) in plain torch: the same vectors as sentence-transformers gives, seconds sooner.

Importing sentence-transformers takes longer than embedding a few hundred texts, and every `memarch memory search` is a
new process. Only for the default model, whose files are known; anything else goes through sentence-transformers.
B texts, T tokens, H heads, D width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional


class MiniLM:
    """Has the few methods of a SentenceTransformer that `memarch.dialogue.embedders` uses.

    Raises: OSError, KeyError, ValueError if files are missing or are not those of a BERT that pools by the mean.
    """

    def __init__(self, folder: Path, *, device: str | None = None) -> None:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        expected = ("bert", "gelu", "absolute")
        got = tuple(config.get(key) for key in ("model_type", "hidden_act", "position_embedding_type"))
        if got != expected:
            raise ValueError(f"expected a model of {expected}; got {got}")
        self._heads = int(config["num_attention_heads"])
        self._layers = int(config["num_hidden_layers"])
        self._eps = float(config["layer_norm_eps"])
        self._dim = int(config["hidden_size"])
        limits = json.loads((folder / "sentence_bert_config.json").read_text("utf-8"))
        self.max_seq_length = int(limits["max_seq_length"])
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._weights = load_file(folder / "model.safetensors", device=str(self.device))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(self.max_seq_length)
        self._tokenizer.no_padding()

    def get_embedding_dimension(self) -> int:
        """Width of the vectors."""
        return self._dim

    def encode_document(
        self, texts: Sequence[str], *, batch_size: int, show_progress_bar: bool, convert_to_numpy: bool
    ) -> np.ndarray:
        """Unit vectors `[n, D]` in the order of `texts`; batches hold texts of similar length."""
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]), reverse=True)
        vectors = np.empty((len(encoded), self._dim), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                vectors[rows] = self._embed([encoded[row] for row in rows]).float().cpu().numpy()
        return vectors

    encode_query = encode_document

    def _embed(self, batch: list[list[int]]) -> Tensor:
        """Token ids of B texts -> `[B, D]`."""
        length = len(batch[0])
        ids = torch.tensor([row + [0] * (length - len(row)) for row in batch], device=self.device)
        lengths = torch.tensor([len(row) for row in batch], device=self.device)
        mask = torch.arange(length, device=self.device) < lengths[:, None]
        name = "embeddings"
        x = self._weights[f"{name}.word_embeddings.weight"][ids] + (
            self._weights[f"{name}.position_embeddings.weight"][:length]
            + self._weights[f"{name}.token_type_embeddings.weight"][0]
        )
        x = self._norm(x, f"{name}.LayerNorm")
        for layer in range(self._layers):
            x = self._layer(x, mask, f"encoder.layer.{layer}")
        pooled = (x * mask[..., None]).sum(1) / lengths[:, None]
        return functional.normalize(pooled, dim=-1)

    def _layer(self, x: Tensor, mask: Tensor, name: str) -> Tensor:
        """One block with its norms after the residuals. x `[B, T, D]`, mask `[B, T]`."""
        query, key, value = (
            self._linear(x, f"{name}.attention.self.{part}").unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        mixed = self._linear(mixed.transpose(1, 2).flatten(2), f"{name}.attention.output.dense")
        x = self._norm(x + mixed, f"{name}.attention.output.LayerNorm")
        inner = functional.gelu(self._linear(x, f"{name}.intermediate.dense"))
        return self._norm(x + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return functional.layer_norm(x, (self._dim,), weight, bias, self._eps)
