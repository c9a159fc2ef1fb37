"""chunk_attention against its reference in float64: every form, output and every gradient, at distinct prime sizes."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor

from memarch.ops import ChunkAttentionWeights, chunk_attention, chunk_attention_reference
from memarch.ops import _chunk_attention_blocks as blocks
from memarch.ops import _chunk_attention_forms as forms
from memarch.ops._chunk_attention_inputs import FORMS, sinusoids
from memarch.testing import assert_close, relative_rms

from ._chunk_attention_cases import B, D, Inputs, M, T, call, make, results

module = importlib.import_module("memarch.ops.chunk_attention")
"""The module: memarch.ops.chunk_attention is the function."""


def compare(i: Inputs, form: str, rtol: float = 1e-12, **options) -> None:
    actual = results(chunk_attention, i, form=form, **options)
    for name, expected in results(chunk_attention_reference, i, **options).items():
        assert_close(actual[name], expected, rtol=rtol, name=f"{form} {name}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("top_k", [2, 3, 20])
@pytest.mark.parametrize("normalize", ["top_k", "all"])
@pytest.mark.parametrize("stop_gradient", [True, False])
def test_output_and_every_gradient(form, top_k, normalize, stop_gradient):
    compare(make(), form, top_k=top_k, normalize=normalize, stop_gradient=stop_gradient)


@pytest.mark.parametrize("form", FORMS)
def test_without_masks_or_bias(form):
    compare(make()._replace(visible=None, row_valid=None, router_bias=None), form)


def test_stop_gradient_is_the_default_and_can_be_lifted():
    default, lifted = results(chunk_attention, make()), results(chunk_attention, make(), stop_gradient=False)
    assert default["contents"].abs().sum() == 0 and default["summaries"].abs().sum() == 0
    assert lifted["contents"].abs().sum() > 0 and lifted["summaries"].abs().sum() > 0
    assert all(default[n].abs().sum() > 0 for n in default if n not in ("contents", "summaries"))


def test_gradcheck():
    i = make()

    def smooth(x, summaries, contents, bias, *weights):
        parts = i._replace(
            x=x[:1, :2],
            summaries=summaries[:1, :3],
            contents=contents[:1, :3],
            visible=i.visible[:1, :2, :3],
            row_valid=i.row_valid[:1, :3],
            router_bias=bias[:1, :2, :3],
            weights=ChunkAttentionWeights(*weights),
        )
        return call(chunk_attention, parts, stop_gradient=False, form="absorbed", top_k=2)

    assert torch.autograd.gradcheck(
        smooth, (i.x, i.summaries, i.contents, i.router_bias, *i.weights), fast_mode=True, atol=1e-7
    )


def by_hand(top_k: int, normalize: str) -> float:
    """One channel, one query 1, chunks of summaries 0, log 2, log 3 holding the single values 6, 10, 20."""
    shares = {1: {3: 3.0}, 2: {3: 3.0, 2: 2.0}}[top_k]
    total = sum(shares.values()) if normalize == "top_k" else 6.0
    values = {2: 10.0, 3: 20.0}
    return sum(share / total * values[chunk] for chunk, share in shares.items())


@pytest.mark.parametrize("fn", [chunk_attention, chunk_attention_reference])
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("normalize", ["top_k", "all"])
def test_a_value_computed_by_hand(fn, top_k, normalize):
    one = torch.ones(1, 1, dtype=torch.float64)
    # A single row is the newest, at position 0: sin 0 = 0 is added to it.
    contents = torch.tensor([6.0, 10.0, 20.0], dtype=torch.float64).view(1, 3, 1, 1)
    summaries = torch.tensor([0.0, math.log(2), math.log(3)], dtype=torch.float64).view(1, 3, 1)
    weights = ChunkAttentionWeights(*[one] * 6)
    y = fn(one[None], summaries, contents, weights=weights, num_heads=1, top_k=top_k, normalize=normalize)
    assert y.item() == pytest.approx(by_hand(top_k, normalize), rel=1e-12)


def test_positions_count_from_the_newest_row():
    p = sinusoids(4, 6, torch.zeros((), dtype=torch.float64))
    assert p.shape == (4, 6) and torch.equal(p[3], torch.tensor([0.0, 0, 0, 1, 1, 1], dtype=torch.float64))
    assert p[0, 0].item() == pytest.approx(math.sin(3)) and p[2, 3].item() == pytest.approx(math.cos(1))


@pytest.mark.parametrize("fn", [chunk_attention, chunk_attention_reference])
def test_equal_scores_take_the_lower_index(fn):
    i = make()
    # Whole numbers: every way of adding them up gives the same score, as rounding would not.
    whole = {n: getattr(i.weights, n).round() for n in ("router_query", "router_key")}
    same = i._replace(
        x=i.x.round(),
        summaries=torch.ones(B, M, D, dtype=torch.float64),
        weights=i.weights._replace(**whole),
        visible=None,
        row_valid=None,
        router_bias=None,
    )
    first = same._replace(summaries=same.summaries[:, :2], contents=same.contents[:, :2])
    torch.testing.assert_close(call(fn, same, top_k=2), call(fn, first, top_k=2), rtol=1e-12, atol=0)
    # Among the visible ones only.
    hidden = torch.ones(B, T, M, dtype=torch.bool)
    hidden[..., 0] = False
    second = same._replace(summaries=same.summaries[:, 1:3], contents=same.contents[:, 1:3])
    torch.testing.assert_close(
        call(fn, same._replace(visible=hidden), top_k=2), call(fn, second, top_k=2), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("normalize", ["top_k", "all"])
def test_no_visible_chunk_gives_exactly_zero_and_no_gradient(form, normalize):
    i = make()
    y = call(chunk_attention, i, form=form, normalize=normalize)
    assert torch.all(y[1, 2] == 0) and y[1, 1].abs().sum() > 0
    leaves = [i.x, i.router_bias, *i.weights]
    grads = torch.autograd.grad(y[1, 2].sum(), leaves, retain_graph=True)
    assert all(torch.all(g == 0) for g in grads)
    nothing = i._replace(visible=torch.zeros_like(i.visible))
    all_zero = results(chunk_attention, nothing, form=form, stop_gradient=False, normalize=normalize)
    assert all(torch.all(z == 0) for z in all_zero.values())


@pytest.mark.parametrize("form", FORMS)
def test_what_nobody_sees_may_hold_anything(form):
    i = make()
    hidden = i.visible.clone()
    hidden[:, :, 5] = False
    i = i._replace(visible=hidden)
    expected = results(chunk_attention, i, form=form)
    with torch.no_grad():
        i.contents[~i.row_valid] = float("nan")
        i.contents[:, 5], i.summaries[:, 5] = float("inf"), float("nan")
    for name, actual in results(chunk_attention, i, form=form).items():
        assert torch.equal(actual, expected[name]), name
    with torch.no_grad():
        assert torch.equal(call(chunk_attention, i, form=form), expected["y"])


@pytest.mark.parametrize("num_bytes", [1, 2000, 10**9])
def test_blocks_of_queries_of_any_size(num_bytes, monkeypatch):
    """One query at a time, a few with a rest, all at once; memory that does not lie in order."""
    monkeypatch.setitem(blocks.BLOCK_BYTES, "cpu", num_bytes)
    i = make()
    compare(i, "absorbed", stop_gradient=False)
    compare(i._replace(contents=i.contents.detach().mT.contiguous().mT.requires_grad_()), "absorbed")


def test_second_derivatives_of_blocks():
    i = make()
    small = i._replace(x=i.x[:1, :2], summaries=i.summaries[:1, :3], visible=None, row_valid=None, router_bias=None)

    def smooth(x, contents, key):
        weights = small.weights._replace(key=key)
        parts = small._replace(x=x, contents=contents, weights=weights)
        return call(chunk_attention, parts, stop_gradient=False, form="absorbed", top_k=2)

    arguments = (small.x.detach().requires_grad_(), i.contents[:1, :3].detach().requires_grad_(), i.weights.key)
    assert torch.autograd.gradgradcheck(smooth, arguments, fast_mode=True, atol=1e-6)


def plant_position(i):
    return i._replace(contents=i.contents.flip(2), row_valid=i.row_valid.flip(2))


def plant_mask(i):
    return i._replace(visible=torch.ones_like(i.visible))


def plant_rows(i):
    return i._replace(row_valid=torch.ones_like(i.row_valid))


def plant_bias(i):
    return i._replace(router_bias=-i.router_bias)


@pytest.mark.parametrize("plant", [plant_position, plant_mask, plant_rows, plant_bias])
def test_planted_bugs_show(plant):
    i = make()
    expected = call(chunk_attention_reference, i)
    assert relative_rms(call(chunk_attention, i), expected) < 1e-12
    assert relative_rms(call(chunk_attention, plant(i)), expected) > 0.05


def test_planted_bugs_in_the_code_show(monkeypatch):
    i = make()
    select = forms.select_chunks
    for change in (lambda s: s._replace(weight=s.weight * 0 + 1 / 3), lambda s: s._replace(chunk=s.chunk.flip(-1))):
        monkeypatch.setattr(module, "select_chunks", lambda *a, c=change: c(select(*a)))
        for form in FORMS:
            with pytest.raises(AssertionError, match="relative RMS"):
                compare(i, form)


@pytest.mark.parametrize("dtype,rtol", [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("form", FORMS)
def test_narrow_dtypes(form, dtype, rtol):
    narrow = make(dtype=dtype)
    wide = narrow._replace(
        **{n: z.double() for n, z in narrow._asdict().items() if isinstance(z, Tensor) and z.is_floating_point()},
        weights=ChunkAttentionWeights(*(w.double() for w in narrow.weights)),
    )
    y = call(chunk_attention, narrow, form=form)
    assert y.dtype == dtype
    assert_close(y, call(chunk_attention_reference, wide), rtol=rtol)


def test_the_form_follows_the_sizes():
    def chosen(time, num_chunks, top_k):
        return forms.choose_form(torch.zeros(1, time, 8), torch.zeros(1, num_chunks, 2, 8), top_k)

    assert chosen(1, 8, 8) == "absorbed" and chosen(64, 8, 4) == "dense" and chosen(64, 32, 4) == "absorbed"


@pytest.mark.parametrize("num_chunks", [9, 40])
def test_the_largest_scores_are_those_of_a_stable_sort(num_chunks):
    """Few distinct numbers: ties inside the selection and at its end; the lowest number for what is not allowed."""
    scores = torch.randint(0, 12, (3, 50, num_chunks)).float()
    scores[0, :20] = torch.finfo(torch.float32).min
    scores[0, :20, 7] = 1.0
    scores[1] = torch.randn(50, num_chunks)
    for part in (scores, scores[:1, :20], scores[1:2]):
        want = part.sort(dim=-1, descending=True, stable=True).indices[..., :2]
        found = forms._largest(part, 2)
        allowed = part.gather(-1, want) > torch.finfo(torch.float32).min
        assert torch.equal(found[allowed], want[allowed]) and found.max() < num_chunks


def test_more_chunks_than_queries_and_more_queries_than_chunks():
    """The router's W_K goes through whichever are fewer."""
    i = make(time=3, num_chunks=11)
    compare(i, "absorbed")
    compare(make(time=11, num_chunks=3), "dense")


def test_the_chosen_form_is_used(monkeypatch):
    def reached(*args):
        raise RuntimeError("dense")

    monkeypatch.setitem(forms.FORM, "dense", reached)
    call(chunk_attention, make(), form="gather")
    with pytest.raises(RuntimeError, match="dense"):
        call(chunk_attention, make(), form="dense")


BAD = {
    "x not 3-d": ({"x": lambda i: i.x[0]}, r"x must have shape \[B, T, D\] and not be empty; got \[5, 11\]"),
    "x empty": ({"x": lambda i: i.x[:, :0]}, r"not be empty; got \[2, 0, 11\]"),
    "x integer": ({"x": lambda i: i.x.long()}, r"x must have a floating-point dtype; got torch.int64"),
    "x a list": ({"x": lambda i: [1.0]}, r"x must be a tensor; got list"),
    "contents width": (
        {"contents": lambda i: i.contents[..., :5]},
        r"contents .* = \[2, 7, 3, 11\]; got \[2, 7, 3, 5\]",
    ),
    "summaries": ({"summaries": lambda i: i.summaries[:, :3]}, r"summaries .* = \[2, 7, 11\]; got \[2, 3, 11\]"),
    "contents dtype": ({"contents": lambda i: i.contents.float()}, r"contents must have dtype x's torch.float64; got"),
    "contents device": ({"contents": lambda i: i.contents.to("meta")}, r"on x's device cpu; got meta: move it"),
    "visible shape": ({"visible": lambda i: i.visible[0]}, r"visible .* \[B, T, M\] = \[2, 5, 7\]; got \[5, 7\]"),
    "visible dtype": (
        {"visible": lambda i: i.visible.double()},
        r"visible must have dtype torch.bool.*got torch.float64",
    ),
    "row_valid": ({"row_valid": lambda i: i.row_valid[..., :2]}, r"row_valid .* = \[2, 7, 3\]; got \[2, 7, 2\]"),
    "bias": ({"router_bias": lambda i: i.router_bias.mT}, r"router_bias .* = \[2, 5, 7\]; got \[2, 7, 5\]"),
    "weights type": ({"weights": lambda i: tuple(i.weights)}, r"weights must be ChunkAttentionWeights; got tuple"),
    "weight shape": (
        {"weights": lambda i: i.weights._replace(output=i.weights.output.mT)},
        r"weights.output must have shape \[D, F\] = \[11, 26\]; got \[26, 11\]",
    ),
    "weight dtype": (
        {"weights": lambda i: i.weights._replace(key=i.weights.key.long())},
        r"weights.key must be a floating-point matrix; got torch.int64",
    ),
    "heads": ({"num_heads": lambda i: 3}, r"num_heads must divide the 26 rows of weights.query; got 3"),
    "k": ({"top_k": lambda i: 0}, r"top_k must be an integer of at least 1; got 0"),
    "k bool": ({"top_k": lambda i: True}, r"top_k must be an integer of at least 1; got True"),
    "normalize": ({"normalize": lambda i: "topk"}, r"normalize must be one of 'top_k', 'all'; got 'topk'"),
    "form": ({"form": lambda i: "fast"}, r"form must be None .* got 'fast'"),
}


@pytest.mark.parametrize("fn", [chunk_attention, chunk_attention_reference])
@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, fn):
    changes, message = BAD[case]
    i = make()
    fields = {n: change(i) for n, change in changes.items() if n in Inputs._fields}
    options = {n: change(i) for n, change in changes.items() if n not in Inputs._fields}
    with pytest.raises(ValueError, match=message):
        call(fn, i._replace(**fields), **options)


def test_backend_argument():
    i = make()
    assert torch.equal(call(chunk_attention, i, backend="torch"), call(chunk_attention, i))
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'torch', 'triton'; got 'fast'"):
        call(chunk_attention, i, backend="fast")
