"""The notes on a cache, without a model."""

from types import SimpleNamespace

import pytest
import torch

from memarch.cache.tracker import CacheTracker

LAYERS, BATCH, HEADS, WIDTH = 3, 2, 5, 4


class Cache(SimpleNamespace):
    pass


def passes(sizes, keep=7):
    """A tracker after forward passes of these sizes, the first a prompt; queries that say layer, row, slot."""
    cache = Cache()
    tracker = CacheTracker(cache, keep)
    done = 0
    for i, size in enumerate(sizes):
        slots = torch.arange(done, done + size, dtype=torch.float64)
        queries = [
            (100 * layer + 10 * torch.arange(BATCH)[:, None] + slots)[..., None].expand(-1, -1, HEADS * WIDTH)
            for layer in range(LAYERS)
        ]
        ones = torch.ones(1, size, WIDTH, dtype=torch.float64)
        valid = torch.ones(BATCH, size, dtype=torch.bool)
        tracker.append(valid, ones, 0 * ones, [] if i == 0 else queries, prompt=i == 0)
        done += size
    return tracker, cache


def test_queries_of_every_layer_row_and_slot():
    tracker, _cache = passes([4, 1, 1, 3, 1])
    queries, start = tracker.queries(5, HEADS)
    assert queries.shape == (LAYERS, BATCH, 5, HEADS, WIDTH) and start == 5
    expected = 100 * torch.arange(LAYERS)[:, None, None] + 10 * torch.arange(BATCH)[:, None] + torch.arange(5, 10)
    assert torch.equal(queries[..., 0, 0], expected.double())
    assert tracker.length == 10 and tracker.since.tolist() == [6, 6] and tracker.step_start.tolist() == [4, 4]


def test_old_queries_are_dropped_and_long_passes_cut():
    tracker, _cache = passes([4, 2, 9, 1], keep=3)
    queries, start = tracker.queries(0, HEADS)
    assert start == 12 and queries.shape[2] == 4
    with pytest.raises(ValueError, match="no queries of slot 16 or later are kept; a cache of 16 slots"):
        tracker.queries(16, HEADS)


def test_reordered_rows_bring_their_past():
    tracker, _cache = passes([4, 2, 1])
    tracker.begin_step(torch.tensor([True, False]))
    tracker.reorder(torch.tensor([1, 1]))
    assert tracker.step_start.tolist() == [4, 4] and tracker.since.tolist() == [3, 3]
    one = torch.ones(1, 1, WIDTH, dtype=torch.float64)
    new = [torch.full((BATCH, 1, HEADS * WIDTH), 7.0, dtype=torch.float64)] * LAYERS
    new = [q + 10 * torch.arange(BATCH)[:, None, None] for q in new]
    tracker.append(torch.ones(BATCH, 1, dtype=torch.bool), one, 0 * one, new, prompt=False)
    tracker.reorder(torch.tensor([1, 0]))
    queries, _ = tracker.queries(4, HEADS)
    assert queries[0, :, :, 0, 0].tolist() == [[14, 15, 16, 17], [14, 15, 16, 7]]


def test_clear():
    tracker, _cache = passes([4, 2])
    tracker.clear()
    assert tracker.length == 0


def test_padding_and_rotations_of_all_slots():
    tracker, _cache = passes([4, 2])
    row = torch.full((BATCH, 1, WIDTH), 0.5, dtype=torch.float64)
    tracker.append(torch.tensor([[True], [False]]), row, row, [], prompt=False)
    assert tracker.valid[:, -1].tolist() == [True, False] and tracker.valid.shape == (BATCH, 7)
    cos, sin = tracker.rotation
    assert cos.shape == (BATCH, 7, WIDTH) and cos[:, -1].eq(0.5).all() and sin[:, :6].eq(0).all()
    assert tracker.since.tolist() == [3, 2]
