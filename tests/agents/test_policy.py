"""The network: acting equals learning, gradients through windows equal those of one sequence, values keep still."""

import pytest
import torch
from gymnasium import spaces

from memarch.agents import MEMORIES, MemoryPolicy, PolicySettings, _states

from ._envs import SIZES, Counter

T, N = 13, 3


def make(memory: str = "gru", sizes: PolicySettings = SIZES, reconstruct: bool = False) -> MemoryPolicy:
    torch.manual_seed(0)
    return MemoryPolicy(
        Counter.observation_space, spaces.Discrete(3), memory=memory, settings=sizes, reconstruct=reconstruct
    ).double()


@pytest.fixture
def steps() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    reset = torch.zeros(N, T, dtype=torch.bool)
    reset[:, 0] = True
    reset[0, [4, 5]] = reset[1, 7] = True
    return {"observation": torch.randn(N, T, 3, dtype=torch.float64)}, reset


@pytest.mark.parametrize("memory", MEMORIES)
def test_acting_equals_learning(memory: str, steps) -> None:
    policy = make(memory)
    policy.measure_returns(3.0, 2.0)
    observation, reset = steps
    whole, _ = policy(observation, policy.empty_state(N), reset=reset)
    state = policy.empty_state(N)
    for t in range(T):
        begins = reset[:, t : t + 1]
        seen = {name: x[:, t : t + 1] for name, x in observation.items()}
        out, state = policy(seen, state, reset=begins if begins.any() else None)
        torch.testing.assert_close(out.outputs[:, 0], whole.outputs[:, t])
        torch.testing.assert_close(out.value[:, 0], whole.value[:, t])


@pytest.mark.parametrize("memory", ["hcam", "gtrxl", "gru", "lstm", "yaad"])
def test_gradients_of_windows_with_resets_equal_those_of_unbroken_episodes(memory: str, steps) -> None:
    """Two windows with the state carried over and resets inside, against each episode as a sequence of its own."""
    policy = make(memory)
    observation, reset = steps
    x, weight = observation["observation"], torch.randn(N, T, 3, dtype=torch.float64)

    state, losses = policy.empty_state(N), []
    for first, end in ((0, 6), (6, T)):
        out, state = policy({"observation": x[:, first:end]}, state, reset=reset[:, first:end])
        losses.append((out.outputs * weight[:, first:end]).sum() + out.value.sum())
    policy.zero_grad()
    sum(losses).backward()
    windows = {name: p.grad.clone() for name, p in policy.named_parameters()}

    policy.zero_grad()
    for row in range(N):
        starts = [*reset[row].nonzero().flatten().tolist(), T]
        for first, end in zip(starts, starts[1:], strict=False):
            out, _ = policy({"observation": x[row : row + 1, first:end]})
            ((out.outputs * weight[row : row + 1, first:end]).sum() + out.value.sum()).backward()
    for name, p in policy.named_parameters():
        torch.testing.assert_close(windows[name], p.grad, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_a_snapshot_in_the_middle_replays_the_rest(steps) -> None:
    policy = make("hcam")
    observation, reset = steps
    whole, _ = policy(observation, policy.empty_state(N), reset=reset)
    _, middle = policy({"observation": observation["observation"][:, :8]}, policy.empty_state(N), reset=reset[:, :8])
    chosen = torch.tensor([2, 0])
    rest, _ = policy(
        {"observation": observation["observation"][chosen, 8:]},
        _states.select(_states.join([middle]), chosen),
        reset=reset[chosen, 8:],
    )
    torch.testing.assert_close(rest.outputs, whole.outputs[chosen, 8:])


def test_first_guesses_of_returns_are_small(steps) -> None:
    observation, reset = steps
    assert make()(observation, reset=reset)[0].value.abs().max() < 0.05


def test_measuring_returns_changes_no_value_and_every_scale(steps) -> None:
    policy = make()
    observation, reset = steps
    before = policy(observation, reset=reset)[0].value
    for mean, deviation in ((50.0, 10.0), (-3.0, 0.0), (7.0, 2.0)):
        policy.measure_returns(mean, deviation)
        torch.testing.assert_close(policy(observation, reset=reset)[0].value, before)
    assert policy.value_mean.item() == pytest.approx((50 - 3 + 7) / 3)
    # Deviation of the mixture of the three: variance of the means plus the mean of the variances.
    expected = (sum((m - 18) ** 2 for m in (50, -3, 7)) / 3 + (100 + 0 + 4) / 3) ** 0.5
    assert policy.value_deviation.item() == pytest.approx(expected)


def test_reconstruction_sees_the_observation_and_reaches_the_encoder(steps) -> None:
    policy = make(reconstruct=True)
    observation, reset = steps
    out, _ = policy(observation, reset=reset)
    loss = policy.reconstruction(out.features, observation)
    assert loss.shape == (N, T)
    loss.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in policy.encoder.parameters())
    moved = {"observation": observation["observation"] + 1}
    assert not torch.allclose(policy.reconstruction(out.features, moved), loss)
