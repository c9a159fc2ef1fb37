"""The update: the loss by hand, what the mask leaves out, processes, divergence, improvement."""

from dataclasses import replace

import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from memarch.agents import DivergedError, PPOSettings

from ._envs import SETTINGS, Counter, agent


def test_the_loss_by_its_definition() -> None:
    settings = PPOSettings(**{**vars(SETTINGS), "reconstruction_weight": 0.5})
    ppo = agent(settings=settings)
    rollout = ppo.collector.collect()
    batch = rollout.minibatch(torch.arange(8), rollout.joined_states())
    # As if the policy had moved since: probabilities of old differ both ways, some beyond the clip.
    batch = batch._replace(log_prob=batch.log_prob + torch.randn_like(batch.log_prob) * 0.3)
    batch.valid[2, 3] = False
    sums = ppo.updater.loss(batch).detach()
    with torch.no_grad():
        out, _ = ppo.policy(batch.observation, batch.state, reset=batch.reset)
    policy = value = entropy = reconstruction = kl = clipped = 0.0
    for n in range(8):
        for t in range(6):
            if n == 2 and t == 3:
                continue
            distribution = torch.distributions.Categorical(logits=out.outputs[n, t], validate_args=False)
            ratio = (distribution.log_prob(batch.action[n, t, 0]) - batch.log_prob[n, t]).exp()
            a = batch.advantage[n, t]
            policy -= min(ratio * a, min(max(ratio, torch.tensor(0.8)), torch.tensor(1.2)) * a)
            value += (out.value[n, t] - batch.target[n, t]) ** 2 / 2 / ppo.policy.value_deviation**2
            entropy += distribution.entropy()
            guess = ppo.policy.reconstruction.outputs[0](out.features[n, t]).detach()
            reconstruction += (guess - batch.observation["observation"][n, t]).square().mean()
            kl += ratio - 1 - ratio.log()
            clipped += float(abs(ratio - 1) > 0.2)
    expected = torch.stack([torch.as_tensor(x) for x in (policy, value, entropy, reconstruction, kl, clipped)])
    torch.testing.assert_close(sums[:6].float(), expected.float(), rtol=1e-4, atol=1e-4)
    assert sums[6] == 47 and 3 < clipped < 44


def test_reset_steps_of_next_step_change_nothing() -> None:
    """Whatever stands at a masked step, gradients are the same, also where its ratio would overflow."""
    env = SyncVectorEnv([Counter] * 4, autoreset_mode=AutoresetMode.NEXT_STEP)
    ppo = agent(env, memory="gru")
    rollout = ppo.collector.collect()
    masked = ~rollout.valid
    assert masked.any()
    gradients = []
    for junk in (0.0, -1e4):
        changed = replace(
            rollout,
            log_prob=torch.where(masked, rollout.log_prob + junk, rollout.log_prob),
            advantage=torch.where(masked, rollout.advantage - junk, rollout.advantage),
            target=torch.where(masked, rollout.target + junk, rollout.target),
            action=torch.where(masked[..., None] & (junk < 0), 1 - rollout.action, rollout.action),
        )
        _, advantage = ppo.updater._normalise(changed)
        changed = replace(changed, advantage=advantage)
        ppo.policy.zero_grad()
        sums = ppo.updater.loss(changed.minibatch(torch.arange(8), changed.joined_states()))
        ppo.updater._weighted(sums).backward()
        gradients.append([p.grad.clone() for p in ppo.policy.parameters() if p.grad is not None])
        # The running size of the returns must be that of valid steps alone too; start it afresh.
        gradients[-1].append(ppo.policy.value_mean.clone())
        ppo.policy.num_measured.zero_()
        ppo.policy.value_mean.zero_()
        ppo.policy.value_deviation.fill_(1)
        ppo.policy.load_state_dict(agent(memory="gru").policy.state_dict())
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_advantages_are_normalised_over_valid_steps() -> None:
    env = SyncVectorEnv([Counter] * 4, autoreset_mode=AutoresetMode.NEXT_STEP)
    ppo = agent(env)
    rollout = ppo.collector.collect()
    rollout = replace(rollout, advantage=torch.where(rollout.valid, rollout.advantage, 1e6))
    explained, advantage = ppo.updater._normalise(rollout)
    valid = advantage[rollout.valid]
    assert abs(valid.mean()) < 1e-5 and abs(valid.std(correction=0) - 1) < 1e-4
    assert explained <= 1
    assert ppo.policy.value_mean == pytest.approx(rollout.target[rollout.valid].mean().item(), rel=1e-4)


def test_advantages_that_are_nearly_equal_are_not_blown_up() -> None:
    rollout = agent().collector.collect()
    rollout = replace(rollout, advantage=rollout.advantage * 1e-4)
    raw = rollout.advantage
    for floor, divisor in ((0.5, 0.5), (1e-6, float(raw.std(correction=0)))):
        ppo = agent(settings=replace(SETTINGS, advantage_floor=floor))
        _, advantage = ppo.updater._normalise(rollout)
        torch.testing.assert_close(advantage, (raw - raw.mean()) / divisor, rtol=1e-3, atol=1e-5)


def test_an_update_makes_good_actions_likelier_and_values_better() -> None:
    ppo = agent(memory="none", settings=PPOSettings(**{**vars(SETTINGS), "num_epochs": 8}))
    reports = [ppo.updater.update(ppo.collector.collect(), 1e-2) for _ in range(10)]
    rollout = ppo.collector.collect()
    # In `Counter` action 1 pays.
    assert rollout.action.float().mean() > 0.9
    assert reports[-1].value_loss < reports[0].value_loss and reports[-1].explained_variance > 0.3
    assert all(report.kl >= 0 and 0 <= report.clip_fraction <= 1 for report in reports)


def test_divergence_stops_before_it_reaches_the_parameters() -> None:
    ppo = agent()
    rollout = ppo.collector.collect()
    rollout.log_prob[3, 1] = float("nan")
    with pytest.raises(DivergedError, match=r"norm nan: the training diverged; lower the learning rate \(now 0.001"):
        ppo.updater.update(rollout, 1e-3)
    assert all(p.isfinite().all() for p in ppo.policy.parameters())


@pytest.mark.parametrize("memory", ["hcam", "gtrxl", "gru", "lstm", "trace", "yaad", "none"])
def test_bfloat16_learns_nearly_the_same(memory: str) -> None:
    """On a CPU, whose autocast rounds as a GPU's does; settings allow it on a GPU only, where it pays."""
    ppo = agent(memory=memory)
    rollout = ppo.collector.collect()
    batch = rollout.minibatch(torch.arange(8), rollout.joined_states())
    exact = ppo.updater.loss(batch)
    ppo.updater.settings = replace(SETTINGS, mixed_precision=True)
    rounded = ppo.updater.loss(batch)
    ppo.updater._weighted(rounded).backward()
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded / rounded[-1], exact / exact[-1], rtol=0.05, atol=0.02)
    assert all(p.grad.isfinite().all() for p in ppo.policy.parameters() if p.grad is not None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_encoder_is_the_same() -> None:
    plain, compiled = agent(), agent(settings=PPOSettings(**{**vars(SETTINGS), "compile": True}))
    assert list(plain.policy.state_dict()) == list(compiled.policy.state_dict())
    for ppo in (plain, compiled):
        ppo.updater.update(ppo.collector.collect(), 1e-3)
    for a, b in zip(plain.policy.parameters(), compiled.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)
