"""Two processes learn what one does: same seeds, same total batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memarch.agents._world import World
from memarch.models.storage import read_tensors

CHILD = """
import sys
from pathlib import Path
import torch
from memarch.agents import PPO, PPOSettings, PolicySettings
from memarch.agents._world import World, join_torchrun
join_torchrun()
settings = PPOSettings(rollout_steps=16, window_steps=8, num_epochs=2, num_minibatches=3, reseed_every=3)
# All chunks are read: which of two alike is the better one may depend on rounding.
sizes = PolicySettings(d_model=16, num_heads=2, chunk_size=2, top_k=4, num_chunks=4, attention_steps=4)
out = Path(sys.argv[1])
ppo = PPO("memarch/ProofOfMemory-v0", memory="hcam", num_envs=6, policy=sizes, settings=settings, out_dir=out)
assert ppo.env.num_envs == 6 // World().size
ppo.learn(4 * 96)
if sys.argv[2] == "resume":
    ppo = PPO.resume(out)
    ppo.learn(96)
sys.stdout.write(f"step {ppo.step}\\n")
"""


def run(directory: Path, processes: int, what: str = "learn") -> str:
    root = Path(__file__).parents[2]
    path = os.pathsep.join(str(root / part) for part in (".", "envs"))
    (directory / "child.py").write_text(CHILD)
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*launcher, str(directory / "child.py"), str(directory / "run"), what],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = run(tmp_path / "one", 1), run(tmp_path / "two", 2, "resume")
    weights = [read_tensors(tmp_path / name / "run" / "step-000384" / "model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    assert "step 384" in one and two.count("step 480") == 2
    with pytest.raises(ValueError, match="this training ran in 2 processes; got 1"):
        from memarch.agents import PPO

        PPO.resume(tmp_path / "two" / "run")


def test_alone_there_is_nothing_to_share() -> None:
    world, x = World(), torch.ones(2)
    assert world.share(6) == (0, 6) and world.sum(x) is x and world.gather("a") == ["a"]
    world.size = 4
    with pytest.raises(ValueError, match="num_envs must be a multiple of the 4 processes; got 6"):
        world.share(6)
