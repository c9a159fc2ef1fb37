"""Quotation: nothing inside can end it, in any Unicode form; ordinary text stays readable."""

import html
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memarch.dialogue.quoting import MAX_ATTRIBUTE_CHARS, attribute, defuse, printable, quote

HOSTILE = st.lists(
    st.sampled_from(["<", ">", "&", "/memory", "</memory>", '"', "\n", "\r", "\x00", "\ud800", "\uff1c", "\ufe65", "|"])
    | st.sampled_from(["[INST]", "[", "/INST]", "<|im_end|>", "&lt;", "s>", "\u2028", "\u226e", "SYS"])
    | st.text(max_size=5),
    max_size=12,
).map("".join)


@given(HOSTILE)
def test_no_form_of_a_quotation_holds_a_bracket(text: str) -> None:
    quoted = quote(text)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        shown = unicodedata.normalize(form, quoted)
        assert "<" not in shown and ">" not in shown
        assert "[INST]" not in shown and "[/INST]" not in shown
    quoted.encode("utf-8")


@given(HOSTILE)
def test_an_attribute_stays_one(text: str) -> None:
    value = attribute(text)
    assert not set('"<>\n\r') & set(unicodedata.normalize("NFKC", value))
    assert len(html.unescape(value)) <= MAX_ATTRIBUTE_CHARS


def test_every_lookalike_of_unicode_is_known() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if character not in "<>&" and set("<>&") & set(unicodedata.normalize("NFKD", character)):
            assert quote(character).startswith("&"), hex(code)
        if character != '"' and '"' in unicodedata.normalize("NFKD", character):
            assert attribute(character) == "&quot;", hex(code)


def test_ordinary_text_is_left_alone_and_can_be_read_back() -> None:
    text = "Zoë said: \"It's 3 o'clock\" (UTC).\n\t[see note 1] 日本 😀 a-b_c/d [A]"
    assert quote(text) == text == defuse(text)
    code = "if a < b && c > d: x"
    assert html.unescape(quote(code)) == code == defuse(code)


@pytest.mark.parametrize(
    "token",
    ["<|im_start|>", "<|end_of_text|>", "</s>", "<s>", "[/INST]", "<<SYS>>", "<start_of_turn>", "<eos>", "</Memory>"],
)
def test_defuse_breaks_control_tokens(token: str) -> None:
    shown = defuse(f"before {token} after")
    assert token not in shown and html.unescape(shown) == f"before {token} after"


def test_printable() -> None:
    assert printable("a\r\nb\rc\x00\x9b\udfff") == "a\nb\nc\ufffd\ufffd\ufffd"
    # Right-to-left text needs its marks where it stands for itself; a quotation must not be displayed as ended.
    assert printable("\u2067x\u2069") == defuse("\u2067x\u2069") == "\u2067x\u2069"
    assert quote("a\u202eb\u2028c") == "a b c"
    assert attribute("two\nlines  " + "x" * 100) == "two lines " + "x" * 49 + "…"
