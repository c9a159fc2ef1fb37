"""One PPO update: the clipped objective (arXiv 1707.06347) over windows of a rollout, summed over processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ._world import World
from .policy import MemoryPolicy
from .rollout import Minibatch, Rollout
from .settings import PPOSettings


class DivergedError(RuntimeError):
    """The loss is no longer a number; the parameters are those of the optimiser's step before."""


@dataclass(frozen=True)
class UpdateReport:
    """Means over an update's valid steps, before each step of the optimiser.

    Attributes:
        policy_loss, value_loss, entropy, reconstruction_loss: the terms, without their weights; the value's in units of
            the returns' variance.
        kl: estimate (r - 1) - log r of the divergence from the policy that acted (Schulman 2020).
        clip_fraction: steps whose ratio was clipped.
        explained_variance: of the rollout's returns by its values.
        gradient_norm: mean, before clipping.
        learning_rate: of this update.
    """

    policy_loss: float
    value_loss: float
    entropy: float
    reconstruction_loss: float
    kl: float
    clip_fraction: float
    explained_variance: float
    gradient_norm: float
    learning_rate: float


class Updater:
    """Improves `policy` by a rollout at a time.

    Args:
        policy: on the device to train on.
        optimizer: over its parameters.
        settings: see `PPOSettings`.
        generator: of the minibatches, the same in every process.
        world: the processes that share this training.
        first, num_total: environments of this process, as for `Collector`.
    """

    def __init__(
        self,
        policy: MemoryPolicy,
        optimizer: torch.optim.Optimizer,
        settings: PPOSettings,
        *,
        generator: torch.Generator,
        world: World,
        first: int,
        num_total: int,
    ) -> None:
        self.policy, self.optimizer, self.settings = policy, optimizer, settings
        self.generator, self.world, self.first, self.num_total = generator, world, first, num_total
        if settings.compile:
            policy.encoder.compile()

    def update(self, rollout: Rollout, learning_rate: float) -> UpdateReport:
        """`num_epochs` passes over `rollout`.

        Raises:
            DivergedError: the loss or a gradient is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        explained, advantage = self._normalise(rollout)
        rollout = replace(rollout, advantage=advantage)
        states = rollout.joined_states()
        device = rollout.action.device
        num_envs, num_windows = rollout.action.shape[1], len(rollout.states)
        totals, norms, num_updates = torch.zeros(7, dtype=torch.float64, device=device), 0.0, 0
        for _ in range(self.settings.num_epochs):
            order = torch.randperm(num_windows * self.num_total, generator=self.generator)
            for part in order.tensor_split(self.settings.num_minibatches):
                # Every process cuts the same minibatch and learns from the windows of its own environments.
                window, env = part // self.num_total, part % self.num_total - self.first
                mine = (env >= 0) & (env < num_envs)
                pairs = (window * num_envs + env)[mine].sort().values.to(device)
                sums = self._sums(rollout, pairs, states)
                count = self.world.sum(sums[-1].detach()).clamp_min(1)
                loss = self._weighted(sums) / count
                self.optimizer.zero_grad(set_to_none=True)
                if loss.requires_grad:
                    loss.backward()
                self.world.sum_gradients(self.policy.parameters())
                norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.settings.gradient_clip).item()
                if not math.isfinite(norm):
                    raise DivergedError(
                        f"gradient norm {norm}: the training diverged; lower the learning rate (now "
                        f"{learning_rate:g}) or the rewards' size, and go on from the last checkpoint"
                    )
                self.optimizer.step()
                totals += sums.detach()
                norms, num_updates = norms + norm, num_updates + 1
        totals = self.world.sum(totals)
        policy, value, entropy, reconstruction, kl, clipped = (totals[:-1] / totals[-1].clamp_min(1)).tolist()
        return UpdateReport(
            policy, value, entropy, reconstruction, kl, clipped, explained, norms / num_updates, learning_rate
        )

    def loss(self, batch: Minibatch) -> Tensor:
        """`[7]` sums over the valid steps: policy, value, entropy, reconstruction, kl, clipped, and their number."""
        settings, head = self.settings, self.policy.action
        with torch.autocast(batch.action.device.type, torch.bfloat16, enabled=settings.mixed_precision):
            out, _ = self.policy(batch.observation, batch.state, reset=batch.reset)
        outputs, value = out.outputs.float(), out.value.float()
        valid = batch.valid.to(value.dtype)
        # Masked before exp: an ignored action may have any probability.
        log_ratio = (head.log_prob(outputs, batch.action) - batch.log_prob) * valid
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
        policy = -torch.minimum(ratio * batch.advantage, clipped * batch.advantage)
        reconstruction = torch.zeros_like(value)
        if self.policy.reconstruction is not None:
            reconstruction = self.policy.reconstruction(out.features.float(), batch.observation)
        with torch.no_grad():
            kl, was_clipped = (ratio - 1) - log_ratio, ((ratio - 1).abs() > settings.clip).to(value.dtype)
        terms = (
            policy,
            ((value - batch.target) / self.policy.value_deviation).square() / 2,
            head.entropy(outputs),
            reconstruction,
            kl,
            was_clipped,
            torch.ones_like(value),
        )
        return torch.stack([(term * valid).sum() for term in terms]).double()

    def _sums(self, rollout: Rollout, pairs: Tensor, states: object) -> Tensor:
        if not len(pairs):
            return torch.zeros(7, dtype=torch.float64, device=pairs.device)
        return self.loss(rollout.minibatch(pairs, states))

    def _weighted(self, sums: Tensor) -> Tensor:
        settings = self.settings
        weights = (1.0, settings.value_weight, -settings.entropy_weight, settings.reconstruction_weight, 0.0, 0.0, 0.0)
        return (sums * sums.new_tensor(weights)).sum()

    def _normalise(self, rollout: Rollout) -> tuple[float, Tensor]:
        """Explained variance, and advantages normalised over all valid steps; the policy learns the returns' size."""
        valid, raw, target = rollout.valid.double(), rollout.advantage.double(), rollout.target.double()
        moments = torch.stack([valid.sum(), *((x * valid).sum() for x in (raw, raw**2, target, target**2))])
        count, a, aa, r, rr = self.world.sum(moments).tolist()
        count = max(count, 1.0)
        variance, spread = max(aa / count - (a / count) ** 2, 0.0), max(rr / count - (r / count) ** 2, 0.0)
        self.policy.measure_returns(r / count, math.sqrt(spread))
        explained = 1 - variance / spread if spread > 0 else math.nan
        deviation = max(math.sqrt(variance), self.settings.advantage_floor)
        return explained, ((raw - a / count) / (deviation + 1e-8)).float()
