"""Environments of other packages train unchanged; those that are not installed are skipped."""

import importlib.util
import math

import pytest

from memarch.agents import PPO, PolicySettings, PPOSettings

SETTINGS = PPOSettings(rollout_steps=16, num_epochs=1, num_minibatches=2)
SIZES = PolicySettings(d_model=16, num_heads=2, chunk_size=4, top_k=2, num_chunks=4, attention_steps=8)

POPGYM = (
    "AutoencodeEasy",
    "BattleshipEasy",
    "ConcentrationEasy",
    "CountRecallEasy",
    "HigherLowerEasy",
    "LabyrinthEscapeEasy",
    "LabyrinthExploreEasy",
    "MineSweeperEasy",
    "MultiarmedBanditEasy",
    "NoisyPositionOnlyCartPoleEasy",
    "NoisyPositionOnlyPendulumEasy",
    "PositionOnlyCartPoleEasy",
    "PositionOnlyPendulumEasy",
    "RepeatFirstEasy",
    "RepeatPreviousEasy",
)


def trains(env: str, **options) -> None:
    ppo = PPO(env, memory="hcam", num_envs=2, policy=SIZES, settings=SETTINGS, **options)
    result = ppo.learn(96)
    assert result.step >= 96 and math.isfinite(result.report.policy_loss)
    assert ppo.evaluate(num_episodes=2).num_episodes == 2
    ppo.close()


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0"])
def test_classic_control(env: str) -> None:
    trains(env)


def test_workers() -> None:
    trains("Acrobot-v1", asynchronous=True)


# What these packages warn of when they are imported is theirs to mend.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(importlib.util.find_spec("popgym") is None, reason="needs popgym: pip install 'memarch[bench]'")
@pytest.mark.parametrize("name", POPGYM)
def test_popgym(name: str) -> None:
    if name.startswith("Labyrinth") and importlib.util.find_spec("mazelib") is None:
        pytest.skip("POPGym registers its labyrinths where mazelib is installed")
    trains(f"popgym-{name}-v0")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(importlib.util.find_spec("minigrid") is None, reason="needs minigrid: pip install 'memarch[bench]'")
@pytest.mark.parametrize("env", ["MiniGrid-MemoryS7-v0", "MiniGrid-MemoryS11-v0"])
def test_minigrid_memory(env: str) -> None:
    trains(env)
