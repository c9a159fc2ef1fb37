"""Which entries are chosen, by hand, and against the attention that the model itself reports."""

import pytest
import torch

from memarch.cache import consolidate
from memarch.cache.selection import in_order, recent_slots, to_index, top_slots

from ._tiny_models import make_model, make_processor, prompts

VALID = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 1, 1]]).bool()


def slots(mask):
    return [row.nonzero()[:, 0].tolist() for row in mask]


def test_windows_by_hand():
    start = torch.tensor([5, 3])
    assert slots(recent_slots(VALID, start, "step", 9)) == [[5, 6], [3, 5, 6]]
    assert slots(recent_slots(VALID, start, "step", 2)) == [[5, 6], [5, 6]]
    assert slots(recent_slots(VALID, start, 4, 9)) == [[3, 4, 5, 6], [2, 3, 5, 6]]
    assert slots(recent_slots(VALID, start, "all", 1)) == slots(VALID)


def test_to_index_and_order():
    assert to_index(VALID).tolist() == [[2, 3, 4, 5, 6, -1], [0, 1, 2, 3, 5, 6]]
    assert to_index(torch.zeros(2, 3, dtype=torch.bool)).shape == (2, 0)
    assert in_order(torch.tensor([4, -1, 0, 2])).tolist() == [0, 2, 4, -1]


def test_top_slots_by_hand():
    score = torch.tensor([[[9.0, 1.0, 5.0, 2.0], [9.0, 1.0, 5.0, 2.0]]])
    candidates = torch.tensor([[False, True, True, True], [False, True, False, False]])
    assert top_slots(score, candidates, 2).tolist() == [[[2, 3], [1, -1]]]
    assert top_slots(score, candidates, 9).shape == (1, 2, 4)


@pytest.mark.parametrize("kind", ["llama3-rope", "qwen3", "yarn"])
@pytest.mark.parametrize("window", ["step", 9])
@torch.no_grad()
def test_the_most_attended_entries_are_those_the_model_attended_to_most(kind, window):
    """Against the probabilities of the eager attention of transformers, by the paper's formula."""
    model = make_model(kind, attn_implementation="eager")
    inputs, seen = prompts(11, 8), []
    mask = torch.ones(2, 17, dtype=torch.long)
    mask[:, :11] = inputs["attention_mask"]
    step = torch.randint(13, 34, (2, 6))
    options = {"window": window, "top_k": 3, "on_rewrite": seen.append}
    with consolidate(model, make_processor(model), trigger=99, **options) as c:
        cache = c.new_cache()
        first = model(**inputs, past_key_values=cache, output_attentions=True).attentions
        attentions = [torch.nn.functional.pad(a, (0, 6)) for a in first]
        for i in range(6):
            out = model(
                step[:, i : i + 1], attention_mask=mask[:, : 12 + i], past_key_values=cache, output_attentions=True
            )
            attentions = [
                torch.cat([a, torch.nn.functional.pad(b, (0, 5 - i))], 2)
                for a, b in zip(attentions, out.attentions, strict=True)
            ]
        c.rewrite(cache)
    recent = range(11, 17) if window == "step" else range(8, 17)
    (rewrite,) = seen
    for layer, attention in enumerate(attentions):
        for row in range(2):
            mass = attention[row, :, list(recent), : recent[0]].mean((0, 1))
            mass[: 3 * row] = -1
            expected = sorted([*mass.topk(3).indices.tolist(), *recent])
            assert rewrite.index[layer, row].tolist() == expected, (layer, row)


def test_random_selection_repeats_with_its_seed():
    model = make_model("llama")
    found = []
    for seed in (3, 3, 4):
        seen = []
        with consolidate(
            model, make_processor(model), trigger=3, select="random", top_k=2, seed=seed, on_rewrite=seen.append
        ) as c:
            model.generate(**prompts(9), max_new_tokens=8, do_sample=False, past_key_values=c.new_cache())
        found.append([r.index for r in seen])
    assert len(found[0]) == 2 and all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(found[0], found[2], strict=True))


@torch.no_grad()
@pytest.mark.parametrize("values_only", [False, True])
def test_only_selected_entries_of_rewritten_rows_change(values_only):
    model, seen = make_model("llama"), []
    processor = make_processor(model, values_only=values_only)
    with consolidate(model, processor, trigger=99, top_k=2, on_rewrite=seen.append) as c:
        cache = c.new_cache()
        model(**prompts(6, 6, 6), past_key_values=cache)
        model(torch.randint(13, 34, (3, 4)), past_key_values=cache)
        before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
        c.rewrite(cache, torch.tensor([True, False, True]))
    (rewrite,) = seen
    assert rewrite.rows.tolist() == [0, 2] and rewrite.index.shape == (3, 2, 6)
    for i, ((keys, values), layer) in enumerate(zip(before, cache.layers, strict=True)):
        changed = (values != layer.values).any(-1).any(1)
        expected = torch.zeros(3, 10, dtype=torch.bool)
        for row, chosen in zip(rewrite.rows, rewrite.index[i], strict=True):
            expected[row, chosen] = True
        assert torch.equal(changed, expected)
        assert torch.equal(keys, layer.keys) == values_only
