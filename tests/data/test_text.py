"""Text: the default, the user's files with every way they can be wrong, the split."""

from pathlib import Path

import pytest

from memarch.data.text import default_text, load_text, split_text


def test_default_text_is_english_without_repeats_and_always_the_same() -> None:
    source = default_text()
    assert source == default_text()
    assert 300_000 < len(source.text) < 900_000
    assert source.text.count(" the ") > 2000
    assert "PSF" in source.licence and "pydoc_data.topics" in source.name
    paragraphs = source.text.split("\n\n")
    assert len(paragraphs) == len(set(paragraphs)) > 1000


def test_files_come_in_the_given_order(tmp_path: Path) -> None:
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_bytes("\ufeffA: naïve\r\nline".encode())
    b.write_text("B: 文\n", encoding="utf-8")
    source = load_text([b, str(a)])
    assert source.text == "B: 文\nA: naïve\nline\n"
    assert source.name == f"{b} and 1 more" and load_text([a]).name == str(a)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.txt is empty"),
        (b" \n\n", "x.txt is empty"),
        (b"ab\x00cd", "x.txt is a binary file"),
        (b"caf\xe9 au lait", r"x.txt is not UTF-8 text \(byte 3\): convert it"),
    ],
)
def test_bad_content_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_text([tmp_path / "x.txt"])


def test_bad_paths_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no.txt does not exist; expected a UTF-8 text file"):
        load_text([tmp_path / "no.txt"])
    with pytest.raises(IsADirectoryError, match="is a directory; expected text files"):
        load_text([tmp_path])
    with pytest.raises(ValueError, match="at least one text file; got none"):
        load_text([])

    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(OSError, match="cannot read .*secret.txt: Permission denied"):
        load_text([tmp_path / "secret.txt"])


def test_split_is_at_a_line_and_loses_nothing() -> None:
    text = "".join(f"line {i}\n" for i in range(1000))
    train, validation = split_text(text, validation_fraction=0.1)
    assert train + validation == text and train.endswith("\n")
    assert 0.09 < len(validation) / len(text) < 0.11
    assert split_text("one\ntwo\n") == ("one\n", "two\n")
    assert split_text("one\n" + "x" * 50) == ("one\n", "x" * 50)
    assert split_text("x" * 99 + "\nlast") == ("x" * 99 + "\n", "last")


def test_split_errors() -> None:
    for text in ("no line break at all", "one line\n"):
        with pytest.raises(ValueError, match="has no line break"):
            split_text(text)
    with pytest.raises(ValueError, match="between 0 and 1; got 1.0"):
        split_text("a\nb\n", validation_fraction=1.0)
