"""GRU and LSTM with resets: act = learn, forgetting, the plain torch layer, errors."""

from functools import partial

import pytest
import torch

from memarch.layers.recurrent import GRU, LSTM, RecurrentState

from ._episode_cases import check_act_equals_learn, check_causal, check_errors, check_reset_forgets, steps

D_MODEL = 7


@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_act_equals_learn(kind):
    layer = kind(D_MODEL).double()
    check_act_equals_learn(layer, D_MODEL)
    check_causal(layer, D_MODEL)
    check_reset_forgets(layer, D_MODEL)


@pytest.mark.parametrize(("kind", "plain"), [(GRU, torch.nn.GRU), (LSTM, torch.nn.LSTM)])
def test_without_resets_it_is_torchs(kind, plain):
    layer, other = kind(D_MODEL).double(), plain(D_MODEL, D_MODEL, batch_first=True).double()
    other.load_state_dict(layer.core.state_dict())
    x, _ = steps(D_MODEL, 0, 0.0)
    torch.testing.assert_close(layer(x)[0], other(x)[0])


def step_by_step(layer, x, state, *, reset):
    """The definition: before each step the states of the rows that reset are emptied."""
    states, parts = [s[None] for s in (state.hidden, state.cell) if s is not None], []
    for t in range(x.shape[1]):
        states = [s * ~reset[None, :, t, None] for s in states]
        y, states = layer.core(x[:, t : t + 1], states[0] if len(states) == 1 else tuple(states))
        states = states if isinstance(states, tuple) else [states]
        parts.append(y)
    return torch.cat(parts, 1), RecurrentState(*(s[0] for s in states))


# One reset now and then, so that an LSTM runs between them; dense ones; every step; longer than a block of gradients.
@pytest.mark.parametrize("every", [71, 11, 3, 1])
@pytest.mark.parametrize("kind", [GRU, LSTM])
@pytest.mark.parametrize("first", [True, False])
def test_resets_equal_the_steps_one_by_one(kind, every, first):
    g = torch.Generator().manual_seed(every)
    rows, num_steps = 5, 53
    layer = kind(D_MODEL).double()
    x, hidden, cell = (
        torch.randn(*shape, D_MODEL, generator=g, dtype=torch.float64, requires_grad=True)
        for shape in ((rows, num_steps), (rows,), (rows,))
    )
    state = RecurrentState(hidden, cell if kind is LSTM else None)
    reset = torch.rand(rows, num_steps, generator=g) < 1 / every
    reset[0] = False
    reset[1, 0], reset[2, 0], reset[3, -1] = first, False, True
    learned = [*layer.parameters(), x, hidden, *([cell] if kind is LSTM else [])]
    results = []
    for run in (partial(step_by_step, layer), layer):
        y, after = run(x, state, reset=reset)
        outputs = [y, after.hidden, *([after.cell] if kind is LSTM else [])]
        weights = [torch.randn(r.shape, generator=g.manual_seed(i), dtype=r.dtype) for i, r in enumerate(outputs)]
        loss = sum((w * r).sum() for w, r in zip(weights, outputs, strict=True))
        results.append([*outputs, *torch.autograd.grad(loss, learned)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        y, after = layer(x, state, reset=reset)
    torch.testing.assert_close([y, after.hidden], results[0][:2], rtol=1e-10, atol=1e-10)


def test_all_episodes_run_in_one_call():
    """Of the core, however many resets there are; with gradients one per block of steps, when acting one per step."""
    layer, calls = GRU(D_MODEL).double(), []
    layer.core.register_forward_hook(lambda *_: calls.append(1))
    x, reset = steps(D_MODEL, 3, 0.3)
    with torch.no_grad():
        _, state = layer(x, reset=reset)
        assert len(calls) == 1
        layer(x[:, :1], state, reset=reset[:, :1])
        assert len(calls) == 2
    reset = torch.zeros_like(reset)
    reset[:, ::2] = True
    layer(x, reset=reset)
    assert len(calls) == 3


def test_state_and_errors():
    layer = LSTM(D_MODEL).double()
    check_errors(layer, D_MODEL)
    _, state = layer(steps(D_MODEL, 0, 0.0)[0])
    assert state.cell.requires_grad and not state.detach().cell.requires_grad and state.to("meta").cell.is_meta
