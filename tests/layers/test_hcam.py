"""HCAM: acting equals learning, who sees what, against a slow writer of its own, gradients, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memarch.layers import _hcam_memory
from memarch.layers.hcam import HCAM
from memarch.ops import ChunkAttentionWeights, chunk_attention_reference

from ._episode_cases import (
    B,
    T,
    check_act_equals_learn,
    check_causal,
    check_errors,
    check_reset_forgets,
    in_pieces,
    steps,
)

D_MODEL, HEADS = 12, 3
BASE = {"chunk_size": 3, "top_k": 2, "num_chunks": 5, "local_window": 4}


def make(**options) -> HCAM:
    torch.manual_seed(0)
    layer = HCAM(D_MODEL, HEADS, **{**BASE, **options}).double()
    for parameter in (layer.age_keys, layer.pooling):
        if parameter is not None:
            torch.nn.init.normal_(parameter)
    return layer


OPTIONS = {
    "episode": {},
    "never": {"reset_memory": "never"},
    "small ring": {"reset_memory": "never", "num_chunks": 2},
    "single steps": {"chunk_size": 1, "num_chunks": 4},
    "learned, age": {"reset_memory": "never", "summary": "learned", "chunk_age": True},
    "window gradients": {"gradient_window": True, "summary": "learned"},
    "as released": {"start": "random", "mlp": "gelu"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_act_equals_learn(name):
    layer = make(**OPTIONS[name])
    check_act_equals_learn(layer, D_MODEL)
    check_causal(layer, D_MODEL)


@settings(max_examples=60)
@given(
    chunk_size=st.integers(1, 5),
    num_chunks=st.integers(2, 6),
    extra=st.integers(0, 4),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    resets=st.sets(st.tuples(st.integers(0, B - 1), st.integers(0, T - 1)), max_size=20),
    cuts=st.sets(st.integers(1, T - 1), max_size=T - 1),
)
def test_resets_anywhere_cuts_anywhere(chunk_size, num_chunks, extra, flags, resets, cuts):
    never, learned, age = flags
    layer = make(
        chunk_size=chunk_size,
        num_chunks=num_chunks,
        local_window=chunk_size + extra,
        reset_memory="never" if never else "episode",
        summary="learned" if learned else "mean",
        chunk_age=age,
    )
    x, reset = steps(D_MODEL, 5, 0.0)
    for row, step in resets:
        reset[row, step] = True
    with torch.no_grad():
        whole, end = layer(x, reset=reset)
        y, state = in_pieces(layer, x, reset, sorted(cuts))
    torch.testing.assert_close(y, whole, rtol=1e-10, atol=1e-10)
    for name in ("num_rows", "age", "num_pending"):
        assert torch.equal(getattr(state, name), getattr(end, name)), name
    torch.testing.assert_close(state.accumulator, end.accumulator)
    real = end.num_rows > 0
    torch.testing.assert_close(state.contents[real], end.contents[real])
    torch.testing.assert_close(state.summaries[real], end.summaries[real])


def slow_memory(layer: HCAM, stored: torch.Tensor, reset: torch.Tensor, never: bool):
    """For one row: the chunks (lists of steps) that each step may see, by a writer that goes step by step."""
    memory, pending, seen = [], [], []
    for t in range(T):
        if reset[t]:
            if never and pending:
                memory.append(pending)
            if not never:
                memory = []
            pending = []
        memory = memory[-layer.num_chunks :]
        seen.append(list(memory))
        pending = [*pending, t]
        if len(pending) == layer.chunk_size:
            memory, pending = [*memory, pending], []
    return seen


@pytest.mark.parametrize("never", [False, True])
def test_against_a_slow_writer_and_the_reference(never):
    layer = make(reset_memory="never" if never else "episode", num_chunks=3)
    x, reset = steps(D_MODEL, 1, 0.15)
    y, _ = layer(x, reset=reset)
    h = x + layer.local(layer.local_norm(x), reset=reset)[0]
    stored = torch.nn.functional.layer_norm(x, (D_MODEL,))
    query, weights = layer.chunk_norm(h), ChunkAttentionWeights(**layer.chunk_weights)
    for row in range(B):
        for t, chunks in enumerate(slow_memory(layer, stored, reset[row], never)):
            read = torch.zeros(1, 1, D_MODEL, dtype=torch.float64)
            if chunks:
                contents = torch.zeros(1, len(chunks), 3, D_MODEL, dtype=torch.float64)
                real = torch.zeros(1, len(chunks), 3, dtype=torch.bool)
                for i, rows in enumerate(chunks):
                    contents[0, i, 3 - len(rows) :], real[0, i, 3 - len(rows) :] = stored[row, rows], True
                read = chunk_attention_reference(
                    query[row : row + 1, t : t + 1],
                    contents.sum(2) / real.sum(2)[..., None],
                    contents,
                    weights=weights,
                    num_heads=HEADS,
                    top_k=2,
                    row_valid=real,
                )
            out = h[row, t] + read[0, 0]
            out = out + layer.mlp(layer.mlp_norm(out))
            torch.testing.assert_close(y[row, t], out, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["episode", "never", "learned, age"])
def test_reads_say_what_was_read(name):
    """What is stored is swapped for other numbers, one chunk at a time: outputs change where that chunk was read."""
    layer = make(**OPTIONS[name], local_window=3)
    x, reset = steps(D_MODEL, 1, 0.08)
    _, state = layer(x, reset=reset)
    x, reset = steps(D_MODEL, 2, 0.0)
    one, begins = x[:, :1], reset[:, :1]
    reads = layer.reads(one, state, reset=begins)
    full = (state.num_rows > 0).any(1)
    assert full.sum() >= 2 and reads.weight.shape == (B, 1, 2)
    torch.testing.assert_close(reads.weight.sum((1, 2)), full.double())
    y, _ = layer(one, state, reset=begins)
    for row in range(B):
        for chunk in range(5):
            if not state.num_rows[row, chunk]:
                continue
            contents = state.contents.clone()
            contents[row, chunk] += torch.randn(D_MODEL, dtype=torch.float64)
            changed, _ = layer(one, replace(state, contents=contents), reset=begins)
            last = int(state.age[row, chunk]) + 1
            read = (reads.last[row, 0] == last) & (reads.weight[row, 0] > 0)
            if layer.pooling is None:
                assert bool((changed[row] != y[row]).any()) == bool(read.any())
            if read.any():
                assert reads.first[row, 0][read].item() == last + int(state.num_rows[row, chunk]) - 1
    nothing = layer.reads(x[:, :3])
    assert torch.all(nothing.weight == 0)


def test_a_reset_empties_the_memory_of_an_episode_and_no_other():
    check_reset_forgets(make(), D_MODEL)
    x, reset = steps(D_MODEL, 2, 0.0)
    reset[:, 12] = True
    changed = x.clone()
    changed[:, 1] += 1
    with torch.no_grad():
        for never in (False, True):
            layer = make(reset_memory="never" if never else "episode", top_k=5)
            same = torch.equal(layer(x, reset=reset)[0][:, 12], layer(changed, reset=reset)[0][:, 12])
            assert same == (not never)


def test_no_finished_chunk_means_local_attention_and_mlp_only():
    layer = make()
    x, _ = steps(D_MODEL, 0, 0.0)
    y, _ = layer(x[:, :3])
    h = x[:, :3] + layer.local(layer.local_norm(x[:, :3]))[0]
    assert torch.equal(y, h + layer.mlp(layer.mlp_norm(h)))
    y.sum().backward()
    assert all(torch.all(w.grad == 0) for w in layer.chunk_weights.values())


def test_planted_bugs_show(monkeypatch):
    layer = make(reset_memory="never")
    visible = _hcam_memory.Candidates.visible

    def own_chunk_too(self, steps, num_chunks, within_episode):
        earlier = _hcam_memory.Candidates(self.summaries, self.contents, self.num_rows, self.end - 1, self.episode)
        return visible(earlier, steps, num_chunks, within_episode)

    def too_many(self, steps, num_chunks, within_episode):
        return visible(self, steps, num_chunks + 1, within_episode)

    for bug in (own_chunk_too, too_many):
        monkeypatch.setattr(_hcam_memory.Candidates, "visible", bug)
        with pytest.raises(AssertionError):
            check_act_equals_learn(layer, D_MODEL)


@pytest.mark.parametrize("gradient_window", [False, True])
def test_gradients_reach_every_parameter_and_stored_steps_only_if_asked(gradient_window):
    layer = make(summary="learned", chunk_age=True, gradient_window=gradient_window)
    x, _ = steps(D_MODEL, 0, 0.0)
    x.requires_grad_()
    layer(x)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
    x.grad = None
    y, state = layer(x)
    y[:, -1].sum().backward()
    # Far beyond the window of local attention only chunks carry a gradient.
    assert bool(x.grad[:, 6:15].abs().sum() > 0) == gradient_window
    assert state.contents.requires_grad == gradient_window


def test_learned_summaries_start_as_the_mean():
    torch.manual_seed(0)
    learned = HCAM(D_MODEL, HEADS, **BASE, summary="learned", reset_memory="never").double()
    mean = HCAM(D_MODEL, HEADS, **BASE, reset_memory="never").double()
    mean.load_state_dict({n: w for n, w in learned.state_dict().items() if n != "pooling"})
    x, reset = steps(D_MODEL, 0, 0.2)
    torch.testing.assert_close(learned(x, reset=reset)[0], mean(x, reset=reset)[0])


@pytest.mark.parametrize(("start", "at_least", "at_most"), [("recall", 0.9, 1.0), ("random", 0.0, 0.5)])
def test_a_layer_that_recalls_reads_what_is_most_like_the_query_before_it_learns(start, at_least, at_most):
    torch.manual_seed(0)
    layer = HCAM(64, 4, chunk_size=3, top_k=1, num_chunks=6, local_window=3, start=start)
    torch.nn.init.zeros_(layer.local.out_proj.weight)
    x, which = torch.randn(200, 19, 64), torch.randint(0, 6, (200,))
    x[:, 18] = x[torch.arange(200), 3 * which]
    first = layer.reads(x).first[:, 18, 0]
    found = (first == 18 - 3 * which).double().mean().item()
    assert at_least <= found <= at_most


def test_age_changes_the_choice():
    layer, plain = make(chunk_age=True), make()
    plain.load_state_dict({n: w for n, w in layer.state_dict().items() if n != "age_keys"})
    x, _ = steps(D_MODEL, 0, 0.0)
    assert not torch.allclose(layer(x)[0], plain(x)[0])
    torch.nn.init.zeros_(layer.age_keys)
    torch.testing.assert_close(layer(x)[0], plain(x)[0])


def test_state_moves_detaches_and_has_a_constant_size():
    layer = make(gradient_window=True)
    x, _ = steps(D_MODEL, 0, 0.0)
    _, state = layer(x.requires_grad_())
    assert state.contents.shape == (B, 5, 3, D_MODEL) and state.contents.requires_grad
    assert not state.detach().contents.requires_grad and state.to("meta").local.inputs.is_meta
    before = state.contents.clone()
    layer(x, state)
    assert torch.equal(before, state.contents)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chunks": 1}, "num_chunks must be at least top_k=2; got 1"),
        ({"local_window": 2}, "local_window must be at least chunk_size=3.* got 2"),
        ({"chunk_size": 0}, "chunk_size must be an integer of at least 1; got 0"),
        ({"reset_memory": "always"}, "reset_memory must be one of 'episode', 'never'; got 'always'"),
        ({"summary": "max"}, "summary must be one of 'mean', 'learned'; got 'max'"),
        ({"start": "warm"}, "start must be one of 'recall', 'random'; got 'warm'"),
        ({"mlp": "relu"}, "mlp must be one of 'swiglu', 'gelu'; got 'relu'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_bad_calls():
    check_errors(make(), D_MODEL)
    x, _ = steps(D_MODEL, 0, 0.0)
    _, state = make()(x)
    with pytest.raises(ValueError, match="must hold num_chunks=4 chunks of chunk_size=3 steps; got 5 of 3"):
        make(num_chunks=4)(x, state)
    with pytest.raises(ValueError, match=r"on x's device meta; got cpu: call state.to\('meta'\)"):
        make().to("meta")(x.to("meta"), state)
