"""The scalar form beyond what the registry tests: whose generator it draws from, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np

import memarch_envs


def test_a_generator_set_by_hand_is_used():
    env = gymnasium.make("memarch/MemoryLength-v0", num_bits=40).unwrapped
    expected = env.reset(seed=5)[0]
    env.reset(seed=6)
    env.np_random = gymnasium.utils.seeding.np_random(5)[0]
    assert (env.reset()[0] == expected).all()


def test_observations_of_one_copy_are_values():
    observation, _ = gymnasium.make("memarch/TMaze-v0").reset(seed=0)
    assert observation.shape == (2,) and observation.base is None and observation.dtype == np.float32


def test_making_by_module_imports_no_torch():
    """`make("memarch_envs:...")` registers by itself, and brings neither torch nor anything of ours."""
    source = Path(memarch_envs.__file__).parents[1]
    script = (
        f"import sys; sys.path.insert(0, {str(source)!r}); import gymnasium\n"
        "print(gymnasium.make('memarch_envs:memarch/TMaze-v0').reset(seed=0)[0].shape)\n"
        "print([name for name in ('torch', 'memarch', 'pygame') if name in sys.modules])"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "(2,)\n[]\n", done.stderr
