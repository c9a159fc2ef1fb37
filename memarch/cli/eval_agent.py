"""`memarch eval agent`: play a trained agent on unseen seeds, film it, draw what its memory read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._agent_runs import runs_of, say
from ._envs_film import Film
from ._envs_open import read_options
from .errors import USAGE, expected

if TYPE_CHECKING:
    from memarch.agents import PPO

FILM_FPS = 8.0


def eval_agent(
    run: Annotated[Path, typer.Argument(help="Directory of a run, of several (--seeds), of a checkpoint or an agent.")],
    episodes: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the episodes; none was trained on.")] = 0,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="Another one of the environment.")
    ] = None,
    env: Annotated[str | None, typer.Option(help="Another environment with the same spaces.")] = None,
    stochastic: Annotated[bool, typer.Option("--stochastic", help="Draw actions instead of the likeliest.")] = False,
    video: Annotated[Path | None, typer.Option(metavar="FILE", help="Film the first episode: .gif or .mp4.")] = None,
    recall: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw what was read at each step: .png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each run.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")] = "auto",
) -> None:
    """Play a trained agent on seeds it has not seen.

    memarch eval agent runs/agent-tmaze-hcam -o length=200 --recall recall.png
    """
    with expected(ImportError):
        from memarch.agents import PPO, bootstrap_interval
        from memarch.agents.progress import describe
    import torch

    torch.set_num_threads(1)  # Such networks are small, and acting is one step at a time.
    with expected(OSError, ImportError), expected(ValueError, code=USAGE):
        film = None if video is None else Film(video, fps=FILM_FPS)
        options = read_options(None, None, option or [])
        if recall is not None and recall.suffix.lower() != ".png":
            raise ValueError(f"--recall takes a name that ends in .png; got {str(recall)!r}")
        if env is not None and options:
            raise ValueError("--option changes the environment that the agent learned in; drop it or --env")
    with expected(OSError, ValueError):
        directories = [run] if (run / "config.json").is_file() else runs_of(run)
    scores: list[float] = []
    for index, directory in enumerate(directories):
        with expected(OSError, ValueError):
            agent = PPO.load(directory, env=env, env_options=options, device=device)
            result = agent.evaluate(num_episodes=episodes, seed=seed, deterministic=not stochastic)
        scores.append(result.total_reward if result.success is None else result.success)
        told = json.dumps({"run": str(directory), **asdict(result)})
        say(told if as_json else f"{directory}: {describe(result)}")
        if index == 0:
            _look(agent, seed=seed, stochastic=stochastic, film=film, recall=recall, quiet=as_json)
        agent.close()
    if len(scores) > 1 and not as_json:
        interval = bootstrap_interval(scores)
        measure = "return" if result.success is None else "success"
        say(
            f"{len(scores)} runs: {measure} interquartile mean {interval.value:.3f} "
            f"[{interval.low:.3f}, {interval.high:.3f}]"
        )


def _look(agent: PPO, *, seed: int, stochastic: bool, film: Film | None, recall: Path | None, quiet: bool) -> None:
    if film is None and recall is None:
        return
    from memarch.agents import draw_recall, watch

    with expected():
        episode = watch(agent, seed=seed, deterministic=not stochastic, pictures=film is not None)
        written = []
        if film is not None:
            if not episode.pictures:
                raise ValueError(f"{agent.source.name} draws no pictures (render_mode 'rgb_array'): drop --video")
            for position, picture in enumerate(episode.pictures):
                film.add(picture, last=position == len(episode.pictures) - 1)
            film.save()
            written.append(film.path)
        if recall is not None:
            draw_recall(episode, recall, title=f"{agent.source.name}, {agent.config.memory}")
            written.append(recall)
    if not quiet:
        say(f"wrote {' and '.join(map(str, written))}")
