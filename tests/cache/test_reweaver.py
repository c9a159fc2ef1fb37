"""Reweaving: nothing at first; then the same however the text comes; only the past is read, and only so far back."""

import json

import pytest
import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from memarch.cache import Reweaver, consolidate, reweave
from memarch.cache.reweaver import CONFIG_FILE, WEIGHTS_FILE
from memarch.testing import assert_close

from ._tiny_models import make_model, make_processor, prompts

GREEDY = {"do_sample": False, "eos_token_id": None, "return_dict_in_generate": True, "output_logits": True}


def make_reweaver(model, *, active=True, **options):
    torch.manual_seed(3)
    reweaver = Reweaver(
        model.config, **{"capture": [0, 1], "weave": [2], "memory_tokens": 5, "top_k": 2, "width": 6, **options}
    )
    if active:
        torch.nn.init.normal_(reweaver.norm)
        torch.nn.init.normal_(reweaver.gate_logit)
    return reweaver.requires_grad_(False)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_new_one_changes_nothing_to_the_bit(kind):
    model = make_model(kind)
    plain = model.generate(**prompts(7, 4), **GREEDY, max_new_tokens=12)
    with reweave(model, make_reweaver(model, active=False)) as r:
        ours = model.generate(**prompts(7, 4), **GREEDY, max_new_tokens=12, past_key_values=r.new_cache())
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, ours.logits, strict=True))


@torch.no_grad()
def test_reading_by_its_formula():
    """One layer's reading, token by token: cosines, the best of each captured layer, one softmax over all."""
    model = make_model()
    reweaver = make_reweaver(model).double()
    hidden = torch.randn(1, 3, 24, dtype=torch.float64)
    memory = [torch.randn(1, 6, 24, dtype=torch.float64) for _ in range(2)]
    allowed = torch.rand(1, 3, 6) > 0.3
    allowed[0, 1] = False
    found = reweaver(0, hidden, memory, allowed)
    for t in range(3):
        best = []
        for c, states in enumerate(memory):
            query = hidden[0, t] @ reweaver.w_query[0]
            scored = [
                (torch.cosine_similarity(query, h @ reweaver.w_key[0, c], 0).item(), h @ reweaver.w_value[0, c])
                for h, may in zip(states[0], allowed[0, t], strict=True)
                if may
            ]
            best += sorted(scored, key=lambda pair: -pair[0])[:2]
        expected = hidden[0, t]
        if best:
            share = torch.softmax(torch.tensor([s for s, _ in best]).double() * reweaver.log_sharpness[0].exp(), 0)
            read = sum(a * v for a, (_, v) in zip(share, best, strict=True)) @ reweaver.w_out[0]
            normed = read / (read.square().mean() + 1e-6).sqrt()
            expected = expected + torch.sigmoid(reweaver.gate_logit[0]) * reweaver.norm[0] * normed
        assert_close(found[0, t], expected, rtol=1e-6)


@pytest.mark.parametrize("static", [False, True])
@torch.no_grad()
def test_whole_texts_generation_and_padded_batches_agree(static):
    model = make_model("qwen3")
    inputs = prompts(9, 4)
    with reweave(model, make_reweaver(model)) as r:
        cache = r.new_cache(max_length=40 if static else None)
        found = model.generate(**inputs, **GREEDY, max_new_tokens=14, past_key_values=cache)
        for row, length in enumerate((9, 4)):
            text = found.sequences[row : row + 1, -14 - length :]
            whole = model(text, use_cache=False).logits[:, length - 1 : -1]
            assert_close(torch.stack(found.logits, 1)[row : row + 1], whole, rtol=1e-4, name=f"row {row}")
    plain = model(found.sequences[:1], use_cache=False).logits[:, 8:-1]
    assert (whole.norm() - plain.norm()).abs() > 0 and not torch.allclose(found.logits[3][0], plain[0, 3], rtol=0.05)


@torch.no_grad()
def test_beams_bring_their_memory():
    model = make_model("llama3-rope")
    with reweave(model, make_reweaver(model, capture=[0], weave=[1, 2])) as r:
        found = model.generate(
            **prompts(6), **GREEDY, max_new_tokens=14, num_beams=3, length_penalty=0.0, output_scores=True,
            past_key_values=r.new_cache(),
        )  # fmt: skip
        logits = model(found.sequences, use_cache=False).logits[:, 5:-1]
        total = logits.log_softmax(-1).gather(-1, found.sequences[:, 6:, None]).sum()
    assert total.item() == pytest.approx(found.sequences_scores.item(), rel=1e-4)


@torch.no_grad()
def test_only_the_last_tokens_are_read():
    """With attention to one token only, what a token hears of the others it hears from memory."""
    model = make_model()
    reweaver = make_reweaver(model, memory_tokens=3, top_k=99)
    seen = []
    real = reweaver.forward
    reweaver.forward = lambda which, hidden, memory, allowed: (
        seen.append((allowed, memory[0].shape[1])) or real(which, hidden, memory, allowed)
    )
    with reweave(model, reweaver) as r:
        cache = r.new_cache()
        model(**prompts(5), past_key_values=cache)
        model(torch.tensor([[20]]), past_key_values=cache)
    first, last = seen
    assert first[0][0].int().tolist() == [
        [0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0]
    ]  # fmt: skip
    assert last[0][0].int().tolist() == [[1, 1, 1, 0]] and last[1] == 4


def test_gradients_reach_every_parameter():
    model = make_model().requires_grad_(False)
    reweaver = make_reweaver(model).requires_grad_(True)
    with reweave(model, reweaver):
        model(**prompts(12), use_cache=False).logits.logsumexp(-1).sum().backward()
    for name, parameter in reweaver.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


def test_afterwards_the_model_is_stock():
    model = make_model()
    with reweave(model, make_reweaver(model)) as r:
        cache = r.new_cache()
        model(**prompts(5), past_key_values=cache)
        with pytest.raises(ValueError, match="crop of the cache: assisted decoding"):
            cache.crop(-1)
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    cache.crop(-1)


def test_refusals():
    model = make_model()
    for capture, weave in (([2], [1]), ([0], [3]), ([], [1]), ([0], [])):
        with pytest.raises(ValueError, match="capture and weave must be layers from 0 to 2, those captured below"):
            make_reweaver(model, capture=capture, weave=weave)
    with pytest.raises(ValueError, match="top_k must be an integer of at least 1; got 0"):
        make_reweaver(model, top_k=0)
    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9))
    with pytest.raises(ValueError, match="more than 2 layers in model.layers; got GPT2LMHeadModel"):
        with reweave(other, make_reweaver(model)):
            pass
    used = model(**prompts(5), past_key_values=DynamicCache(config=model.config)).past_key_values
    with reweave(model, make_reweaver(model)) as r:
        with pytest.raises(ValueError, match="filled with 5 entries outside of reweave"):
            model(torch.tensor([[3]]), past_key_values=used)
        with pytest.raises(ValueError, match="or use_cache=False for a whole text"):
            model(**prompts(5))
        cache = r.new_cache()
        model(**prompts(5), past_key_values=cache)
        with consolidate(model, make_processor(model), trigger=3) as c:
            with pytest.raises(ValueError, match="this cache was filled with 5 entries outside of consolidate"):
                c.track(cache)
            empty = c.new_cache()
            with pytest.raises(ValueError, match="this cache is followed already"):
                model(**prompts(5), past_key_values=empty)


@torch.no_grad()
def test_save_and_load(tmp_path):
    model = make_model()
    reweaver = make_reweaver(model, weave=[2], capture=[1, 0]).bfloat16()
    reweaver.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE}
    again = Reweaver.from_pretrained(tmp_path)
    assert again.norm.dtype == torch.bfloat16 and all(p.requires_grad for p in again.parameters())
    plain, texts = model(**prompts(9), use_cache=False).logits, []
    for one in (reweaver, again):
        with reweave(model, one):
            texts.append(model(**prompts(9), use_cache=False).logits)
    assert torch.equal(texts[0], texts[1]) and not torch.equal(texts[0], plain)


def test_files_that_are_not_ours_are_refused(tmp_path):
    with pytest.raises(OSError, match="does not exist"):
        Reweaver.from_pretrained(tmp_path)
    make_reweaver(make_model()).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / CONFIG_FILE).read_text())
    for change, message in (
        ({"width": 7}, "does not fit the configuration beside it: w_key"),
        ({"kind": "another"}, r"should describe a memarch\.Reweaver by"),
        ({"capture": [2]}, "capture and weave must be layers from 0 to 2"),
    ):
        (tmp_path / CONFIG_FILE).write_text(json.dumps(settings | change))
        with pytest.raises(ValueError, match=message):
            Reweaver.from_pretrained(tmp_path)
