"""Chunks: they cover the text exactly, fit, and end where a reader would pause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memarch.dialogue.chunking import DEFAULT_MAX_CHARS, spans


def pieces(text: str, max_chars: int) -> list[str]:
    return [text[start:end] for start, end in spans(text, max_chars=max_chars)]


@given(
    st.text(alphabet=st.sampled_from("ab .!?\n\t\u3002\u0301\u200d\U0001f600\x00\ud800"), max_size=200),
    st.integers(8, 40),
)
def test_chunks_cover_the_text_exactly_and_fit(text: str, max_chars: int) -> None:
    found = spans(text, max_chars=max_chars)
    assert found[0][0] == 0 and found[-1][1] == len(text)
    assert all(left[1] == right[0] for left, right in zip(found, found[1:], strict=False))
    assert all(0 < end - start <= max_chars for start, end in found) or text == ""


def test_short_and_empty_turns_are_one_chunk() -> None:
    assert spans("") == ((0, 0),)
    assert spans("Hello. How are you?") == ((0, 19),)
    assert spans("x" * DEFAULT_MAX_CHARS) == ((0, DEFAULT_MAX_CHARS),)
    assert len(spans("x" * (DEFAULT_MAX_CHARS + 1))) == 2


def test_paragraphs_go_before_sentences_before_words() -> None:
    assert pieces("One two three.\n\nFour. Five six seven.", 24) == ["One two three.\n\n", "Four. Five six seven."]
    assert pieces("One two three. Four five six", 24) == ["One two three. ", "Four five six"]
    assert pieces("One two three four five six", 24) == ["One two three four five ", "six"]
    assert pieces("about 3.1415926535 metres", 16) == ["about ", "3.1415926535 ", "metres"]
    assert pieces("今日は晴れ。明日は雨。", 8) == ["今日は晴れ。", "明日は雨。"]


def test_a_text_without_spaces_is_cut_between_whole_characters() -> None:
    assert pieces("a" * 20, 8) == ["a" * 8, "a" * 8, "a" * 4]
    assert pieces("abcdefge\u0301fgh", 8) == ["abcdefg", "e\u0301fgh"]
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert pieces("abcdef" + family, 8) == ["abcdef", family]
    assert pieces("\u0301" * 20, 8) == ["\u0301" * 8, "\u0301" * 8, "\u0301" * 4]


def test_a_megabyte_is_many_chunks() -> None:
    for text in ("word " * 200_000, "x" * 1_000_000, "\n" * 1_000_000, "One sentence. " * 72_000):
        found = spans(text)
        assert len(text) / DEFAULT_MAX_CHARS <= len(found) <= 2 * len(text) / DEFAULT_MAX_CHARS + 1


def test_too_little_room_is_refused() -> None:
    with pytest.raises(ValueError, match="max_chars must be at least 8; got 7"):
        spans("text", max_chars=7)
