"""Expected errors are one line and a code, unexpected ones pass."""

import errno

import pytest
import typer

from memarch.cli.errors import expected, fail


def test_one_line_and_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    for error, line in [
        (ValueError("two\n  lines"), "error: two lines\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device\n"),
        (OSError(errno.EACCES, "Permission denied", "a.txt"), "error: a.txt: Permission denied\n"),
        (FileNotFoundError("a.txt does not exist"), "error: a.txt does not exist\n"),
        (ImportError("pip install"), "error: pip install\n"),
    ]:
        with pytest.raises(typer.Exit) as left, expected():
            raise error
        assert left.value.exit_code == 1 and capsys.readouterr().err == line
    with pytest.raises(typer.Exit) as left:
        fail("usage", 2)
    assert left.value.exit_code == 2


def test_the_unexpected_passes() -> None:
    for error in (RuntimeError("a bug"), BrokenPipeError()):
        with pytest.raises(type(error)), expected():
            raise error
    with pytest.raises(OSError), expected(ValueError, code=2):
        raise OSError("another kind")
