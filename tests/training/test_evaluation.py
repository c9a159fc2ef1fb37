"""Evaluation against probabilities computed one by one."""

import math

import pytest
import torch

from memarch.models import MemoryLMConfig, MemoryLMForCausalLM
from memarch.training.evaluation import evaluate

VOCAB, SEQ = 11, 5


def make() -> tuple[MemoryLMForCausalLM, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    config = MemoryLMConfig(VOCAB, d_model=8, num_layers=1, num_heads=2, mixer="attention", mlp_dim=8)
    model = MemoryLMForCausalLM(config)
    with torch.no_grad():
        model.model.embedding.weight.normal_()
    return model, torch.randint(0, VOCAB, (23,)), torch.arange(1, VOCAB + 1)


def test_matches_probabilities_one_by_one() -> None:
    model, tokens, lengths = make()
    nats, num_bytes = 0.0, 0
    for start in range(0, 20, SEQ):
        for t in range(start, start + SEQ):
            with torch.no_grad():
                p = model(tokens[None, start : t + 1]).logits[0, -1].softmax(-1)
            nats -= math.log(p[tokens[t + 1]])
            num_bytes += int(lengths[tokens[t + 1]])
    result = evaluate(model, tokens, lengths, seq_len=SEQ, batch_size=3)
    assert result.num_tokens == 20
    assert math.isclose(result.loss, nats / 20, rel_tol=1e-5)
    assert math.isclose(result.perplexity, math.exp(nats / 20), rel_tol=1e-5)
    assert math.isclose(result.bits_per_byte, nats / math.log(2) / num_bytes, rel_tol=1e-5)


def test_batch_size_does_not_matter_and_max_tokens_does() -> None:
    model, tokens, lengths = make()
    whole = evaluate(model, tokens, lengths, seq_len=SEQ, batch_size=1)
    assert math.isclose(whole.loss, evaluate(model, tokens, lengths, seq_len=SEQ, batch_size=4).loss, rel_tol=1e-5)
    assert evaluate(model, tokens, lengths, seq_len=SEQ, batch_size=4, max_tokens=11).num_tokens == 10
    assert evaluate(model, tokens, lengths, seq_len=SEQ, batch_size=4, max_tokens=1).num_tokens == 5
    with pytest.raises(ValueError, match="expected at least 2"):
        evaluate(model, tokens[:1], lengths, seq_len=SEQ, batch_size=4)
