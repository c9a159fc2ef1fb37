"""CSV rows that read back bit for bit and are cut on resume; TensorBoard events; the missing package."""

import builtins
import csv
import math
from pathlib import Path

import pytest

from memarch.training.evaluation import Evaluation
from memarch.training.logging import CSVLogger, StepReport, TensorBoardLogger


def report(step: int) -> StepReport:
    return StepReport(step, math.pi / step, 1e-3 / 7, 0.1 + 0.2, 1000.0, 2.5 * step)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_reads_back_exactly_and_resume_cuts_later_rows(tmp_path: Path) -> None:
    log = CSVLogger(tmp_path / "run")
    log.on_start(0, 5)
    for step in (1, 2, 3):
        log.on_step(report(step))
        log.on_evaluation(step, Evaluation(1 / 3, math.exp(1 / 3), 0.7, 99))
    read = rows(tmp_path / "run" / "steps.csv")
    assert [int(row["step"]) for row in read] == [1, 2, 3]
    assert [float(row["loss"]) for row in read] == [math.pi / step for step in (1, 2, 3)]
    assert float(rows(tmp_path / "run" / "evaluations.csv")[0]["perplexity"]) == math.exp(1 / 3)
    log = CSVLogger(tmp_path / "run")
    log.on_start(2, 5)
    log.on_step(report(3))
    assert [row["step"] for row in rows(tmp_path / "run" / "steps.csv")] == ["1", "2", "3"]
    assert [row["step"] for row in rows(tmp_path / "run" / "evaluations.csv")] == ["1", "2"]
    log.on_start(0, 5)
    assert rows(tmp_path / "run" / "steps.csv") == []


def test_tensorboard_events_hold_the_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = TensorBoardLogger(tmp_path)
    log.on_start(0, 2)
    for step in (1, 2):
        log.on_step(report(step))
    log.on_evaluation(2, Evaluation(1.5, 4.48, 0.7, 99))
    log.on_end()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, round(e.value, 5)) for e in events.Scalars("train/loss")] == [(1, 3.14159), (2, 1.5708)]
    assert events.Scalars("validation/bits_per_byte")[0].value == pytest.approx(0.7)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: object) -> object:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'memarch\[train\]'"):
        TensorBoardLogger(tmp_path)
