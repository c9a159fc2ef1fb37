"""Files that survive a crash: all or nothing, errors that name the file."""

import errno
import os
from pathlib import Path

import pytest
import torch

from memarch.models import storage


def no_space(path: Path) -> None:
    path.write_bytes(b"half of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_every_earlier_file(tmp_path: Path) -> None:
    storage.write_files(tmp_path, {"a": storage.text_writer("old a"), "b": storage.text_writer("old b")})
    with pytest.raises(OSError, match=r"cannot write .*b: No space left on device; the earlier file is unchanged") as e:
        storage.write_files(tmp_path, {"a": storage.text_writer("new a"), "b": no_space})
    assert e.value.errno == errno.ENOSPC
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "old a", "b": "old b"}
    storage.write_files(tmp_path, {"a": storage.text_writer("new a")})
    assert (tmp_path / "a").read_text() == "new a"


def test_a_failing_sync_counts_as_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    storage.write_files(tmp_path, {"a": storage.text_writer("old")})
    monkeypatch.setattr(storage, "sync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        storage.write_files(tmp_path, {"a": storage.text_writer("new")})
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"


def test_tensors_round_trip_and_io_errors_are_oserrors(tmp_path: Path) -> None:
    tensors = {"x": torch.arange(6.0).view(2, 3).T, "y": torch.tensor(3)}
    storage.write_files(tmp_path, {"t.safetensors": storage.tensors_writer(tensors)})
    back = storage.read_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(back[name], tensors[name]) for name in tensors) and back.keys() == tensors.keys()
    with pytest.raises(OSError, match="No such file") as e:
        storage.tensors_writer(tensors)(tmp_path / "missing" / "t.safetensors")
    assert e.value.errno == errno.ENOENT


def test_reading_names_the_file_and_the_trouble(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"w.safetensors does not exist: expected a checkpoint directory"):
        storage.read_tensors(tmp_path / "w.safetensors")
    storage.write_files(tmp_path, {"w.safetensors": storage.tensors_writer({"x": torch.zeros(100)})})
    path = tmp_path / "w.safetensors"
    for content in (path.read_bytes()[:-40], b"", b"not tensors at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="w.safetensors should be a safetensors file, but it is truncated"):
            storage.read_tensors(path)
    for text, message in (('{"a": 1', "should be JSON, but it is truncated"), ("[1]", "JSON object; got list")):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(ValueError, match=f"c.json {message}" if "should" in message else message):
            storage.read_json(tmp_path / "c.json")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="c.json should be JSON"):
        storage.read_json(tmp_path / "c.json")


def test_check_tensors_says_what_differs(tmp_path: Path) -> None:
    expected = {"a": torch.zeros(2), "b": torch.zeros(3)}
    storage.check_tensors(tmp_path, expected, expected)
    for found, message in [
        ({"a": torch.zeros(2)}, "b is missing"),
        ({**expected, "c": torch.zeros(1)}, "c is unknown"),
        ({"a": torch.zeros(2), "b": torch.zeros(4)}, r"b is torch.float32 \[4\], expected torch.float32 \[3\]"),
        ({"a": torch.zeros(2), "b": torch.zeros(3).double()}, "b is torch.float64"),
    ]:
        with pytest.raises(ValueError, match=message):
            storage.check_tensors(tmp_path, found, expected)
