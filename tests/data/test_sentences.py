"""Sentences and their look-alikes: different where they must be, alike where they must be."""

from __future__ import annotations

import pytest

from memarch.data.sentences import _LEXICON, KINDS, memory_sentences, text_sentences

SYNONYMS = {a: b for pairs in _LEXICON.values() for a, b in pairs}


def test_all_kinds_belong_to_their_sentence():
    drawn = memory_sentences(50, num_others=30, seed=1)
    everything = [*drawn.study, *drawn.novel, *drawn.paraphrase, *drawn.synonym, *drawn.random, *drawn.others]
    assert len(set(everything)) == 5 * 50 + 30
    assert set(drawn.foils()) == set(KINDS)
    for study, paraphrase, synonym, mixed in zip(
        drawn.study, drawn.paraphrase, drawn.synonym, drawn.random, strict=True
    ):
        assert sorted(study) == sorted(mixed) and study != mixed
        assert [SYNONYMS.get(word, word) for word in study] == list(synonym)
        assert {study[1], study[2], study[5], study[6], study[9]} <= set(paraphrase)
        assert "was" in paraphrase and "by" in paraphrase


def test_the_lexicon_holds_pairs_of_different_words_only():
    words = [word for pairs in _LEXICON.values() for pair in pairs for word in pair]
    assert len(words) == len(set(words))
    assert all(len(pair) == 2 for pairs in _LEXICON.values() for pair in pairs)
    assert all(len(pairs) == 16 for pairs in _LEXICON.values())


def test_seeds_and_sizes():
    assert memory_sentences(4, seed=2) == memory_sentences(4, seed=2) != memory_sentences(4, seed=3)
    assert memory_sentences(1).others == []
    with pytest.raises(ValueError, match="num_items must be at least 1 .*; got 0 and 0"):
        memory_sentences(0)


WIKITEXT = """
 = Homarus =

 The lobster is a well @-@ known animal of 2 @.@ 5 kg . It is blue ! Mating occurs in the summer , as everybody knows .
 One of the <unk> is armed with a large pair of claws . Who would have thought that it also swims ? and so on and so on
"""


def test_sentences_of_a_text_are_whole_and_clean():
    drawn = text_sentences(WIKITEXT, 1, num_others=1, num_words=(5, 12))
    said = [" ".join(words) for words in (*drawn.study, *drawn.novel, *drawn.others)]
    assert sorted(said) == [
        "Mating occurs in the summer , as everybody knows .",
        "The lobster is a well-known animal of 2.5 kg .",
        "Who would have thought that it also swims ?",
    ]
    assert list(drawn.foils()) == ["novel", "random"]
    assert sorted(drawn.random[0]) == sorted(drawn.study[0]) and drawn.random != drawn.study
    text = "\n".join(f"This is the sentence with number {i} ." for i in range(30))
    assert text_sentences(text, 5, seed=1) == text_sentences(text, 5, seed=1) != text_sentences(text, 5, seed=2)


def test_a_text_with_too_few_sentences():
    with pytest.raises(ValueError, match=r"7 sentences of 8 to 20 words are needed; the text has 3 different ones"):
        text_sentences(WIKITEXT, 3, num_others=1)
    with pytest.raises(ValueError, match="num_items must be at least 1"):
        text_sentences(WIKITEXT, 0)
