"""Text to index terms: Unicode words, case folded, without stop words, stemmed (PyStemmer's Snowball stemmers)."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from importlib.metadata import version
from typing import Any

# The usual English function words; contractions appear without their apostrophe part.
ENGLISH_STOP_WORDS = frozenset(
    """
    a about above after again against ain all am an and any are aren as at be because been before being below between
    both but by can cannot could couldn d did didn do does doesn doing don down during each few for from further had
    hadn has hasn have haven having he her here hers herself him himself his how i if in into is isn it its itself let
    ll m me mightn more most mustn my myself needn no nor not now o of off on once only or other ought our ours
    ourselves out over own re s same shan she should shouldn so some such t than that the their theirs them themselves
    then there these they this those through to too under until up ve very was wasn we were weren what when where which
    while who whom why will with won would wouldn y you your yours yourself yourselves
    """.split()
)

_WORD = re.compile(r"[^\W_]+")
# Scripts written without spaces: overlapping pairs of characters stand for words.
_UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")


class Words:
    """A tokenizer: `Words()("She's painting sunrises")` is `["paint", "sunris"]`.

    language: a Snowball language that PyStemmer knows; None leaves words as they are. stop_words: left out, compared
    before stemming. Raises: ImportError without PyStemmer, ValueError for a language that it does not know.
    """

    def __init__(self, language: str | None = "english", *, stop_words: frozenset[str] = ENGLISH_STOP_WORDS) -> None:
        self._language, self._stop_words = language, stop_words
        self._stemmer: Any = None if language is None else _stemmer(language)

    def __call__(self, text: str) -> list[str]:
        """Terms in the order of the text, with repetitions."""
        stop = self._stop_words
        words = [word for word in _WORD.findall(text.casefold()) if word not in stop]
        if any(not word.isascii() for word in words):
            words = [part for word in words for part in _pairs(word)]
        stemmed: list[str] = self._stemmer.stemWords(words) if self._stemmer else words
        return stemmed

    @property
    def identity(self) -> str:
        """Equal only where the same text gives the same terms: what was indexed with another one must be made anew."""
        stop = hashlib.sha256(" ".join(sorted(self._stop_words)).encode()).hexdigest()[:16]
        stemmer = "none" if self._stemmer is None else f"{self._language} {version('PyStemmer')}"
        return f"1, {stemmer}, stop words {stop}, Unicode {unicodedata.unidata_version}"


def _pairs(word: str) -> list[str]:
    """The word itself; where it has characters of an unspaced script, pairs of those and the rest between them."""
    if not _UNSPACED.search(word):
        return [word]
    parts = [part for part in _UNSPACED.sub(" ", word).split() if part]
    for run in _UNSPACED.findall(word):
        parts += [run[i : i + 2] for i in range(len(run) - 1)] or [run]
    return parts


def _stemmer(language: str) -> Any:
    try:
        import Stemmer
    except ImportError as error:
        raise ImportError("word search needs PyStemmer: pip install 'memarch[chat]'") from error
    if language not in Stemmer.algorithms():
        raise ValueError(f"language must be one of {', '.join(Stemmer.algorithms())}, got {language!r}")
    return Stemmer.Stemmer(language)
