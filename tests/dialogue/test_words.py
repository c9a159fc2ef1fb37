import sys

import pytest

from memarch.dialogue.words import ENGLISH_STOP_WORDS, Words


def test_words_are_folded_filtered_and_stemmed():
    words = Words()
    assert words("She's PAINTING the sunrises, isn't she?") == ["paint", "sunris"]
    assert words("painted") == words("Paints") == ["paint"]
    assert words("who are you") == [] and words("") == []
    assert words("STRASSE") == words("straße")


def test_stop_words_and_language_are_choices():
    assert Words(None, stop_words=frozenset())("The Runners") == ["the", "runners"]
    assert Words("german", stop_words=frozenset({"die"}))("die Häuser") == Words("german")("Haus")
    assert "the" in ENGLISH_STOP_WORDS


def test_unspaced_scripts_become_pairs():
    words = Words()
    assert words("東京タワー") == ["東京", "京タ", "タワ", "ワー"]
    assert words("木") == ["木"]
    assert words("GPU搭載") == ["gpu", "搭載"]


@pytest.mark.parametrize("text", ["\x00", 'a" OR 1=1; --', "NEAR(a, b)*", "\ud800 lone", "﷽ 🦆", "_" * 99])
def test_odd_text_is_only_text(text):
    assert all(word.isalnum() or word.isidentifier() for word in Words()(text))


def test_nul_separates_words():
    assert Words()("duck\x00pond") == ["duck", "pond"]


def test_unknown_language_is_named():
    with pytest.raises(ValueError, match="language must be one of .*english.*got 'klingon'"):
        Words("klingon")


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    with pytest.raises(ImportError, match=r"pip install 'memarch\[chat\]'"):
        Words()


def test_the_identity_tells_tokenizers_apart():
    made = [Words(), Words(None), Words("german"), Words(stop_words=frozenset({"a"}))]
    assert len({words.identity for words in made}) == 4 and Words().identity == made[0].identity
