"""Checkpoints: complete or absent, rotated, the last good one intact on a full disk, damage named."""

import errno
import os
from pathlib import Path

import pytest
import torch

from memarch.models import MemoryLMForCausalLM, storage
from memarch.training.checkpoint import (
    latest_checkpoint,
    load_training_state,
    resolve_checkpoint,
    save_checkpoint,
)

from ._tiny import tiny_data, tiny_model

DATA = tiny_data()
FILES = ["config.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json", "trainer.json"]


def trained(seed: int = 0) -> tuple[MemoryLMForCausalLM, torch.optim.AdamW]:
    model = tiny_model(seed=seed)
    optimizer = torch.optim.AdamW(model.parameters())
    model(DATA.train[None, :9], labels=DATA.train[None, :9]).loss.backward()
    optimizer.step()
    return model, optimizer


def save(run_dir: Path, step: int, seed: int = 0, keep: int = 2) -> Path:
    model, optimizer = trained(seed)
    progress = {"note": step}
    return save_checkpoint(
        run_dir, step, model=model, optimizer=optimizer, tokenizer=DATA.tokenizer, progress=progress, keep=keep
    )


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_round_trip_restores_optimizer_and_random_state(tmp_path: Path) -> None:
    model, optimizer = trained()
    torch.manual_seed(77)
    path = save_checkpoint(
        tmp_path, 3, model=model, optimizer=optimizer, tokenizer=DATA.tokenizer, progress={"note": [1, None]}
    )
    assert path == tmp_path / "step-000003" and sorted(p.name for p in path.iterdir()) == FILES
    drawn = torch.rand(4)
    again = MemoryLMForCausalLM.from_pretrained(path)
    fresh = torch.optim.AdamW(again.parameters())
    assert load_training_state(path, again, fresh) == {"step": 3, "note": [1, None]}
    assert torch.equal(torch.rand(4), drawn)
    for old, new in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(old, new)
        for key, value in optimizer.state[old].items():
            assert torch.equal(fresh.state[new][key], value)


def test_rotation_keeps_the_newest_and_latest_points_at_it(tmp_path: Path) -> None:
    for step in (1, 2, 10, 11):
        save(tmp_path, step)
        assert latest_checkpoint(tmp_path).name == f"step-{step:06d}"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-000010", "step-000011"]
    assert (tmp_path / "latest").read_text() == "step-000011\n"


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 5, seed=0)
    before = contents(tmp_path / "step-000005")
    save(tmp_path, 5, seed=1)
    assert contents(tmp_path / "step-000005")["model.safetensors"] != before["model.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-000005"]


@pytest.mark.parametrize(
    "failing_file", ["tokenizer.json", "model.safetensors", "optimizer.safetensors", "trainer.json"]
)
@pytest.mark.parametrize("step", [5, 6])
def test_a_full_disk_at_any_file_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_file: str, step: int
) -> None:
    good = save(tmp_path, 5)
    before = contents(tmp_path)

    def full(path: Path) -> None:
        if path.name.startswith(f".{failing_file}."):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        patch.setattr(storage, "sync", full)
        save(tmp_path, step, seed=1)
    assert caught.value.errno == errno.ENOSPC
    expected = f"cannot save {tmp_path / f'step-{step:06d}'}: No space left on device; the last good checkpoint {good}"
    assert expected in str(caught.value)
    assert contents(tmp_path) == before and latest_checkpoint(tmp_path) == good
    save(tmp_path, 6)
    assert latest_checkpoint(tmp_path).name == "step-000006"


def test_a_full_disk_at_the_first_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage, "sync", full)
    with pytest.raises(OSError, match="No space left on device; there is no earlier checkpoint"):
        save(tmp_path, 1)
    assert contents(tmp_path) == {}


def test_a_crash_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    good = save(tmp_path, 5)
    (tmp_path / ".step-000006.tmp").mkdir()
    (tmp_path / ".step-000006.tmp" / "model.safetensors").write_bytes(b"half")
    (tmp_path / "latest").write_text("step-0000")
    assert latest_checkpoint(tmp_path) == good
    (tmp_path / "latest").unlink()
    assert latest_checkpoint(tmp_path) == good
    (tmp_path / "latest").write_text("../../elsewhere\n")
    assert latest_checkpoint(tmp_path) == good


def test_resolve_takes_a_model_or_a_run(tmp_path: Path) -> None:
    path = save(tmp_path / "run", 5)
    assert resolve_checkpoint(tmp_path / "run") == path == resolve_checkpoint(path)
    for nothing in (tmp_path / "absent", tmp_path):
        with pytest.raises(FileNotFoundError, match="holds no checkpoint: expected the --out directory"):
            resolve_checkpoint(nothing)


def test_damage_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    model = tiny_model()
    good = {name: (path / name).read_bytes() for name in FILES}

    def load() -> None:
        load_training_state(path, model, torch.optim.AdamW(model.parameters()))

    for name, damage, error, message in [
        ("optimizer.safetensors", good["optimizer.safetensors"][:-9], ValueError, "optimizer.safetensors .* truncated"),
        ("trainer.json", good["trainer.json"][:20], ValueError, "trainer.json .* truncated or corrupt"),
        ("optimizer.safetensors", good["model.safetensors"], ValueError, "optimizer.safetensors does not fit"),
        ("trainer.json", None, FileNotFoundError, "trainer.json does not exist"),
    ]:
        if damage is None:
            (path / name).unlink()
        else:
            (path / name).write_bytes(damage)
        with pytest.raises(error, match=message):
            load()
        (path / name).write_bytes(good[name])
    load()
    model = tiny_model(d_model=20)
    with pytest.raises(ValueError, match="optimizer.safetensors does not fit the configuration"):
        load()
