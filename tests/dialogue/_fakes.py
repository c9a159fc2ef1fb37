"""An embedder without a model: a text's vector is made of its words, so that texts with common words are near."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from memarch.dialogue.embedders import Floats
from memarch.dialogue.errors import EmbedderError


class FakeEmbedder:
    """Deterministic. `fail`: raise EmbedderError while set; `before`: called with each batch; `num_texts`: embedded."""

    def __init__(self, name: str = "fake", dim: int = 29) -> None:
        self.name, self.dim = name, dim
        self.fail = False
        self.before: Callable[[Sequence[str]], None] = lambda texts: None
        self.num_texts = 0
        self._words: dict[str, NDArray[np.float64]] = {}

    def embed_documents(self, texts: Sequence[str]) -> Floats:
        """Unit vectors `[n, dim]`."""
        if self.fail:
            raise EmbedderError("the fake is down")
        self.before(texts)
        self.num_texts += len(texts)
        return np.stack([self._vector(text) for text in texts])

    def embed_query(self, text: str) -> Floats:
        """The unit vector `[dim]`."""
        if self.fail:
            raise EmbedderError("the fake is down")
        return self._vector(text)

    def _vector(self, text: str) -> Floats:
        total = np.full(self.dim, 1e-3)
        for word in text.lower().split():
            total += self._word(word.strip(".,:!?"))
        return (total / np.linalg.norm(total)).astype(np.float32)

    def _word(self, word: str) -> NDArray[np.float64]:
        if word not in self._words:
            seed = hashlib.sha256(f"{self.name} {word}".encode("utf-8", "surrogatepass")).digest()[:8]
            self._words[word] = np.random.default_rng(int.from_bytes(seed, "big")).standard_normal(self.dim)
        return self._words[word]
