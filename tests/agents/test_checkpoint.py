"""Agents on the disk: a save that dies half way, damage, files of another agent."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from memarch.agents import PPO, Checkpoint
from memarch.models import storage

from ._envs import Counter, agent

CHILD = """
import sys, time
from memarch.agents import PPO, Checkpoint
from memarch.models import storage
ppo = PPO("memarch/ProofOfMemory-v0", memory="gru", num_envs=4, out_dir=sys.argv[1])
ppo.learn(600, callbacks=[Checkpoint(1)])
before = storage.sync
def slow(path):
    before(path)
    if ".step-" in str(path):
        print("saving", flush=True)
        time.sleep(60)
storage.sync = slow
ppo.learn(100)
"""


def test_killed_while_saving_the_old_checkpoint_stays(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    path = os.pathsep.join(str(root / part) for part in (".", "envs"))
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline() == "saving\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    newest = (tmp_path / "latest").read_text().strip()
    assert list(tmp_path.glob(".step-*.tmp")) and (tmp_path / newest).is_dir()
    ppo = PPO.resume(tmp_path)
    assert f"step-{ppo.step:06d}" == newest
    ppo.learn(100)
    assert not list(tmp_path.glob(".step-*"))


def test_a_full_disk_keeps_the_earlier_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ppo = agent(out_dir=tmp_path / "run")
    ppo.learn(48)
    ppo.save(tmp_path / "agent")
    before = (tmp_path / "agent" / "model.safetensors").read_bytes()

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="cannot write .*model.safetensors"):
        ppo.save(tmp_path / "agent")
    assert (tmp_path / "agent" / "model.safetensors").read_bytes() == before
    with pytest.raises(OSError, match="the last good checkpoint .*step-000048 is intact"):
        ppo.learn(48, callbacks=[Checkpoint(1)])
    monkeypatch.undo()
    assert PPO.resume(tmp_path / "run", env=Counter).step == 48


def test_damage_is_named(tmp_path: Path) -> None:
    agent(out_dir=tmp_path).learn(48)
    step = tmp_path / "step-000048"
    for name, damage, message in (
        ("config.json", "{}", "does not describe an agent"),
        ("trainer.json", "{}", "key 'collectors' is missing"),
        ("model.safetensors", "x", "truncated or corrupt"),
        ("optimizer.safetensors", "x", "truncated or corrupt"),
    ):
        kept = (step / name).read_bytes()
        (step / name).write_text(damage)
        with pytest.raises(ValueError, match=message):
            PPO.resume(tmp_path, env=Counter)
        (step / name).write_bytes(kept)
    config = json.loads((step / "config.json").read_text())
    (step / "config.json").write_text(json.dumps({**config, "policy": {**config["policy"], "d_model": 8}}))
    with pytest.raises(ValueError, match="does not fit the configuration beside it"):
        PPO.load(tmp_path, env=Counter)


def test_an_agent_saved_before_chunk_summary_loads(tmp_path: Path) -> None:
    saved = agent(memory="hcam")
    saved.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["policy"].pop("chunk_summary") == "mean"
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = PPO.load(tmp_path, env=Counter)
    assert loaded.policy.memory.layers[0].pooling is None
    del config["policy"]["d_model"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.json: expected the settings"):
        PPO.load(tmp_path, env=Counter)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    agent(out_dir=tmp_path).learn(48)
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {"", ".json", ".safetensors"}
