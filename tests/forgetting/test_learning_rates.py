"""The embedding's learning rate between resets: what each step is taken with, and what schedulers see of it."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, StepLR

from memarch.forgetting import EmbeddingForgetting, Replay, Rewarm, give_own_group

from ._models import tiny


def rates(lr, make_scheduler, steps, *, every=4, stop_after=None, tensor_lr=False):
    """The rates that (embedding, others) were stepped with, and those the scheduler showed."""
    model = tiny()
    start = torch.tensor(0.5) if tensor_lr else 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=start, foreach=False)
    give_own_group(optimizer, model.embed.weight)
    scheduler = make_scheduler(optimizer)
    forget = EmbeddingForgetting(model.embed, every=every, stop_after=stop_after, std=0.02, lr=lr)
    used, shown = [], []
    stepped = optimizer.step

    def recorded():
        # Registered after the plug-in's own hook, so it sees what the step is taken with.
        hook = optimizer.register_step_pre_hook(
            lambda opt, *_: used.append([float(g["lr"]) for g in reversed(opt.param_groups)])
        )
        stepped()
        hook.remove()

    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        recorded()
        scheduler.step()
        forget.step(optimizer, scheduler)
        shown.append([float(rate) for rate in reversed(scheduler.get_last_lr())])
    return used, shown


def test_keep_leaves_the_rate_alone():
    used, _ = rates("keep", lambda o: StepLR(o, 3, 0.5), 9)
    assert [u[0] for u in used] == [u[1] for u in used] == [0.5] * 3 + [0.25] * 3 + [0.125] * 3


@pytest.mark.parametrize(
    "make_scheduler",
    [lambda o: StepLR(o, 3, 0.5), lambda o: CosineAnnealingLR(o, 20), lambda o: LambdaLR(o, lambda n: 1 / (1 + n))],
    ids=["step", "cosine", "lambda"],
)
def test_rewarm_scales_what_the_scheduler_says_and_hides_it_from_the_scheduler(make_scheduler):
    plain, plainly_shown = rates("keep", make_scheduler, 12)
    used, shown = rates(Rewarm(3), make_scheduler, 12)
    assert shown == plainly_shown
    assert [u[1] for u in used] == [u[1] for u in plain]
    factors = [u[0] / p[0] for u, p in zip(used, plain, strict=True)]
    expected = [1] * 4 + [1 / 3, 2 / 3, 1, 1] + [1 / 3, 2 / 3, 1, 1]
    assert factors == pytest.approx(expected)


def test_rewarm_ends_after_the_last_reset():
    used, _ = rates(Rewarm(2), lambda o: LambdaLR(o, lambda n: 1.0), 12, stop_after=4)
    assert [u[0] for u in used] == [0.5] * 4 + [0.25] + [0.5] * 7


def test_a_rate_that_is_a_tensor_is_changed_in_place():
    used, shown = rates(Rewarm(2), lambda o: LambdaLR(o, lambda n: 1.0), 6, tensor_lr=True)
    assert [u[0] for u in used] == [0.5] * 4 + [0.25, 0.5]
    assert [s[0] for s in shown] == [0.5] * 6


def test_replay_runs_through_the_whole_schedule_in_every_episode():
    """The published mapping n -> (n * (T // K)) % T."""
    total, every = 12, 4
    schedule = lambda n: n / 4 if n < 4 else 1 - (n - 4) / 8  # noqa: E731
    used, shown = rates(Replay(total), lambda o: LambdaLR(o, schedule), total, every=every)
    # The hook is there from the second step on; the first is the schedule's own start.
    expected = [0.5 * schedule((n * (total // every)) % total) for n in range(total)]
    assert [u[0] for u in used] == pytest.approx(expected)
    assert [u[1] for u in used] == pytest.approx([0.5 * schedule(n) for n in range(total)])
    assert [s[0] for s in shown] == pytest.approx([0.5 * schedule(n + 1) for n in range(total)])


def test_replay_ends_with_the_last_reset_and_takes_a_schedule_of_its_own():
    used, _ = rates(Replay(8, schedule=lambda n: n / 8), lambda o: StepLR(o, 100), 8, every=2, stop_after=4)
    # At step 0 nothing is watched yet: StepLR's own rate.
    assert [u[0] for u in used] == pytest.approx([0.5, 0.25, 0.0, 0.25, 0.5, 0.5, 0.5, 0.5])


def test_clear_errors_before_anything_changes():
    model = tiny()
    shared = torch.optim.SGD(model.parameters(), lr=0.1)
    forget = EmbeddingForgetting(model.embed, every=1, std=0.02, lr=Rewarm(3))
    with pytest.raises(ValueError, match="its parameter group has 4 parameters: call give_own_group"):
        forget.step(shared)
    assert forget.num_steps == 0
    give_own_group(shared, model.embed.weight)
    for lr, scheduler, message in [
        ("replay", None, r"lr='replay' needs the number of training steps: pass lr=Replay\(total_steps\)"),
        (Replay(5), None, "a schedule can be replayed from a LambdaLR; got no scheduler"),
        (Replay(5), StepLR(shared, 2), "got StepLR: pass Replay"),
    ]:
        forget = EmbeddingForgetting(model.embed, every=1, std=0.02, lr=lr)
        with pytest.raises(ValueError, match=message):
            forget.step(shared, scheduler)
        assert forget.num_steps == 0
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match="whole number"):
            Rewarm(wrong)
        with pytest.raises(ValueError, match="whole number"):
            Replay(wrong)


def test_own_group_keeps_options_and_is_made_once():
    model = tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.3, weight_decay=0.7)
    for _ in range(2):
        give_own_group(optimizer, model.embed.weight)
    assert [len(group["params"]) for group in optimizer.param_groups] == [3, 1]
    assert optimizer.param_groups[1]["params"][0] is model.embed.weight
    assert optimizer.param_groups[1]["weight_decay"] == 0.7
    with pytest.raises(ValueError, match="does not hold the embedding"):
        give_own_group(optimizer, torch.zeros(2, 2))
