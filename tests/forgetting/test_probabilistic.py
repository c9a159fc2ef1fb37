"""Probabilistic forgetting against the obvious way: overwrite rows of the weights, run, restore them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from memarch.forgetting import ProbabilisticForgetting
from memarch.models import MemoryLMConfig, MemoryLMForCausalLM
from memarch.ops import substitute_rows, substituted_tokens

from ._models import VOCAB, adamw, batch, loss_of, tiny

OPTIONS = {"probability": 0.4, "std": 0.3, "seed": 11}


def memory_lm():
    torch.manual_seed(4)
    config = MemoryLMConfig(vocab_size=VOCAB, d_model=16, num_layers=1, num_heads=2, mlp_dim=16, chunk_size=4)
    return MemoryLMForCausalLM(config)


def huggingface(kind):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(4)
    sizes = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    if kind == "bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(**sizes, intermediate_size=16)).eval()
    config = transformers.LlamaConfig(**sizes, intermediate_size=16, tie_word_embeddings=kind == "tied", pad_token_id=1)
    return transformers.LlamaForCausalLM(config)


MODELS = {
    "tiny tied": tiny,
    "tiny untied": lambda: tiny(tied=False),
    "memarch": memory_lm,
    "llama tied": lambda: huggingface("tied"),
    "llama untied": lambda: huggingface("untied"),
    "bert": lambda: huggingface("bert"),
}


def logits_of(model, ids):
    out = model(ids)
    return out if isinstance(out, torch.Tensor) else out.logits if hasattr(out, "logits") else out[0]


def gradients(model, ids, logits):
    model.zero_grad()
    F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("gradient", ["none", "kept_rows"])
@pytest.mark.parametrize("name", MODELS)
def test_it_equals_overwriting_and_restoring_rows(name, gradient):
    model, ids = MODELS[name](), batch(0)
    forget = ProbabilisticForgetting(model, **OPTIONS, gradient=gradient)
    weight = forget.embedding.weight
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with forget:
        logits = logits_of(model, ids)
    found = gradients(model, ids, logits)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    padding = forget.embedding.padding_idx
    keep = torch.zeros(VOCAB, dtype=torch.bool)
    if padding is not None:
        keep[padding] = True
    tokens = substituted_tokens(ids, probability=0.4, seed=11, step=1, keep=keep)
    assert 0 < tokens.numel() < ids.unique().numel()
    with torch.no_grad():
        weight[tokens] = substitute_rows(tokens, weight.shape[1], std=0.3, seed=11, step=1)
    expected_logits = logits_of(model, ids)
    expected = gradients(model, ids, expected_logits)
    torch.testing.assert_close(logits, expected_logits)
    tied = next(key for key, value in model.named_parameters() if value is weight)
    for key, value in expected.items():
        if key != tied:
            torch.testing.assert_close(found[key], value, msg=f"gradient of {key}")
        elif gradient == "none":
            assert found[key] is None
        else:
            value[tokens] = 0
            torch.testing.assert_close(found[key], value)


def test_other_rows_at_each_step_and_none_outside_of_the_block():
    model, ids = tiny(), batch(0)
    plain = model(ids)
    forget = ProbabilisticForgetting(model, **OPTIONS)
    outputs = []
    for _ in range(2):
        with forget:
            outputs += [model(ids), model(ids)]
        assert torch.equal(model(ids), plain)
        forget.step()
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[2], outputs[3])
    assert not torch.equal(outputs[0], outputs[2]) and not torch.equal(outputs[0], plain)


def test_every_and_stop_after():
    model, ids = tiny(), batch(0)
    plain = model(ids)
    forget = ProbabilisticForgetting(model, **OPTIONS, every=3, stop_after=7)
    changed = []
    for step in range(1, 13):
        assert forget.forgets_now == (step in (3, 6))
        with forget:
            if not torch.equal(model(ids), plain):
                changed.append(step)
        forget.step()
    assert changed == [3, 6]


def test_training_goes_on_and_resumes_to_the_bit():
    def train(model, optimizer, forget, steps):
        for step in steps:
            optimizer.zero_grad()
            with forget:
                loss = loss_of(model, batch(step))
            loss.backward()
            optimizer.step()
            forget.step()

    options = {**OPTIONS, "every": 2}
    model = tiny()
    optimizer = adamw(model)
    forget = ProbabilisticForgetting(model.embed, **options)
    train(model, optimizer, forget, range(3))
    saved = {key: value.clone() for key, value in model.state_dict().items()}
    saved_optimizer, count = copy.deepcopy(optimizer.state_dict()), forget.state_dict()
    again = tiny()
    again.load_state_dict(saved)
    again_optimizer = adamw(again)
    again_optimizer.load_state_dict(saved_optimizer)
    resumed = ProbabilisticForgetting(again.embed, **options)
    resumed.load_state_dict(count)
    train(model, optimizer, forget, range(3, 7))
    train(again, again_optimizer, resumed, range(3, 7))
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="the saved state has seed=11, this one seed=12"):
        ProbabilisticForgetting(again.embed, **{**options, "seed": 12}).load_state_dict(count)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch.compile looks at it itself
def test_a_compiled_model():
    model, ids = tiny(), batch(0)
    forget = ProbabilisticForgetting(model, **OPTIONS)
    with forget:
        expected = model(ids)
    compiled = torch.compile(model, backend="eager")
    compiled(ids)
    with forget:
        torch.testing.assert_close(compiled(ids), expected)


def test_what_cannot_be_answered_is_refused():
    model, ids = tiny(), batch(0)
    forget = ProbabilisticForgetting(model, **OPTIONS)
    with forget, pytest.raises(NotImplementedError, match="matmul got the embedding's weight"):
        torch.matmul(torch.zeros(2, 8), model.embed.weight)
    with forget, pytest.raises(RuntimeError, match="entered already"):
        forget.__enter__()
    with forget, pytest.raises(RuntimeError, match="before any token was embedded"):
        model.head(torch.zeros(1, 8))
    model(ids)
    bounded = nn.Embedding(5, 2, max_norm=1.0)
    with ProbabilisticForgetting(bounded, std=0.1), pytest.raises(NotImplementedError, match="max_norm"):
        bounded(torch.tensor([1]))
    sparse = nn.Embedding(5, 2, sparse=True)
    with ProbabilisticForgetting(sparse, std=0.1), pytest.raises(NotImplementedError, match="sparse gradients"):
        sparse(torch.tensor([1]))


def test_after_an_exception_the_model_is_itself_again():
    model, ids = tiny(), batch(0)
    plain = model(ids)
    forget = ProbabilisticForgetting(model, **OPTIONS)
    with pytest.raises(ZeroDivisionError), forget:
        raise ZeroDivisionError
    assert torch.equal(model(ids), plain)
    with forget:
        assert not torch.equal(model(ids), plain)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"probability": 1.1}, r"probability must be in \[0, 1\]; got 1.1"),
        ({"every": 0}, "every must be a whole number"),
        ({"every": 5, "stop_after": 4}, "stop_after=4 comes before the first forgetting step 5"),
        ({"std": -0.1}, "std must be finite and at least 0; got -0.1"),
        ({"gradient": "some"}, "gradient must be one of 'none', 'kept_rows'; got 'some'"),
        ({"keep_rows": (99,)}, "keep_rows must be rows of the embedding"),
        ({"seed": 1.5}, "seed must be a whole number"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ProbabilisticForgetting(tiny(), **{"std": 0.02} | options)
