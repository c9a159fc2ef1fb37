"""Playing episodes: every autoreset mode counts the same whole episodes."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from memarch.agents.evaluation import play, summarise
from memarch.agents.rollout import Episode

from ._envs import Counter, agent


@pytest.mark.parametrize("memory", ["hcam", "lstm"])
def test_all_modes_play_the_same_episodes(memory: str) -> None:
    ppo = agent(memory=memory)
    ppo.learn(96)
    played = []
    for mode in AutoresetMode:
        env = SyncVectorEnv([Counter] * 3, autoreset_mode=mode)
        played.append(play(ppo.policy, env, episodes_each=4, seed=5, deterministic=True))
    assert played[0] == played[1] == played[2]
    assert len(played[0]) == 12 and all(e.success for e in played[0])


def test_steps_are_told_before_they_are_taken() -> None:
    ppo, seen = agent(), []
    env = SyncVectorEnv([Counter], autoreset_mode=AutoresetMode.SAME_STEP)
    episodes = play(ppo.policy, env, episodes_each=1, seed=0, on_step=lambda t, action: seen.append((t, action.shape)))
    assert seen == [(t, (1, 1)) for t in range(episodes[0].num_steps)]


def test_summary_by_hand() -> None:
    told = summarise([Episode(1.0, 2, True), Episode(3.0, 4, False), Episode(5.0, 6, None)])
    assert (told.total_reward, told.success, told.episode_steps, told.num_episodes) == (3.0, 0.5, 4.0, 3)
    assert told.total_reward_iqm == 3 and told.total_reward_low >= 1 and told.total_reward_high <= 5
    assert summarise([Episode(1.0, 2, None)]).success is None
    assert np.isfinite(summarise([Episode(1.0, 2, None)]).total_reward_low)
