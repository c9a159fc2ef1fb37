"""Consolidation with stock generate: what it computes does not depend on how the text comes to the model."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from transformers import StaticCache

from memarch.cache import EveryTokensTrigger, consolidate
from memarch.testing import assert_close

from ._tiny_models import KINDS, NEWLINES, Characters, make_model, make_processor, prompts

TOKENIZER = Characters()
GREEDY = {"do_sample": False, "eos_token_id": None, "return_dict_in_generate": True, "output_logits": True}


def generate(model, c, inputs, *, cache=None, num_tokens=30, **options):
    cache = c.new_cache() if cache is None else cache
    return model.generate(
        **inputs,
        **{**GREEDY, **options},
        max_new_tokens=num_tokens,
        past_key_values=cache,
        stopping_criteria=[c.criteria],
    )


def teacher_forced(model, c, prompt, answer, *, starts):
    """Logits that predict each token of `answer` `[1, N]`, fed in stretches that begin where `starts` says."""
    cache = c.new_cache()
    logits = [model(prompt, past_key_values=cache).logits[:, -1:]]
    bounds = [0, *(i for i in starts if i), answer.shape[1] - 1]
    for begin, end in zip(bounds, bounds[1:], strict=False):
        if end > begin:
            logits.append(model(answer[:, begin:end], past_key_values=cache).logits)
    return torch.cat(logits, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_processor_changes_nothing_to_the_bit(kind):
    model, inputs = make_model(kind), prompts(7, 4)
    plain = model.generate(**inputs, **GREEDY, max_new_tokens=20)
    with consolidate(model, make_processor(model, active=False), TOKENIZER, trigger=3, top_k=4) as c:
        ours = generate(model, c, inputs, num_tokens=20)
        assert c.num_rewrites == 6
    assert torch.equal(ours.sequences, plain.sequences)
    assert all(torch.equal(a, b) for a, b in zip(ours.logits, plain.logits, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_generate_equals_teacher_forced_steps(kind):
    model = make_model(kind)
    inputs = prompts(9)
    with consolidate(model, make_processor(model), TOKENIZER, trigger=4, top_k=3) as c:
        found = generate(model, c, inputs, num_tokens=22)
        answer = found.sequences[:, 9:]
        forced = teacher_forced(model, c, inputs["input_ids"], answer, starts=range(0, 22, 4))
        assert c.num_rewrites == 10
    plain = model(found.sequences).logits[:, 8:-1]
    assert_close(torch.stack(found.logits, 1), forced, rtol=1e-5)
    assert_close(forced[:, :5], plain[:, :5], rtol=1e-5)
    assert (forced[:, 5:] - plain[:, 5:]).norm() > 0.1 * plain[:, 5:].norm()


@torch.no_grad()
def test_newlines_end_steps():
    model, inputs = make_model("llama3-rope"), prompts(9)
    with consolidate(model, make_processor(model), TOKENIZER, top_k=2) as c:
        found = generate(model, c, inputs)
        answer = found.sequences[:, 9:]
        starts = [i for i, token in enumerate(answer[0].tolist()[:-1]) if token in NEWLINES and i]
        assert starts and c.num_rewrites == len(starts)
        forced = teacher_forced(model, c, inputs["input_ids"], answer, starts=starts)
        assert_close(torch.stack(found.logits, 1), forced, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama3-rope", "qwen3"])
@pytest.mark.parametrize("trigger", ["newline", 5])
@pytest.mark.parametrize("window", ["step", 7, "all"])
def test_a_row_of_a_padded_batch_is_what_it_is_alone(kind, trigger, window):
    model, lengths = make_model(kind), (8, 5, 3)
    inputs = prompts(*lengths)
    with consolidate(model, make_processor(model), TOKENIZER, trigger=trigger, window=window, top_k=3) as c:
        batch = generate(model, c, inputs)
        many = c.num_rewrites
        for row, length in enumerate(lengths):
            alone = {name: x[row : row + 1, -length:] for name, x in inputs.items()}
            single = generate(model, c, alone)
            logits = torch.stack(batch.logits, 1)[row : row + 1]
            assert_close(logits, torch.stack(single.logits, 1), rtol=2e-5, name=f"row {row}")
            assert torch.equal(batch.sequences[row, 8:], single.sequences[0, length:])
        assert many > 3


@pytest.mark.parametrize("padded", [False, True])
def test_static_cache_is_rewritten_where_it_lies(padded):
    model, inputs = make_model("qwen3"), prompts(7, 4) if padded else prompts(7)
    with consolidate(model, make_processor(model), TOKENIZER, trigger=4, top_k=3) as c:
        dynamic = generate(model, c, inputs)
        cache = c.new_cache(max_length=50)
        model.generate(**inputs, max_new_tokens=1, past_key_values=cache, do_sample=False)
        places = [x.data_ptr() for layer in cache.layers for x in (layer.keys, layer.values)]
        cache.reset()
        static = generate(model, c, inputs, cache=cache)
        assert [x.data_ptr() for layer in cache.layers for x in (layer.keys, layer.values)] == places
    assert torch.equal(static.sequences, dynamic.sequences)
    assert_close(torch.stack(static.logits, 1), torch.stack(dynamic.logits, 1), rtol=2e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_any_attention_implementation(attention):
    model, inputs = make_model("llama"), prompts(7, 4)
    with consolidate(model, make_processor(model), trigger=4, top_k=3) as c:
        expected = generate(model, c, inputs)
    model.set_attn_implementation(attention)
    with consolidate(model, make_processor(model), trigger=4, top_k=3) as c:
        assert_close(torch.stack(generate(model, c, inputs).logits), torch.stack(expected.logits), rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("trigger", ["newline", 5])
def test_beams_take_their_notes_along(trigger):
    """A beam's score is the log-probability of its tokens, as teacher forcing finds it."""
    model, inputs = make_model("llama3-rope", num_hidden_layers=2), prompts(6, 6)
    with consolidate(model, make_processor(model), TOKENIZER, trigger=trigger, top_k=3) as c:
        found = generate(
            model, c, inputs, num_tokens=24, num_beams=3, num_return_sequences=3, length_penalty=0.0, output_scores=True
        )
        moved = (found.beam_indices[:, 1:] != found.beam_indices[:, :-1]).any()
        assert moved and c.num_rewrites > 3
        for row, (sequence, score) in enumerate(zip(found.sequences, found.sequences_scores, strict=True)):
            answer = sequence[None, 6:]
            starts = [i for i, t in enumerate(answer[0].tolist()) if t in NEWLINES] if trigger == "newline" else []
            starts = starts or list(range(5, 23, 5))
            starts = [i for i in starts if 0 < i < answer.shape[1] - 1]
            forced = teacher_forced(model, c, inputs["input_ids"][row // 3][None], answer, starts=starts)
            total = forced.log_softmax(-1).gather(-1, answer[..., None]).sum()
            assert total.item() == pytest.approx(score.item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["qwen3", "yarn"])
@pytest.mark.parametrize("active", [False, True])
def test_bfloat16_models_with_a_float32_processor(kind, active):
    model, inputs = make_model(kind).bfloat16(), prompts(7, 4)
    stock = StaticCache(model.config, max_cache_len=40)
    plain = model.generate(**inputs, **GREEDY, max_new_tokens=20, past_key_values=stock)
    with consolidate(model, make_processor(model, active=active), trigger=3, top_k=4) as c:
        cache = c.new_cache(max_length=40)
        ours = generate(model, c, inputs, cache=cache, num_tokens=20)
        assert c.num_rewrites == 6 and cache.layers[0].keys.dtype == torch.bfloat16
    same = all(torch.equal(a, b) for a, b in zip(ours.logits, plain.logits, strict=True))
    assert same != active and all(logits.isfinite().all() for logits in ours.logits)


def test_sampling_is_reproducible():
    model, inputs = make_model("qwen2"), prompts(7, 4)
    sequences = []
    for _ in range(2):
        with consolidate(model, make_processor(model), trigger=4) as c:
            torch.manual_seed(5)
            sequences.append(generate(model, c, inputs, do_sample=True).sequences)
    assert torch.equal(*sequences)


@torch.no_grad()
def test_the_prompt_is_a_step_if_asked():
    model, inputs = make_model("llama"), prompts(9, 5)
    for wanted, first in ((False, []), (True, [9])):
        lengths = []
        options = {"consolidate_prompt": wanted, "on_rewrite": lambda r, to=lengths: to.append(r.length)}
        with consolidate(model, make_processor(model), trigger=20, top_k=0, **options) as c:
            cache = c.new_cache()
            model(**inputs, past_key_values=cache)
            ones = torch.ones(2, 10, dtype=torch.long)
            ones[:, :9] = inputs["attention_mask"]
            c.rewrite(cache)
            model(torch.tensor([[20], [21]]), attention_mask=ones, past_key_values=cache)
        assert lengths == first


def test_afterwards_the_model_and_its_caches_are_stock():
    model, inputs = make_model("llama"), prompts(7)
    plain = model.generate(**inputs, **GREEDY, max_new_tokens=20)
    before = model.generation_config.disable_compile
    with consolidate(model, make_processor(model), trigger=4) as c:
        cache = c.new_cache()
        generate(model, c, inputs, cache=cache, num_tokens=9)
        with pytest.raises(ValueError, match="crop of the cache: assisted decoding"):
            cache.crop(-1)
    hooked = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooked == [] and model.generation_config.disable_compile == before
    after = model.generate(**inputs, **GREEDY, max_new_tokens=20)
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, after.logits, strict=True))
    cache.crop(-1)


def test_caches_are_freed_while_consolidating():
    model = make_model("llama")
    with consolidate(model, make_processor(model), trigger=4) as c:
        cache = c.new_cache()
        gone = weakref.ref(cache)
        generate(model, c, prompts(7), cache=cache, num_tokens=9)
        gc.disable()
        try:
            del cache
            assert gone() is None
        finally:
            gc.enable()


def test_gradients_reach_the_processor_through_a_later_step():
    model = make_model("qwen3").requires_grad_(False)
    processor = make_processor(model).requires_grad_(True)
    ids = torch.cat([prompts(8)["input_ids"], torch.tensor([[4, 20, 21, 4, 22, 23]])], 1)

    def loss():
        with consolidate(model, processor, TOKENIZER, top_k=3) as c:
            cache = c.new_cache()
            model(ids[:, :8], past_key_values=cache)
            model(ids[:, 8:11], past_key_values=cache)  # its newline would end an empty step
            return model(ids[:, 11:], past_key_values=cache).logits.log_softmax(-1)[0, :, 7].sum()

    value = loss()
    value.backward()
    for name, parameter in processor.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and gradient.abs().sum() > 0, name
        direction = gradient / gradient.norm()
        with torch.no_grad():
            parameter += 1e-3 * direction
            up = loss()
            parameter -= 2e-3 * direction
            down = loss()
            parameter += 1e-3 * direction
        assert ((up - down) / 2e-3).item() == pytest.approx(gradient.norm().item(), rel=0.05, abs=1e-2), name


def test_every_tokens_trigger_with_the_whole_cache_is_version_one():
    seen = []
    model = make_model("llama")
    with consolidate(
        model, make_processor(model), trigger=EveryTokensTrigger(6), window="all", on_rewrite=seen.append
    ) as c:
        generate(model, c, prompts(7, 4), num_tokens=20)
    assert [r.length for r in seen] == [13, 19, 25]
    assert [r.index.shape[2] for r in seen] == [13, 19, 25]
    first = seen[0].index[0]
    assert first[0].tolist() == list(range(13)) and first[1].tolist() == [*range(3, 13), -1, -1, -1]
