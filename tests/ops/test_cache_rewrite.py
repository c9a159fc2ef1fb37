"""cache_gather and cache_add against their references; identity to the bit; gradients; each ValueError."""

from __future__ import annotations

import pytest
import torch

from memarch.ops import cache_add, cache_add_reference, cache_gather, cache_gather_reference
from memarch.testing import assert_close

from ._cache_rewrite_cases import BATCH, HEADS, LAYERS, LENGTH, SELECTED, WIDTH, case, change_for


@pytest.mark.parametrize("scale", [1.0, 1.3])
@pytest.mark.parametrize("shared", [False, True], ids=["rows", "shared"])
def test_equal_the_references(scale, shared):
    inputs = case(scale=scale, shared=shared)
    gathered = cache_gather(**inputs)
    assert gathered.shape == (LAYERS, BATCH, SELECTED, 2 * HEADS * WIDTH)
    assert_close(gathered, cache_gather_reference(**inputs), rtol=1e-12)
    for width in (2, 1):
        change, gate = change_for(width)
        ours = cache_add(**inputs, change=change, gate=gate)
        theirs = cache_add_reference(**inputs, change=change, gate=gate)
        for mine, want, before in zip(ours, theirs, (inputs["keys"], inputs["values"]), strict=True):
            for a, b, c in zip(mine, want, before, strict=True):
                assert_close(a, b, rtol=1e-12)
                assert (a is c) if width == 1 and before is inputs["keys"] else not torch.equal(a, c)


def test_gather_undoes_the_rotation_of_add():
    """What is added unrotated is what gathering finds more, also where cos and sin carry a scale."""
    inputs = case(scale=1.3)
    change, gate = change_for(2)
    before = cache_gather(**inputs)
    keys, values = cache_add(**inputs, change=change, gate=gate)
    after = cache_gather(**inputs | {"keys": keys, "values": values})
    wanted = (gate[:, None, None, None] * change).masked_fill((inputs["index"] < 0)[..., None], 0)
    assert_close(after - before, wanted, rtol=1e-12)


def test_no_change_is_exactly_none_and_entries_not_selected_are_untouched():
    inputs = case(dtype=torch.bfloat16)
    zero = torch.zeros(LAYERS, BATCH, SELECTED, 2 * HEADS * WIDTH, dtype=torch.bfloat16)
    gate = torch.full((LAYERS,), 0.5)
    keys, values = cache_add(**inputs, change=zero, gate=gate)
    assert all(torch.equal(a, b) for a, b in zip(keys + values, inputs["keys"] + inputs["values"], strict=True))
    change, gate = change_for(2)
    keys, values = cache_add(**inputs, change=change.bfloat16(), gate=gate)
    for layer, slots in enumerate(inputs["index"]):
        for row, chosen in enumerate(slots):
            rest = torch.ones(LENGTH, dtype=torch.bool)
            rest[chosen[chosen >= 0]] = False
            for new, old in ((keys, inputs["keys"]), (values, inputs["values"])):
                assert torch.equal(new[layer][row, rest], old[layer][row, rest])
                assert not torch.equal(new[layer][row, ~rest], old[layer][row, ~rest])


def test_in_place_is_the_same_memory():
    inputs = case()
    change, gate = change_for(2)
    expected = cache_add(**inputs, change=change, gate=gate)
    places = [x.data_ptr() for x in inputs["keys"] + inputs["values"]]
    keys, values = cache_add(**inputs, change=change, gate=gate, in_place=True)
    assert [x.data_ptr() for x in keys + values] == places
    assert all(torch.equal(a, b) for a, b in zip(keys + values, expected[0] + expected[1], strict=True))


def test_what_no_entry_holds_may_be_anything():
    inputs = case()
    change, gate = change_for(2)
    expected = cache_add(**inputs, change=change, gate=gate)
    poisoned = change.masked_fill((inputs["index"] < 0)[..., None], torch.nan)
    keys, values = cache_add(**inputs, change=poisoned, gate=gate)
    assert all(torch.equal(a, b) for a, b in zip(keys + values, expected[0] + expected[1], strict=True))


def test_gradients():
    inputs = case(length=4, selected=2, num_heads=1, width=4)
    index, cos, sin = (inputs[name] for name in ("index", "cos", "sin"))
    keys, values = ([x.contiguous() for x in inputs[name]] for name in ("keys", "values"))
    change, gate = change_for(2, selected=2, num_heads=1, width=4)

    def through(k0, k1, v0, v1, change, gate):
        ks, vs = [k0, k1], [v0, v1]
        new_keys, new_values = cache_add(ks, vs, index, change, gate=gate, cos=cos, sin=sin)
        return (cache_gather(new_keys, new_values, index, cos=cos, sin=sin), *new_keys, *new_values)

    leaves = [x.requires_grad_() for x in (*keys, *values, change, gate)]
    assert torch.autograd.gradcheck(through, leaves)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": torch.zeros(2, 3)}, r"index must be int64 \[L, B, S\]; got torch.float32"),
        ({"keys": []}, "one tensor per layer of index, 2; got 0, 2"),
        ({"cos": torch.zeros(3, LENGTH)}, r"cos must be \[B=3 or 1, T=11, D=6\]; got \[3, 11\]"),
        ({"sin": torch.zeros(1, 5, WIDTH)}, r"sin must be \[B=3 or 1, T=11, D=6\]; got \[1, 5, 6\]"),
        ({"backend": "cuda"}, "backend must be one of"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        cache_gather(**case() | change)


def test_bad_changes_and_layers():
    inputs = case()
    change, gate = change_for(2)
    with pytest.raises(ValueError, match=r"change must be \[2, 3, 5\] \+ \[24\], or \[12\] for values only; got"):
        cache_add(**inputs, change=change[..., :7], gate=gate)
    with pytest.raises(ValueError, match=r"gate must be \[L=2\]; got \[1\]"):
        cache_add(**inputs, change=change, gate=gate[:1])
    with pytest.raises(ValueError, match=r"values\[1\] must be \[B=3, T, G, D\], the same everywhere"):
        cache_gather(**inputs | {"values": [inputs["values"][0], inputs["values"][1][:, :4]]})
    with pytest.raises(ValueError, match=r"keys\[0\] must be torch.float32|values\[0\] must be torch.float32"):
        cache_gather(**inputs | {"keys": [k.float() for k in inputs["keys"]]})
    odd = {name: [x[..., :5] for x in inputs[name]] for name in ("keys", "values")}
    with pytest.raises(ValueError, match="even width; got D=5"):
        cache_gather(**inputs | odd)
