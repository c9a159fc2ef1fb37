import pytest
import torch

from memarch.cache import consolidate
from memarch.cache.recorder import new_tokens

from ._tiny_models import make_model, make_processor, prompts

IDS = torch.zeros(2, 3, dtype=torch.long)


def test_new_tokens_of_every_kind_of_mask():
    flat = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]])
    expected = [[False, True, True], [True, True, True]]
    assert new_tokens(flat, 2, IDS).tolist() == expected
    assert new_tokens(None, 2, IDS).all() and new_tokens(None, 2, IDS).shape == (2, 3)
    causal = torch.ones(3, 5, dtype=torch.bool).tril(2)
    four = (causal & flat.bool()[:, None])[:, None]
    assert new_tokens(four, 2, IDS).tolist() == expected
    static = torch.nn.functional.pad(four, (0, 4))
    assert new_tokens({"full_attention": static}, 2, IDS).tolist() == expected
    added = torch.zeros(four.shape).masked_fill(~four, torch.finfo(torch.float32).min)
    assert new_tokens(added, 2, IDS).tolist() == expected
    with pytest.raises(ValueError, match=r"attention_mask must be \[B, 5\], one value for each of 2 cached and 3 new"):
        new_tokens(flat[:, :4], 2, IDS)


def test_a_failed_pass_is_not_noted():
    model = make_model()
    with consolidate(model, make_processor(model), trigger=3) as c:
        cache = c.new_cache()
        model(**prompts(5), past_key_values=cache)
        with pytest.raises(IndexError):
            model(torch.tensor([[999]]), past_key_values=cache)
        assert c.track(cache).length == 5
        model(torch.tensor([[20]]), past_key_values=cache)
        assert c.track(cache).length == 6


def test_two_caches_at_a_time():
    model = make_model()
    with consolidate(model, make_processor(model), trigger=2, top_k=2) as c, torch.no_grad():
        first, second = c.new_cache(), c.new_cache()
        a, b = prompts(5)["input_ids"], prompts(7, seed=3)["input_ids"]
        for cache, ids in ((first, a), (second, b)):
            model(ids, past_key_values=cache)
        steps = torch.randint(13, 30, (6, 1, 1))
        mixed = [[model(s, past_key_values=cache).logits for cache in (first, second)] for s in steps]
        for i, ids in enumerate((a, b)):
            alone = c.new_cache()
            model(ids, past_key_values=alone)
            for step, logits in zip(steps, mixed, strict=True):
                assert torch.equal(model(step, past_key_values=alone).logits, logits[i])
