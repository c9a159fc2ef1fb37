"""Training: it learns, stops and resumes bit for bit, reports everything, refuses what it cannot do."""

import csv
import math
from pathlib import Path

import pytest
import torch

from memarch.training import (
    CSVLogger,
    DivergedError,
    Evaluation,
    LMSettings,
    LMTrainer,
    StepReport,
    TrainerCallback,
)

from ._tiny import TEXT, tiny_data, tiny_trainer


class StopAfter(TrainerCallback):
    """Asks the trainer to stop once a step is done, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step, self.trainer = step, None

    def on_step(self, report: StepReport) -> None:
        if report.step == self.step:
            self.trainer.request_stop()


def losses(run_dir: Path) -> list[tuple[str, str]]:
    with (run_dir / "steps.csv").open(newline="") as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("mixer", ["attention", "yaad"])
@pytest.mark.parametrize("stop", [1, 4, 9])
def test_resume_is_bitwise(tmp_path: Path, mixer: str, stop: int) -> None:
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    whole = tiny_trainer(straight, mixer=mixer, callbacks=[CSVLogger(straight)], eval_every=4)
    whole.run()

    stopper = StopAfter(stop)
    first = tiny_trainer(parts, mixer=mixer, callbacks=[CSVLogger(parts), stopper], eval_every=4)
    stopper.trainer = first
    result = first.run()
    assert result.interrupted and result.step == stop and result.checkpoint == parts / f"step-{stop:06d}"
    torch.manual_seed(1234)
    second = LMTrainer.resume(parts, tiny_data(), callbacks=[CSVLogger(parts)])
    assert second.step == stop and second.notes == {"who": "test"}
    result = second.run()
    assert not result.interrupted and result.step == 10
    for (name, a), b in zip(whole.model.named_parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert losses(parts) == losses(straight) and len(losses(parts)) == 10
    assert (parts / "evaluations.csv").read_text() == (straight / "evaluations.csv").read_text()


def test_resume_after_a_crash_repeats_the_lost_steps(tmp_path: Path) -> None:
    class Crash(TrainerCallback):
        def on_step(self, report: StepReport) -> None:
            if report.step == 6:
                raise RuntimeError("power cut")

    whole = tiny_trainer(tmp_path / "a", callbacks=[CSVLogger(tmp_path / "a")])
    whole.run()
    with pytest.raises(RuntimeError, match="power cut"):
        tiny_trainer(tmp_path / "b", callbacks=[CSVLogger(tmp_path / "b"), Crash()], save_every=4).run()
    resumed = LMTrainer.resume(tmp_path / "b", tiny_data(), callbacks=[CSVLogger(tmp_path / "b")])
    assert resumed.step == 4
    resumed.run()
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_it_learns_and_reports(tmp_path: Path) -> None:
    class Record(TrainerCallback):
        def __init__(self) -> None:
            self.events: list[tuple] = []

        def on_start(self, step: int, num_steps: int) -> None:
            self.events.append(("start", step, num_steps))

        def on_step(self, report: StepReport) -> None:
            self.events.append(("step", report.step, report))

        def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
            self.events.append(("evaluation", step, evaluation))

        def on_checkpoint(self, step: int, path: Path) -> None:
            assert path.is_dir()
            self.events.append(("checkpoint", step, path))

        def on_end(self) -> None:
            self.events.append(("end",))

    record = Record()
    trainer = tiny_trainer(tmp_path, callbacks=[record], num_steps=60, eval_every=20, save_every=30, learning_rate=1e-2)
    result = trainer.run()
    assert record.events[0] == ("start", 0, 60) and record.events[-1] == ("end",)
    reports = [event[2] for event in record.events if event[0] == "step"]
    assert [report.step for report in reports] == list(range(1, 61))
    assert math.isclose(reports[0].loss, math.log(270), rel_tol=0.05)
    assert sum(report.loss for report in reports[-5:]) / 5 < 0.6 * reports[0].loss
    assert all(report.tokens_per_second > 0 and report.gradient_norm > 0 for report in reports)
    assert [event[1] for event in record.events if event[0] == "evaluation"] == [20, 40, 60]
    assert [event[1] for event in record.events if event[0] == "checkpoint"] == [30, 60]
    assert result.evaluation == [event[2] for event in record.events if event[0] == "evaluation"][-1]
    assert result.checkpoint == tmp_path / "step-000060" and result.train_seconds == reports[-1].train_seconds


def test_without_a_directory_nothing_is_written() -> None:
    result = tiny_trainer(None, num_steps=2, save_every=1).run()
    assert result.checkpoint is None and result.evaluation is not None and result.evaluation.num_tokens == 96


def test_the_schedule_warms_up_and_falls_to_a_tenth() -> None:
    settings = LMSettings(num_steps=100, learning_rate=1.0, warmup_steps=10)
    rates = [settings.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[4] == pytest.approx(0.5) and rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.55) and 0.1 < rates[99] < 0.102
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert tiny_trainer(None).optimizer.param_groups[0]["weight_decay"] == 0.1


def test_divergence_stops_before_the_parameters_are_touched() -> None:
    trainer = tiny_trainer(None)
    with torch.no_grad():
        trainer.model.model.norm.weight[0] = float("nan")
    before = [p.clone() for p in trainer.model.parameters()]
    with pytest.raises(DivergedError, match="loss nan and gradient norm nan at step 1: .* lower the learning rate"):
        trainer.run()
    assert all(
        torch.equal(
            a,
            b,
        )
        for a, b in zip(before[1:-1], list(trainer.model.parameters())[1:-1], strict=True)
    )


def test_resume_errors(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, num_steps=3).run()
    with pytest.raises(ValueError, match="the text is not the one this training began with"):
        LMTrainer.resume(tmp_path, tiny_data(TEXT.replace("cat", "dog")))
    with pytest.raises(ValueError, match="at least the 3 steps already done; got 2"):
        LMTrainer.resume(tmp_path, tiny_data(), num_steps=2)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        LMTrainer.resume(tmp_path / "elsewhere", tiny_data())
    longer = LMTrainer.resume(tmp_path, tiny_data(), num_steps=5)
    assert longer.run().step == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be an integer of at least 1; got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer of at least 1; got 2.5"),
        ({"eval_every": -1}, "eval_every must be an integer of at least 0; got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number; got 0.0"),
        ({"learning_rate": math.inf}, "learning_rate must be a positive number; got inf"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0; got -0.1"),
    ],
)
def test_bad_settings(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LMSettings(**{"num_steps": 5, **options})


def test_the_data_must_fit_the_model() -> None:
    from ._tiny import tiny_model

    with pytest.raises(ValueError, match="the model expects a tokenizer byte of 270"):
        LMTrainer(tiny_model(tokenizer="byte"), tiny_data(), LMSettings(num_steps=1))
    with pytest.raises(ValueError, match="give more text"):
        tiny_trainer(None, seq_len=5000)
