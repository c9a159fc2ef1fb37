"""What was rewritten, noted and drawn."""

import sys

import pytest
import torch

from memarch.cache import CacheShape, RewriteRecorder, consolidate, draw_rewrites
from memarch.cache.consolidate import Rewrite

from ._tiny_models import Characters, make_model, make_processor, prompts


def rewrite_of(*rows, width=8):
    """Two layers, two selected entries a row: slots 3 and 0, and 3 and none; changes of 1 (keys) and 2 (values)."""
    index = torch.tensor([[3, 0], [3, -1]])[:, None].expand(-1, len(rows), -1)
    change = torch.full((2, len(rows), 2, width), 2.0)
    change[..., : width - 4] = 1.0
    return Rewrite(5, torch.tensor(rows), index, change.masked_fill((index < 0)[..., None], 0.0))


def test_maps_by_hand():
    recorder = RewriteRecorder(CacheShape(2, 1, 4))
    recorder(rewrite_of(1))
    assert list(recorder.steps) == [1]
    (step,) = recorder.steps[1]
    both, none = 2.5**0.5, torch.nan
    expected = torch.tensor([[both, none, none, both, none], [none, none, none, both, none]])
    assert torch.allclose(step.map(5), expected, equal_nan=True)
    assert step.by_layer(step.keys).tolist() == [1.0, 1.0] and step.by_layer(step.values).tolist() == [2.0, 2.0]


def test_values_only():
    recorder = RewriteRecorder(CacheShape(2, 1, 4))
    recorder(rewrite_of(0, 2, width=4))
    assert sorted(recorder.steps) == [0, 2]
    (step,) = recorder.steps[2]
    assert step.keys is None and step.map(5)[0, 3] == 2.0


@torch.no_grad()
@pytest.mark.parametrize("values_only", [False, True])
def test_generate_is_noted_and_drawn(tmp_path, values_only):
    """Slots noted are those that differ from a cache left alone, in every layer; then the picture of each row."""
    model = make_model()
    recorder = RewriteRecorder(model.config)
    processor = make_processor(model, values_only=values_only)
    with consolidate(model, processor, Characters(), top_k=2, on_rewrite=recorder) as c:
        model.generate(**prompts(7, 4), max_new_tokens=30, do_sample=False, eos_token_id=None,
                       past_key_values=c.new_cache())  # fmt: skip
    assert sum(map(len, recorder.steps.values())) >= c.num_rewrites > 0
    for row, steps in recorder.steps.items():
        lengths = [step.length for step in steps]
        assert lengths == sorted(lengths)
        for step in steps:
            rewritten = ~step.map(step.length).isnan()
            assert rewritten.any(1).all() and torch.equal(rewritten.sum(1), (step.index >= 0).sum(1))
            assert rewritten[:, -1].all(), "the newest entry belongs to the step"
            assert (step.values[step.index >= 0] > 0).all()
        draw_rewrites(recorder, tmp_path / f"{row}.png", row=row, title="tiny")
        assert (tmp_path / f"{row}.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == len(recorder.steps)


def test_the_change_that_is_noted_is_the_change_of_the_cache():
    model = make_model()
    recorder = RewriteRecorder(model.config)
    with (
        torch.no_grad(),
        consolidate(model, make_processor(model), Characters(), top_k=1, on_rewrite=recorder) as c,
    ):
        cache = c.new_cache()
        model(torch.tensor([[20, 21, 22]]), past_key_values=cache)
        model(torch.tensor([[3, 23]]), past_key_values=cache)
        before = [layer.values.clone() for layer in cache.layers]
        c.rewrite(cache)
    (step,) = recorder.steps[0]
    for layer in range(3):
        moved = (cache.layers[layer].values - before[layer]).square().mean((0, 1, 3)).sqrt()
        noted = torch.zeros(5).scatter(0, step.index[layer], step.values[layer])
        assert torch.allclose(moved, noted, rtol=1e-4, atol=1e-6) and (noted > 0).sum() == 3


def test_what_cannot_be_drawn(tmp_path, monkeypatch):
    recorder = RewriteRecorder(CacheShape(2, 1, 4))
    with pytest.raises(ValueError, match=r"row 0 has no rewriting to draw \(rows that have: none\)"):
        draw_rewrites(recorder, tmp_path / "a.png")
    recorder(rewrite_of(2))
    with pytest.raises(ValueError, match=r"row 0 has no rewriting to draw \(rows that have: 2\)"):
        draw_rewrites(recorder, tmp_path / "a.png")
    with pytest.raises(ValueError, match="got changes of 2 layers and 12 numbers an entry"):
        recorder(rewrite_of(0, width=12))
    with pytest.raises(OSError, match="nowhere"):
        draw_rewrites(recorder, tmp_path / "nowhere" / "a.png", row=2)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'memarch\[chat\]'"):
        draw_rewrites(recorder, tmp_path / "a.png", row=2)
    assert list(tmp_path.iterdir()) == []


@torch.no_grad()
def test_a_processor_that_changes_nothing_can_be_drawn(tmp_path):
    """What it was given is seen even so: entries of change 0 are rewritten ones."""
    model = make_model()
    recorder = RewriteRecorder(model.config)
    with consolidate(model, make_processor(model, active=False), Characters(), on_rewrite=recorder) as c:
        cache = c.new_cache()
        model(torch.tensor([[20, 21]]), past_key_values=cache)
        model(torch.tensor([[22]]), past_key_values=cache)
        c.rewrite(cache)
    (step,) = recorder.steps[0]
    assert step.map(3).eq(0).all()
    draw_rewrites(recorder, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
