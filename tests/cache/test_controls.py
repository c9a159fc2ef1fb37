import pytest
import torch

from memarch.cache import CacheProcessor, CacheShape, consolidate
from memarch.cache.controls import IdentityRewriter, MeanShiftRewriter, RandomRewriter
from memarch.testing import assert_close

from ._tiny_models import make_model, make_processor, prompts

SHAPE = CacheShape(num_layers=2, num_kv_heads=1, head_dim=4)


def entries():
    present = torch.ones(2, 3, 5, dtype=torch.bool)
    present[:, 1, 3:] = False
    return torch.randn(2, 3, 5, 8), present


def test_mean_shift_by_hand():
    x, present = entries()
    change = MeanShiftRewriter(SHAPE)(x, present)
    assert change.shape == (2, 3, 5, 4)
    values = x[1, 1, :3, 4:]
    assert_close(change[1, 1, :3], values.mean(0) - values, rtol=1e-6)
    assert MeanShiftRewriter(SHAPE).gate.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("values_only", [False, True])
def test_random_changes_have_the_norms_of_the_others(values_only):
    like = CacheProcessor(SHAPE, processor_dim=6, mlp_dim=5, num_heads=2, values_only=values_only).requires_grad_(False)
    torch.nn.init.normal_(like.w_out)
    x, present = entries()
    expected, change = like(x, present), RandomRewriter(like)(x, present)
    for a, b in zip(expected.split(4, -1), change.split(4, -1), strict=True):
        assert_close(b.norm(dim=-1), a.norm(dim=-1), rtol=1e-5)
        assert torch.nn.functional.cosine_similarity(a, b, -1).abs().mean() < 0.8
    assert not torch.equal(RandomRewriter(like, seed=1)(x, present), change)
    assert torch.equal(RandomRewriter(like)(x, present), change)
    assert torch.equal(RandomRewriter(like).gate, like.gate)


@pytest.mark.parametrize("name", ["identity", "mean-shift", "random"])
@torch.no_grad()
def test_controls_go_where_processors_go(name):
    model = make_model("llama")
    processor = make_processor(model)
    control = {
        "identity": IdentityRewriter(model.config),
        "mean-shift": MeanShiftRewriter(model.config),
        "random": RandomRewriter(processor),
    }[name]
    options = {"max_new_tokens": 12, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    plain = model.generate(**prompts(7), **options)
    with consolidate(model, control, trigger=3) as c:
        ours = model.generate(**prompts(7), **options, past_key_values=c.new_cache())
        assert c.num_rewrites == 3
    same = all(torch.equal(a, b) for a, b in zip(plain.logits, ours.logits, strict=True))
    assert same == (name != "random")
