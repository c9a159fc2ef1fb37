"""`memarch info` shows what was saved and checks it."""

from pathlib import Path

from typer.testing import CliRunner

from memarch.cli.app import app

from ._transcript import TEXT, TINY


def test_info_of_a_run(tmp_path: Path) -> None:
    runner = CliRunner()
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    options = ["--data", str(tmp_path / "a.txt"), "--memory", "yaad", "--attention-every", "2", "--window-tokens", "4"]
    run = str(tmp_path / "run")
    assert runner.invoke(app, ["train", "lm", *options, "--steps", "2", "--out", run, *TINY]).exit_code == 0
    result = runner.invoke(app, ["info", run])
    assert result.exit_code == 0
    shown = {line.split()[0]: line.split(maxsplit=1)[1] for line in result.stdout.splitlines()}
    assert shown["mixer"] == "yaad" and shown["layers"] == "yaad attention" and shown["d_model"] == "16"
    assert shown["step"] == "2 of 2" and int(shown["parameters"].replace(",", "")) > 5000
    assert float(shown["validation_bits_per_byte"]) > 0 and "a.txt" in shown["text"]
    (tmp_path / "run" / "step-000002" / "model.safetensors").write_bytes(b"")
    result = runner.invoke(app, ["info", run])
    assert result.exit_code == 1 and "model.safetensors should be a safetensors file" in result.stderr
