"""Active and temporary forgetting in a plain loop: when it happens, what it touches, how it resumes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from memarch.forgetting import EmbeddingForgetting
from memarch.ops import embedding_reset

from ._models import DIM, VOCAB, adamw, batch, loss_of, tiny


def run(model, optimizer, forget, steps, start=0, **options):
    """Train from step `start`; the steps at which the embedding was reset."""
    fired = []
    for step in range(start, start + steps):
        optimizer.zero_grad()
        loss_of(model, batch(step)).backward()
        optimizer.step()
        if forget.step(optimizer, **options):
            fired.append(step + 1)
    return fired


def test_active_forgetting_goes_on_and_temporary_forgetting_stops():
    for stop_after, expected in [(None, [4, 8, 12]), (8, [4, 8]), (11, [4, 8]), (4, [4])]:
        model = tiny()
        optimizer = adamw(model)
        forget = EmbeddingForgetting(model, every=4, stop_after=stop_after, std=0.02)
        assert run(model, optimizer, forget, 14) == expected
        assert (forget.num_resets, forget.last_reset, forget.num_steps) == (len(expected), expected[-1], 14)


@pytest.mark.parametrize("tied", [True, False])
def test_a_reset_writes_the_counted_noise_in_place_and_leaves_the_rest(tied):
    model = tiny(tied=tied)
    optimizer = adamw(model)
    forget = EmbeddingForgetting(model.embed, every=3, std=0.5, keep_rows=(2, 5), seed=7)
    run(model, optimizer, forget, 2)
    pointer, twin, twin_optimizer = model.embed.weight.data_ptr(), *copy.deepcopy((model, optimizer))
    run(model, optimizer, forget, 1, start=2)
    twin_optimizer.zero_grad()
    loss_of(twin, batch(2)).backward()
    twin_optimizer.step()
    expected = twin.embed.weight.detach().clone()
    keep = torch.zeros(VOCAB, dtype=torch.bool)
    keep[[2, 5]] = True
    embedding_reset(expected, std=0.5, seed=7, step=3, keep=keep)
    assert torch.equal(model.embed.weight, expected)
    assert model.embed.weight.data_ptr() == pointer
    assert (model.head.weight is model.embed.weight) == tied
    for name in ("body.weight", "body.bias", "head.bias", *(() if tied else ("head.weight",))):
        assert torch.equal(model.get_parameter(name), twin.get_parameter(name)), name


@pytest.mark.parametrize("kind", ["embeddings", "all", "none"])
def test_which_optimizer_state_starts_afresh(kind):
    model = tiny(padding_idx=0)
    optimizer = adamw(model)
    forget = EmbeddingForgetting(model.embed, every=3, std=0.02, optimizer_state=kind)
    run(model, optimizer, forget, 2)
    tensors = {name: optimizer.state[p] for name, p in model.named_parameters()}
    pointers = {(name, key): value.data_ptr() for name, state in tensors.items() for key, value in state.items()}
    run(model, optimizer, forget, 1, start=2)
    for name, state in tensors.items():
        afresh = kind == "all" or (kind == "embeddings" and name == "embed.weight")
        assert float(state["step"]) == (0 if afresh else 3), name
        for key in ("exp_avg", "exp_avg_sq"):
            moment = state[key][1:] if name == "embed.weight" else state[key]
            assert moment.any() != afresh, (name, key)
        assert all(value.data_ptr() == pointers[name, key] for key, value in state.items())
    # The padding row stays, and so do its moments (from the tied head).
    assert optimizer.state[model.embed.weight]["exp_avg"][0].any()


def test_after_a_reset_the_optimizer_steps_like_a_new_one():
    """Bias correction restarts: the first update has the size of a first update."""
    model = tiny()
    optimizer = adamw(model)
    forget = EmbeddingForgetting(model.embed, every=5, std=0.02)
    run(model, optimizer, forget, 5)
    twin = copy.deepcopy(model)
    fresh = adamw(twin)
    for each, its_optimizer in ((model, optimizer), (twin, fresh)):
        its_optimizer.zero_grad()
        loss_of(each, batch(5)).backward()
        its_optimizer.step()
    torch.testing.assert_close(model.embed.weight, twin.embed.weight)


def test_other_optimizers_moments_are_zeroed_too():
    model = tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run(model, optimizer, EmbeddingForgetting(model.embed, every=2, std=0.02), 2)
    assert not optimizer.state[model.embed.weight]["momentum_buffer"].any()
    assert optimizer.state[model.body.weight]["momentum_buffer"].any()


def test_how_rows_are_initialised():
    def after_reset(**options):
        model = tiny()
        with torch.no_grad():
            model.embed.weight.mul_(3.0)
        before = model.embed.weight.detach().clone()
        forget = EmbeddingForgetting(model.embed, every=1, **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        run(model, optimizer, forget, 1)
        return before, model.embed.weight.detach()

    before, now = after_reset(init="match")
    assert not torch.equal(before, now) and 0.8 < now.std() / before.std() < 1.2
    _, now = after_reset(std=0.0)
    assert not now.any()
    before, now = after_reset(init=lambda rows: nn.init.constant_(rows, 4.0), keep_rows=(1,))
    assert torch.equal(now[1], before[1]) and (now[[0, 2, 3]] == 4).all()


def test_the_std_of_the_models_config_is_used():
    model = tiny()
    with pytest.raises(ValueError, match=r"TinyLM has no config.initializer_range, .* give std="):
        EmbeddingForgetting(model)
    model.config = type("Config", (), {"initializer_range": 0.125})()
    assert EmbeddingForgetting(model).std == 0.125


def test_the_padding_row_stays_unless_asked():
    model = tiny(padding_idx=3)
    for keep_rows, stays in [(None, True), ((), False)]:
        before = model.embed.weight.detach().clone()
        forget = EmbeddingForgetting(model.embed, every=1, std=0.5, keep_rows=keep_rows)
        forget.step(torch.optim.SGD(model.parameters(), lr=0.0))
        assert torch.equal(model.embed.weight[3], before[3]) == stays


def test_input_only_gives_a_tied_head_its_own_weights():
    model = tiny()
    forget = EmbeddingForgetting(model, every=1, std=0.5, tied="input")
    assert model.head.weight is not model.embed.weight and torch.equal(model.head.weight, model.embed.weight)
    head = model.head.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    run(model, optimizer, forget, 1)
    assert torch.equal(model.head.weight, head) and not torch.equal(model.embed.weight, head)


def test_a_float32_master_and_its_low_precision_copy_get_the_same_rows():
    model = tiny().to(torch.bfloat16)
    master = model.embed.weight.detach().float().requires_grad_()
    optimizer = torch.optim.AdamW([master, *model.body.parameters()])
    master.grad = torch.ones_like(master)
    optimizer.step()
    forget = EmbeddingForgetting(model.embed, every=1, std=0.02)
    assert forget.step(optimizer, master=master)
    assert torch.equal(master.to(torch.bfloat16), model.embed.weight)
    assert not optimizer.state[master]["exp_avg"].any() and 0.01 < master.std() < 0.03
    with pytest.raises(ValueError, match="master must be"):
        wrong = torch.zeros(2, 3, requires_grad=True)
        forget.step(torch.optim.AdamW([wrong]), master=wrong)


@pytest.mark.parametrize("stop", [5, 6, 7])
def test_resumed_training_is_the_same_to_the_bit(stop):
    model = tiny()
    optimizer = adamw(model)
    run(model, optimizer, EmbeddingForgetting(model.embed, every=3, stop_after=9, std=0.1, seed=2), 12)

    half = tiny()
    its_optimizer = adamw(half)
    forget = EmbeddingForgetting(half.embed, every=3, stop_after=9, std=0.1, seed=2)
    run(half, its_optimizer, forget, stop)
    saved = copy.deepcopy((half.state_dict(), its_optimizer.state_dict(), forget.state_dict()))
    again = tiny()
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    again_optimizer = adamw(again)
    resumed = EmbeddingForgetting(again.embed, every=3, stop_after=9, std=0.1, seed=2)
    again.load_state_dict(saved[0])
    again_optimizer.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    run(again, again_optimizer, resumed, 12 - stop, start=stop)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    for other in ({"seed": 3}, {"every": 4}):
        with pytest.raises(ValueError, match=f"the saved state has {next(iter(other))}="):
            EmbeddingForgetting(tiny().embed, std=0.1, **{"every": 3, "seed": 2} | other).load_state_dict(saved[2])


def test_gradient_accumulation_counts_optimizer_steps():
    model = tiny()
    optimizer = adamw(model)
    forget = EmbeddingForgetting(model.embed, every=2, std=0.02)
    fired = 0
    for micro in range(8):
        (loss_of(model, batch(micro)) / 2).backward()
        if micro % 2:
            optimizer.step()
            optimizer.zero_grad()
            fired += forget.step(optimizer)
    assert fired == 2 and forget.num_steps == 4


def test_a_wrapped_optimizer_is_looked_through():
    model = tiny()
    optimizer = adamw(model)
    wrapper = type("Wrapper", (), {"optimizer": optimizer})()
    assert EmbeddingForgetting(model.embed, every=1, std=0.02).step(wrapper)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"every": 0}, "every must be a whole number, at least 1; got 0"),
        ({"every": 2.5}, "every must be a whole number, at least 1; got 2.5"),
        ({"every": 10, "stop_after": 9}, "stop_after=9 comes before the first reset at step 10"),
        ({"init": "xavier"}, "init must be one of 'model', 'match'; got 'xavier'"),
        ({"init": "match", "std": 1.0}, "std=1.0 is for init='model'; got init='match'"),
        ({"std": -1.0}, "std must be finite and at least 0; got -1.0"),
        ({"keep_rows": (VOCAB,)}, f"keep_rows must be rows of the embedding, 0 to {VOCAB - 1}; got {VOCAB}"),
        ({"keep_rows": (-1,)}, "keep_rows must be rows of the embedding"),
        ({"optimizer_state": "half"}, "optimizer_state must be one of 'embeddings', 'all', 'none'; got 'half'"),
        ({"lr": "warm"}, "lr must be one of 'keep', 'replay'; got 'warm'"),
        ({"tied": "output"}, "tied must be one of 'both', 'input'; got 'output'"),
        ({"tied": "input"}, "tied='input' needs the model, not its embedding alone"),
        ({"seed": -1}, "seed must be a whole number, at least 0; got -1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingForgetting(tiny().embed, **{"std": 0.02} | options)


def test_models_without_one_clear_embedding():
    with pytest.raises(ValueError, match="Linear has no nn.Embedding"):
        EmbeddingForgetting(nn.Linear(2, 2), std=0.02)
    two = nn.ModuleDict({"tokens": nn.Embedding(5, 2), "positions": nn.Embedding(7, 2)})
    with pytest.raises(
        ValueError, match=r"2 embeddings \(tokens \(5, 2\), positions \(7, 2\)\): pass the one to forget"
    ):
        EmbeddingForgetting(two, std=0.02)


def test_an_optimizer_without_the_embedding_is_refused_before_anything_changes():
    model = tiny()
    before = model.embed.weight.detach().clone()
    forget = EmbeddingForgetting(model.embed, every=1, std=0.02)
    with pytest.raises(ValueError, match=rf"the optimizer does not hold the embedding \[{VOCAB}, {DIM}\]"):
        forget.step(torch.optim.SGD(model.body.parameters(), lr=0.1))
    assert forget.num_steps == 0 and torch.equal(model.embed.weight, before)
