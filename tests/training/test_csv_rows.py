"""CSV logs: rows after the step that a training resumes from are written again."""

from pathlib import Path

from memarch.training.csv_rows import append_row, open_rows


def test_rows_after_the_last_step_are_dropped(tmp_path: Path) -> None:
    path = open_rows(tmp_path / "log.csv", ["step", "loss"], 0)
    for step in (1, 2, 3):
        append_row(path, {"step": step, "loss": 0.1 * step})
    assert open_rows(path, ["step", "loss"], 2) == path
    assert path.read_text() == "step,loss\n1,0.1\n2,0.2\n"
    open_rows(path, ["step", "loss"], 0)
    assert path.read_text() == "step,loss\n"
