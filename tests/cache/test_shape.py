from types import SimpleNamespace

import pytest
from transformers import LlamaConfig, Qwen3Config

from memarch.cache import CacheShape


def test_of_configurations():
    llama = LlamaConfig(hidden_size=48, num_hidden_layers=5, num_attention_heads=6, num_key_value_heads=2)
    assert CacheShape.of(llama) == CacheShape(5, 2, 8) and CacheShape.of(llama).entry_dim == 32
    qwen = Qwen3Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=3, head_dim=10)
    assert CacheShape.of(qwen) == CacheShape(2, 3, 10)
    assert CacheShape.of(CacheShape(1, 2, 4)) == CacheShape(1, 2, 4)
    old = SimpleNamespace(num_hidden_layers=2, num_attention_heads=4, hidden_size=16)
    assert CacheShape.of(old) == CacheShape(2, 4, 4)


def test_refusals():
    with pytest.raises(ValueError, match="got SimpleNamespace without num_attention_heads, hidden_size"):
        CacheShape.of(SimpleNamespace(num_hidden_layers=2))
    with pytest.raises(ValueError, match="num_layers must be an integer of at least 1; got 0"):
        CacheShape(0, 2, 4)
    with pytest.raises(ValueError, match="head_dim must be even, for rotary embeddings; got 5"):
        CacheShape(1, 2, 5)
