"""MemoryLMConfig: layers of a hybrid, JSON, errors that name the value."""

import json

import pytest

from memarch.models.memory_lm_config import MemoryLMConfig


def test_hybrid_puts_attention_at_every_kth_layer() -> None:
    config = MemoryLMConfig(vocab_size=7, num_layers=7, attention_every=3, window_tokens=8)
    assert config.layer_mixers() == ("yaad", "yaad", "attention", "yaad", "yaad", "attention", "yaad")
    assert MemoryLMConfig(vocab_size=7, num_layers=2, mixer="moneta").layer_mixers() == ("moneta", "moneta")


def test_json_round_trip() -> None:
    config = MemoryLMConfig(vocab_size=7, mixer="attention", window_tokens=5, mlp_dim=9, tie_embeddings=False)
    assert MemoryLMConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be an integer of at least 1; got 0"),
        ({"d_model": "64"}, "d_model must be an integer of at least 1; got '64'"),
        ({"num_layers": True}, "num_layers must be an integer of at least 1; got True"),
        ({"mlp_dim": -3}, "mlp_dim must be .* got -3"),
        ({"d_model": 30, "num_heads": 4}, "divisible by num_heads; got 30 and 4"),
        ({"mixer": "yad"}, "got 'yad'; did you mean 'yaad'"),
        ({"tokenizer": "words"}, "tokenizer must be one of byte, bpe; got 'words'"),
        ({"tie_embeddings": 1}, "tie_embeddings must be true or false; got 1"),
        ({"attention_every": 1, "window_tokens": 4}, "at least 2; got 1 with 'yaad'"),
        ({"attention_every": 2, "window_tokens": 4, "mixer": "attention"}, "got 2 with 'attention'"),
        ({"attention_every": 2}, "attention_every=2 needs window_tokens"),
        ({"window_tokens": 4}, "window_tokens=4 has no effect on 'yaad'"),
    ],
)
def test_bad_values(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryLMConfig(**{"vocab_size": 256, **options})


def test_bad_json_names_the_file_and_the_key() -> None:
    good = MemoryLMConfig(vocab_size=7).to_json()
    for value, message in [
        ({**good, "d_modl": 3}, "conf.json: unknown key 'd_modl'; the keys are .*d_model"),
        ({k: v for k, v in good.items() if k != "mixer"}, "conf.json: key 'mixer' is missing"),
        ({**good, "model_type": "llama"}, "conf.json: model_type must be 'memory_lm'; got 'llama'"),
        ({**good, "num_heads": 3}, "conf.json: d_model must be divisible"),
    ]:
        with pytest.raises(ValueError, match=message):
            MemoryLMConfig.from_json(value, source="conf.json")
