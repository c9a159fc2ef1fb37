"""The trainer of cache processors and their peers."""

import csv
import json

import pytest
import torch

from memarch.cache.training import CacheSettings, CacheTrainer
from memarch.cache.training_data import Problems, encode
from memarch.training import CSVLogger, DivergedError, TrainerCallback

from ._training import CharacterTokenizer, tiny_arm, tiny_problems, tiny_trainer


def parameters(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.arm.module.parameters()])


@pytest.mark.parametrize("name", ["processor", "sft", "pause", "random-selection"])
def test_resuming_changes_nothing_to_the_bit(name, tmp_path):
    problems = tiny_problems(tmp_path)
    straight = tiny_trainer(tiny_arm(name), problems, num_steps=6)
    straight.run()

    parts = tiny_trainer(tiny_arm(name), problems, tmp_path / "run", num_steps=6, save_every=1)
    stops = parts._train_step

    def stop_after_two():
        report = stops()
        if report.step == 2:
            parts.request_stop()
        return report

    parts._train_step = stop_after_two
    result = parts.run()
    assert result.interrupted and result.step == 2 and result.checkpoint.name == "step-000002"
    again = tiny_trainer(tiny_arm(name, seed=9), problems, tmp_path / "run", num_steps=6, save_every=1)
    again.restore(tmp_path / "run")
    result = again.run()
    assert not result.interrupted and torch.equal(parameters(again), parameters(straight))
    assert result.evaluation == straight._evaluation


def test_training_lowers_the_loss_and_leaves_the_backbone(tmp_path):
    problems = tiny_problems(tmp_path, count=10)
    arm = tiny_arm("processor")
    before = [p.clone() for p in arm.model.parameters()]
    trainer = tiny_trainer(arm, problems, num_steps=25, batch_size=10, learning_rate=1e-2, max_eval_problems=10)
    first = trainer.evaluate()
    result = trainer.run()
    assert result.evaluation.loss < first.loss - 0.05
    assert all(torch.equal(a, b) for a, b in zip(before, arm.model.parameters(), strict=True))


def test_what_is_reported_and_saved(tmp_path):
    problems, told = tiny_problems(tmp_path), []

    class Listener(TrainerCallback):
        def on_step(self, report):
            told.append(report)

    trainer = tiny_trainer(tiny_arm("values-only"), problems, tmp_path / "run", save_every=2, eval_every=2)
    trainer.callbacks = (Listener(), CSVLogger(tmp_path / "run"))
    result = trainer.run()
    assert [r.step for r in told] == [1, 2, 3, 4] and all(r.gradient_norm > 0 for r in told)
    assert told[0].learning_rate == 1e-3 and told[-1].learning_rate < told[0].learning_rate
    saved = {path.name for path in result.checkpoint.iterdir()}
    expected = {"cache_processor.json", "cache_processor.safetensors", "optimizer.safetensors", "trainer.json"}
    assert saved == expected and (tmp_path / "run" / "latest").read_text() == "step-000004\n"
    with (tmp_path / "run" / "evaluations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4"]
    answers = problems.items[:6]
    # The last token of a text predicts nothing.
    assert result.evaluation.num_tokens == sum(sum(map(len, p.steps[2:])) - 1 for p in answers)
    nats = result.evaluation.loss * result.evaluation.num_tokens
    num_bytes = sum(sum(p.num_bytes[2:]) for p in answers)
    assert result.evaluation.bits_per_byte == pytest.approx(nats / torch.tensor(2.0).log().item() / num_bytes)


def test_a_step_without_anything_to_learn_is_no_error(tmp_path):
    """All answers of one line: no prediction sees a rewritten cache."""
    lines = Problems("lines", tuple(encode("1", "a", CharacterTokenizer()) for _ in range(5)))
    trainer = CacheTrainer(tiny_arm("processor"), lines, tiny_problems(tmp_path), CacheSettings(1, batch_size=5))
    before = parameters(trainer)
    assert trainer._train_step().loss == 0 and torch.equal(parameters(trainer), before)
    trainer.validation = lines
    with pytest.raises(ValueError, match="lines: no answer has a second line to evaluate on"):
        trainer.evaluate()


def test_divergence_is_named(tmp_path):
    trainer = tiny_trainer(tiny_arm("processor"), tiny_problems(tmp_path))
    with torch.no_grad():
        trainer.arm.module.w_out.fill_(torch.nan)
    with pytest.raises(DivergedError, match="at step 1: the training diverged; lower the learning rate"):
        trainer.run()


def test_resuming_what_does_not_fit_is_refused(tmp_path):
    problems, run = tiny_problems(tmp_path), tmp_path / "run"
    tiny_trainer(tiny_arm("processor"), problems, run, num_steps=2).run()

    def restore(problems=problems, **settings):
        tiny_trainer(tiny_arm("processor"), problems, run, **{"num_steps": 3} | settings).restore(run)

    with pytest.raises(ValueError, match="the problems are not those this training began with"):
        restore(tiny_problems(tmp_path, seed=1))
    with pytest.raises(ValueError, match="this training began with other settings"):
        restore(learning_rate=0.1)
    with pytest.raises(ValueError, match="num_steps must be at least the 2 steps already done; got 1"):
        restore(num_steps=1)
    path = run / "step-000002" / "trainer.json"
    value = json.loads(path.read_text())
    value.pop("batches")
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match="key 'batches' is missing"):
        restore()
    with pytest.raises(OSError, match="holds no checkpoint"):
        tiny_trainer(tiny_arm("processor"), problems).restore(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 0}, "num_steps must be an integer of at least 1; got 0"),
        ({"eval_every": -1}, "eval_every must be an integer of at least 0; got -1"),
        ({"learning_rate": 0}, "learning_rate must be a positive number; got 0"),
        ({"weight_decay": -1}, "weight_decay must be at least 0; got -1"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        CacheSettings(**{"num_steps": 3} | change)
