"""Environments from ids, factories, environments and vectors; errors that teach; worker processes that die."""

import os

import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from memarch.agents import EnvironmentFailedError
from memarch.agents.environments import EnvironmentSource, autoreset_mode

from ._envs import Counter, agent


def test_ids_take_the_native_vector_where_there_is_one() -> None:
    ours = EnvironmentSource("memarch/PassiveTMaze-v0", {"length": 5}).make(3)
    assert type(ours).__name__ == "PassiveTMazeVectorEnv" and ours.task.max_length == 5
    assert autoreset_mode(ours) is AutoresetMode.SAME_STEP
    theirs = EnvironmentSource("CartPole-v1", {}).make(2)
    assert type(theirs).__name__ == "CartPoleVectorEnv" and autoreset_mode(theirs) is AutoresetMode.NEXT_STEP
    plain = EnvironmentSource("Pendulum-v1", {}).make(2)
    assert isinstance(plain, SyncVectorEnv) and autoreset_mode(plain) is AutoresetMode.SAME_STEP
    with_package = EnvironmentSource("memarch_envs:memarch/ProofOfMemory-v0", {}).make(2)
    assert with_package.num_envs == 2


def test_factories_environments_and_vectors() -> None:
    assert EnvironmentSource(Counter, {}).make(2).num_envs == 2
    one = Counter()
    assert EnvironmentSource(one, {}).make(1).envs[0] is one
    vector = SyncVectorEnv([Counter] * 3)
    assert EnvironmentSource(vector, {}).make(3) is vector
    assert agent(vector, num_envs=None).num_envs == 3 and agent(one, num_envs=None, settings=_single()).num_envs == 1


def _single():
    from dataclasses import replace

    from ._envs import SETTINGS

    return replace(SETTINGS, num_minibatches=1)


@pytest.mark.parametrize(
    ("env", "options", "message"),
    [
        ("memarch/TMazes-v0", {}, "unknown environment 'memarch/TMazes-v0' .*Did you mean: `TMaze`"),
        ("Nothing-v0", {}, "unknown environment 'Nothing-v0' .*: if a package registers it, write PACKAGE:ID"),
        ("no_such_package:Thing-v0", {}, "needs the package no_such_package: pip install no_such_package"),
        ("memarch/PassiveTMaze-v0", {"lenght": 5}, "does not take {'lenght': 5}: .*no option 'lenght'"),
        ("memarch/PassiveTMaze-v0", {"length": 0}, "does not take {'length': 0}: length must be an integer"),
        (3, {}, "env must be an id, a factory of gymnasium.Env, a gymnasium.Env or a VectorEnv; got 3"),
        (dict, {}, "env dict must return a gymnasium.Env; got dict"),
        (Counter, {"length": 3}, "env_options go with an environment's id; got {'length': 3} with Counter"),
    ],
)
def test_errors_teach(env: object, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnvironmentSource(env, options).make(2)


def test_counts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="num_envs=2, but the VectorEnv has 3"):
        EnvironmentSource(SyncVectorEnv([Counter] * 3), {}).make(2)
    with pytest.raises(ValueError, match="one environment cannot be 2: give a factory"):
        EnvironmentSource(Counter(), {}).make(2)
    with pytest.raises(ValueError, match=r"asynchronous=True needs an id or a factory.*got Counter"):
        EnvironmentSource(Counter(), {}, True)


class Dying(Counter):
    """Leaves its process at the third step, if it is the second of its kind."""

    def step(self, action):
        if self.t == 2 and self.seed_used % 2:
            os._exit(3)
        return super().step(action)

    def reset(self, *, seed=None, options=None):
        self.seed_used = self.np_random_seed if seed is None else seed
        return super().reset(seed=seed)


def test_worker_processes_and_one_that_dies() -> None:
    env = EnvironmentSource("memarch/ProofOfMemory-v0", {}, True).make(2)
    assert isinstance(env, AsyncVectorEnv)
    env.close()
    ppo = agent(Dying, num_envs=2, asynchronous=True)
    with pytest.raises(EnvironmentFailedError, match="environment [01]: its process died with exit code 3"):
        ppo.collector.collect()


# gymnasium shows the worker's traceback as a warning.
@pytest.mark.filterwarnings("ignore:.*ERROR")
def test_a_worker_that_raises_is_named() -> None:
    class Raising(Counter):
        def step(self, action):
            raise KeyError("door")

    ppo = agent(Raising, num_envs=2, asynchronous=True)
    with pytest.raises(EnvironmentFailedError, match=r"environment [01] raised in step\(\) at its step 1: KeyError"):
        ppo.collector.collect()
