"""What every registered environment keeps: gymnasium's contract, one trajectory a seed, the returns it documents."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode

from memarch_envs import ENVIRONMENTS, levels, register_environments, task_class
from memarch_envs.policies import oracle_policy, random_policy, run_episodes

IDS = sorted(ENVIRONMENTS)
LEVELS = [pytest.param(i, level, id=f"{i}-{level.name}") for i in IDS for level in levels(i)]
HEADINGS = (
    "Description",
    "Action Space",
    "Observation Space",
    "Rewards",
    "Starting State",
    "Episode End",
    "Arguments",
    "References",
    "Version History",
)


def easiest(env_id, **options):
    return {**levels(env_id)[0].options, **options}


def same(first, second):
    return data_equivalence(first, second, exact=True)


def batch_of(observations):
    if isinstance(observations[0], dict):
        return {key: batch_of([one[key] for one in observations]) for key in observations[0]}
    return np.stack(observations)


@pytest.mark.parametrize(("env_id", "level"), LEVELS)
def test_gymnasium_checker_is_silent(env_id, level):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id, **level.options).unwrapped, skip_render_check=level is not levels(env_id)[0])


@pytest.mark.parametrize("env_id", IDS)
def test_documentation(env_id):
    doc = task_class(env_id).__doc__
    positions = [doc.index(f"## {heading}\n") for heading in HEADINGS]
    assert positions == sorted(positions)
    assert gymnasium.make(env_id).unwrapped.__doc__ == gymnasium.make_vec(env_id).__doc__ == doc
    assert gymnasium.spec(env_id).to_json()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("env_id", IDS)
def test_native_vector_equals_scalar(env_id, mode):
    """Everything, infos included, against gymnasium's SyncVectorEnv over the scalar form, through several episodes."""
    options = easiest(env_id)
    native = gymnasium.make_vec(env_id, num_envs=3, autoreset_mode=mode, **options)
    sync = gymnasium.make_vec(
        env_id, num_envs=3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **options
    )
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    assert native.metadata["autoreset_mode"] is mode
    assert same(native.reset(seed=7), sync.reset(seed=7))
    native.action_space.seed(1)
    ends = 0
    for step in range(3 * native.max_episode_steps + 5):
        actions = native.task.expert() if step % 7 else native.action_space.sample()
        ours, theirs = native.step(actions), sync.step(actions)
        assert same(ours, theirs), step
        assert ours[0] in native.observation_space
        assert "success" not in ours[4] or (ours[2] | ours[3]).any()
        ends += int((ours[2] | ours[3]).sum())
    assert ends >= 6
    assert same(native.reset(), sync.reset())


@pytest.mark.parametrize("env_id", IDS)
def test_seeds(env_id):
    """Two instances with one seed agree, many episodes long; other seeds differ; a seed restarts the whole sequence."""
    envs = [gymnasium.make_vec(env_id, num_envs=4, **easiest(env_id, autoreset_mode="SameStep")) for _ in range(3)]
    first, second, other = envs

    def play(env, seed):
        policy = random_policy(5)
        trace = [env.reset(seed=seed)]
        for _ in range(2 * env.max_episode_steps):
            trace.append(env.step(policy(env)))
        return trace

    trace = play(first, 11)
    assert same(trace, play(second, 11))
    assert not same(trace, play(other, 12345))
    assert same(trace, play(other, 11))
    assert same(first.reset(seed=[11, 12, 13, 14]), second.reset(seed=11))


@pytest.mark.parametrize("env_id", IDS)
def test_observations_are_the_callers(env_id):
    """Scribbling over a returned observation changes nothing that comes later."""
    clean = gymnasium.make_vec(env_id, num_envs=2, **easiest(env_id))
    dirty = gymnasium.make_vec(env_id, num_envs=2, **easiest(env_id))
    kept, given = clean.reset(seed=3)[0], dirty.reset(seed=3)[0]
    for _ in range(clean.max_episode_steps + 2):
        for part in given.values() if isinstance(given, dict) else (given,):
            part[...] = 1
        actions = clean.task.expert()
        kept, given = clean.step(actions)[0], dirty.step(actions)[0]
        assert same(kept, given)


@pytest.mark.parametrize(("env_id", "level"), LEVELS)
def test_returns(env_id, level):
    """The oracle always succeeds, with the documented return; uniform actions give theirs, within 4.5 deviations."""
    env = gymnasium.make_vec(env_id, num_envs=64, autoreset_mode=AutoresetMode.SAME_STEP, **level.options)
    episodes_each = int(np.clip(2000 // env.max_episode_steps, 1, 25))
    oracle = run_episodes(env, oracle_policy, episodes_each=episodes_each, seed=1000)
    assert oracle.success.all()
    spread = oracle.returns.std() / oracle.returns.size**0.5
    assert abs(oracle.returns.mean() - level.oracle_return) <= 4.5 * spread + 1e-6
    played = run_episodes(env, random_policy(17), episodes_each=episodes_each, seed=2000)
    spread = played.returns.std() / played.returns.size**0.5
    assert abs(played.returns.mean() - level.random_return) <= 4.5 * spread + 0.003
    assert level.chance is None or played.success.mean() <= level.chance + 0.1
    assert (played.lengths <= env.max_episode_steps).all()


@pytest.mark.parametrize("env_id", IDS)
def test_rendering(env_id):
    """Both modes show a change over an episode, from the first to the last step, and do not disturb it."""
    pictures = gymnasium.make_vec(env_id, num_envs=2, render_mode="rgb_array", **easiest(env_id))
    texts = gymnasium.make(env_id, render_mode="ansi", **easiest(env_id))
    pictures.reset(seed=2)
    texts.reset(seed=2)
    seen_pictures, seen_texts, over = set(), set(), False
    while not over:
        frames = pictures.render()
        assert len(frames) == 2 and frames[0].dtype == np.uint8 and frames[0].shape[2] == 3
        assert min(frames[0].shape[:2]) >= 16 or max(frames[0].shape[:2]) >= 100
        seen_pictures.add(frames[0].tobytes())
        seen_texts.add(texts.render())
        action = pictures.task.expert()
        pictures.step(action)
        _, _, terminated, truncated, _ = texts.step(action[0])
        over = terminated or truncated
    assert len(seen_pictures) > 1 and len(seen_texts) > 1
    assert gymnasium.make_vec(env_id).render() is None


@pytest.mark.parametrize("env_id", IDS)
def test_misuse(env_id):
    env = gymnasium.make(env_id, **easiest(env_id)).unwrapped
    vector = gymnasium.make_vec(env_id, num_envs=2, **easiest(env_id))
    for form in (env, vector):
        with pytest.raises(ResetNeeded, match="call reset"):
            form.step(form.action_space.sample())
    env.reset(seed=0)
    vector.reset(seed=0)
    most = int(env.action_space.n)
    for action in (-1, most):
        with pytest.raises(ValueError, match=rf"0\.\.{most - 1}, got {action}"):
            env.step(action)
        with pytest.raises(ValueError, match=rf"0\.\.{most - 1}, got {action}"):
            vector.step(np.array([0, action]))
    with pytest.raises(ValueError, match="integers"):
        env.step(0.5)
    with pytest.raises(ValueError, match="2 environments"):
        vector.step(np.zeros(3, dtype=np.int64))
    over = False
    while not over:
        _, _, terminated, truncated, info = env.step(env.task.expert()[0])
        over = terminated or truncated
        assert ("success" in info) == over
    assert info == {"success": True}
    with pytest.raises(ResetNeeded, match="ended at step"):
        env.step(0)
    with pytest.raises(ValueError, match="no options"):
        env.reset(options={"level": 3})
    with pytest.raises(TypeError, match="no option 'lenght'"):
        gymnasium.make(env_id, lenght=3)
    with pytest.raises(TypeError, match="no option 'lenght'"):
        gymnasium.make_vec(env_id, lenght=3)
    with pytest.raises(ValueError, match="render_mode"):
        gymnasium.make_vec(env_id, render_mode="human")


@pytest.mark.parametrize("env_id", IDS)
def test_a_shorter_limit_truncates(env_id):
    """`max_episode_steps` ends both forms early, as truncation and without success."""
    vector = gymnasium.make_vec(env_id, num_envs=2, max_episode_steps=1, **easiest(env_id))
    vector.reset(seed=0)
    _, _, terminated, truncated, infos = vector.step(np.zeros(2, dtype=np.int64))
    assert truncated.all() and not terminated.any()
    assert not infos["success"].any() and infos["_success"].all()
    scalar = type(gymnasium.make(env_id).unwrapped)(max_episode_steps=1, **easiest(env_id))
    scalar.reset(seed=0)
    assert scalar.step(0)[2:] == (False, True, {"success": False})
    with pytest.raises(ValueError, match="max_episode_steps"):
        gymnasium.make_vec(env_id, max_episode_steps=0)


def test_unknown_names():
    with pytest.raises(ValueError, match="memarch/TMaze-v0"):
        task_class("memarch/Maze-v0")
    with pytest.raises(ValueError, match="autoreset_mode"):
        gymnasium.make_vec("memarch/TMaze-v0", autoreset_mode="Sometimes")


def test_registering_twice_and_by_module():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_environments()
    assert gymnasium.make("memarch_envs:memarch/TMaze-v0").spec.id == "memarch/TMaze-v0"
