import json

import pytest
import torch

from memarch.cache import CacheProcessor, CacheShape
from memarch.cache.processor import CONFIG_FILE, WEIGHTS_FILE
from memarch.testing import assert_close

SHAPE = CacheShape(num_layers=3, num_kv_heads=2, head_dim=4)


def make(**options):
    torch.manual_seed(0)
    processor = CacheProcessor(SHAPE, **{"processor_dim": 10, "mlp_dim": 7, "num_heads": 2, **options})
    torch.nn.init.normal_(processor.w_out)
    torch.nn.init.normal_(processor.norms)
    return processor.double()


def entries(batch=2, count=5):
    g = torch.Generator().manual_seed(1)
    present = torch.ones(3, batch, count, dtype=torch.bool)
    present[:, 0, -2:] = False
    return torch.randn(3, batch, count, 16, generator=g, dtype=torch.float64), present


def layer_by_layer(processor, x, present):
    """The block by its formulas, one layer, row and head at a time."""
    out = torch.zeros(*x.shape[:3], processor.w_out.shape[-1], dtype=x.dtype)

    def norm(u, layer, which):
        return u / (u.square().mean(-1, keepdim=True) + torch.finfo(u.dtype).eps).sqrt() * processor.norms[layer, which]

    for layer in range(x.shape[0]):
        for row in range(x.shape[1]):
            here = present[layer, row]
            u = x[layer, row, here] @ processor.w_in[layer]
            q, k, v = (norm(u, layer, 0) @ processor.w_qkv[layer]).chunk(3, -1)
            heads = []
            for a, b, c in zip(*(t.chunk(processor.num_heads, -1) for t in (q, k, v)), strict=True):
                logits = a @ b.T / a.shape[-1] ** 0.5
                if processor.causal:
                    logits = logits.masked_fill(torch.ones_like(logits).triu(1).bool(), -torch.inf)
                heads.append(logits.softmax(-1) @ c)
            u = u + torch.cat(heads, -1) @ processor.w_attention[layer]
            gate, up = (norm(u, layer, 1) @ processor.w_gate_up[layer]).chunk(2, -1)
            u = u + (gate * torch.sigmoid(gate) * up) @ processor.w_down[layer]
            out[layer, row, here] = norm(u, layer, 2) @ processor.w_out[layer]
    return out


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"values_only": True}])
def test_equals_its_formulas(options):
    processor, (x, present) = make(**options), entries()
    found = processor(x, present)
    assert found.shape[-1] == (8 if options.get("values_only") else 16)
    assert_close(found * present[..., None], layer_by_layer(processor, x, present), rtol=1e-12)


def test_absent_entries_change_nothing():
    processor, (x, present) = make(), entries()
    other = x.masked_fill(~present[..., None], 1e3)
    assert torch.equal(processor(x, present)[present], processor(other, present)[present])


def test_no_entries():
    processor, (x, present) = make(), entries()
    assert processor(x[:, :, :0], present[:, :, :0]).shape == (3, 2, 0, 16)


def test_a_new_one_is_zero_and_learns():
    processor = CacheProcessor(SHAPE, processor_dim=10, mlp_dim=7, num_heads=2)
    x, present = entries()
    change = processor(x.float(), present)
    assert change.eq(0).all() and processor.gate.eq(0.5).all()
    (change.sum() + processor.gate.sum()).backward()
    assert processor.w_out.grad.abs().sum() > 0 and processor.gate_logit.grad.abs().sum() > 0


def test_parameter_counts_of_the_paper():
    """109 % of SmolLM2-135M (134.5 M) at the paper's sizes, 8 % at ours."""
    smollm2 = CacheShape(num_layers=30, num_kv_heads=3, head_dim=64)
    with torch.device("meta"):
        paper = CacheProcessor(smollm2, processor_dim=512, mlp_dim=2240, num_heads=16)
        small = CacheProcessor(smollm2)
    assert paper.num_parameters() / 134.5e6 == pytest.approx(1.09, abs=0.005)
    assert small.num_parameters() / 134.5e6 == pytest.approx(0.081, abs=0.001)


@pytest.mark.parametrize("options", [{}, {"causal": True, "values_only": True}])
def test_save_and_load(tmp_path, options):
    processor, (x, present) = make(**options).bfloat16(), entries()
    processor.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE}
    again = CacheProcessor.from_pretrained(tmp_path)
    assert again.gate.dtype == torch.bfloat16 and all(p.requires_grad for p in again.parameters())
    assert torch.equal(again(x.bfloat16(), present), processor(x.bfloat16(), present))


def test_files_that_are_not_ours_are_refused(tmp_path):
    with pytest.raises(OSError, match="does not exist"):
        CacheProcessor.from_pretrained(tmp_path)
    make().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(settings | {"mlp_dim": 9}))
    with pytest.raises(ValueError, match="does not fit the configuration beside it: w_down"):
        CacheProcessor.from_pretrained(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(settings | {"kind": "another"}))
    with pytest.raises(ValueError, match=r"should describe a memarch\.CacheProcessor by"):
        CacheProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processor_dim": 0}, "processor_dim must be an integer of at least 1; got 0"),
        ({"mlp_dim": 2.5}, "mlp_dim must be an integer of at least 1; got 2.5"),
        ({"num_heads": 3}, "divisible by num_heads; got 10 and 3"),
    ],
)
def test_bad_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        CacheProcessor(SHAPE, **{"processor_dim": 10, "mlp_dim": 7, "num_heads": 2, **options})


def test_wrong_entries():
    with pytest.raises(ValueError, match=r"entries must be \[L=3, B, S, W=16\]; got \[3, 2, 5, 8\]"):
        make()(torch.zeros(3, 2, 5, 8), torch.ones(3, 2, 5, dtype=torch.bool))
