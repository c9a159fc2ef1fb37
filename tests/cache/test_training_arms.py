"""Arms score the same texts alike, and the gradient they leave is that of what they score."""

from dataclasses import replace

import pytest
import torch

from memarch.cache.training_arms import ARMS, FIRST_REWRITTEN, make_arm
from memarch.cache.training_data import IGNORE

from ._tiny_models import VOCAB, make_model
from ._training import SIZES, CharacterTokenizer, tiny_arm, tiny_problems

CONSOLIDATING = [name for name in ARMS if name not in ("lora", "pause", "sft")]


@pytest.fixture
def batch(tmp_path):
    return tiny_problems(tmp_path, count=5).items


def plain_nats(model, problem):
    """One text, no batch, no cache: nats by step."""
    ids = torch.tensor([[t for step in problem.steps for t in step]])
    nats = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    at, found = len(problem.steps[0]) - 1, []
    for n, step in enumerate(problem.steps):
        size = 1 if n == 0 else len(step) - (n + 1 == len(problem.steps))
        found.append(nats[at : at + size].sum().item())
        at += size
    return found


@pytest.mark.parametrize("name", [name for name in ARMS if name not in ("pause", "lora")])
@torch.no_grad()
def test_a_fresh_arm_scores_what_the_backbone_does(name, batch):
    scores = tiny_arm(name).score(batch, learn=False)
    for b, problem in enumerate(batch):
        n = len(problem.steps)
        assert scores.nats[b, :n].tolist() == pytest.approx(plain_nats(make_model("llama"), problem), rel=1e-4)
        assert scores.tokens[b].sum() == sum(map(len, problem.steps[1:])) and scores.nats[b, n:].eq(0).all()


@pytest.mark.parametrize("name", ["sft", "processor", "pause"])
@torch.no_grad()
def test_labels_of_its_own_and_what_was_likeliest(name, batch):
    """Labels that are the backbone's own choices, but for one a step, are all right but for one a step."""
    model = make_model("llama")
    given = []
    for problem in batch:
        ids = torch.tensor([[t for step in problem.steps for t in step]])
        choices = model(ids).logits[0].argmax(-1)
        labels = choices.split(list(map(len, problem.steps)))
        wrong = [(x + (torch.arange(len(x)) == len(x) - 1)) % VOCAB for x in labels]
        wrong[0][:-1] = IGNORE
        given.append(replace(problem, labels=tuple(tuple(x.tolist()) for x in wrong)))
    scores = tiny_arm(name).score(given, learn=False)
    steps = slice(0, FIRST_REWRITTEN) if name == "pause" else slice(None)
    counts = torch.tensor([[len(p.steps[n]) if n < len(p.steps) else 0 for n in range(6)] for p in given])
    counts[:, 0] = 1
    assert torch.equal(scores.tokens, counts[:, : scores.tokens.shape[1]])
    assert torch.equal(scores.correct[:, steps], (scores.tokens - 1).clamp(min=0)[:, steps])


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # what peft asks transformers
def test_fresh_lora_is_the_backbone_and_as_large_as_a_processor(batch):
    pytest.importorskip("peft")
    arm = tiny_arm("lora")
    expected = tiny_arm("sft").score(batch, learn=False)
    assert torch.allclose(arm.score(batch, learn=False).nats, expected.nats, rtol=1e-5)
    wanted = sum(p.numel() for p in tiny_arm("processor").module.parameters())
    assert wanted <= sum(p.numel() for p in arm.module.parameters()) < 1.3 * wanted
    arm.score(batch, learn=True)
    assert all(p.grad is not None for p in arm.module.parameters())


@pytest.mark.parametrize("name", CONSOLIDATING)
def test_a_rewriter_is_scored_in_a_batch_as_alone(name, batch):
    arm = tiny_arm(name, top_k=0 if name == "random-selection" else 4)
    for p in arm.module.parameters():
        torch.nn.init.normal_(p, std=0.3)
    whole = arm.score(batch, learn=False)
    fresh = tiny_arm(name).score(batch, learn=False)
    assert torch.allclose(whole.nats[:, :FIRST_REWRITTEN], fresh.nats[:, :FIRST_REWRITTEN])
    assert not torch.allclose(whole.nats[:, FIRST_REWRITTEN:], fresh.nats[:, FIRST_REWRITTEN:], rtol=1e-3)
    for b, problem in enumerate(batch):
        alone = arm.score([problem], learn=False).nats[0]
        assert torch.allclose(whole.nats[b, : len(alone)], alone, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in ARMS if name != "lora"])
def test_gradients_are_those_of_the_score(name, batch):
    """Along the gradient the loss falls as fast as the gradient says, with the whole past in the graph."""
    arm = tiny_arm(name, bptt_steps=99, top_k=99)  # all entries: a choice among them would jump
    first = arm.first_step
    if name in CONSOLIDATING and name != "mean-shift":
        torch.nn.init.normal_(arm.module.w_out, std=0.3)

    def loss():
        scores = arm.score(batch, learn=False)
        return (scores.nats[:, first:].sum() / scores.tokens[:, first:].sum()).item()

    before = loss()
    scores = arm.score(batch, learn=True)
    assert (scores.nats[:, first:].sum() / scores.tokens[:, first:].sum()).item() == pytest.approx(before, rel=1e-5)
    learned = [p for p in arm.module.parameters() if p.requires_grad]
    norm = torch.stack([p.grad.norm() for p in learned]).norm()
    step = 2e-3
    with torch.no_grad():
        for p in learned:
            p += step / norm * p.grad
        up = loss()
        for p in learned:
            p -= 2 * step / norm * p.grad
        down = loss()
    assert (up - down) / (2 * step) == pytest.approx(norm.item(), rel=0.05)


def test_truncation_cuts_the_past(batch):
    gradients = []
    for bptt_steps in (1, 2, 99):
        arm = tiny_arm("processor", bptt_steps=bptt_steps)
        torch.nn.init.normal_(arm.module.w_out, std=0.3)
        arm.score(batch, learn=True)
        gradients.append(arm.module.w_in.grad)
    assert not torch.allclose(gradients[0], gradients[1]) and not torch.allclose(gradients[1], gradients[2])
    assert all(p.grad is None for p in arm.model.parameters())


@pytest.mark.parametrize("name", [name for name in ARMS if name != "lora"])
def test_save_and_load(name, batch, tmp_path):
    arm = tiny_arm(name)
    for p in arm.module.parameters():
        torch.nn.init.normal_(p, std=0.2)
    arm.save(tmp_path)
    again = tiny_arm(name, seed=7)
    assert not torch.equal(again.score(batch, learn=False).nats, arm.score(batch, learn=False).nats)
    again.load(tmp_path)
    assert torch.equal(again.score(batch, learn=False).nats, arm.score(batch, learn=False).nats)


def test_an_unknown_arm_is_refused():
    with pytest.raises(ValueError, match="arm must be one of processor, .*sft; got 'procesor'"):
        make_arm("procesor", make_model("llama"), CharacterTokenizer(), sizes=SIZES)
