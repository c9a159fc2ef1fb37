"""`memarch envs play`: by keyboard, with actions from a pipe, or watch the oracle or uniform actions."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from . import _memory_show as show
from ._envs_film import Film
from ._envs_game import Game
from ._envs_keys import play_by_keys, read_action
from ._envs_list import NameArgument
from ._envs_open import find_spec, make_env, read_options, task_of
from .errors import INTERRUPTED, USAGE, expected, fail


def play(
    name: NameArgument,
    oracle: Annotated[bool, typer.Option("--oracle", help="Watch a player who knows what is hidden.")] = False,
    random: Annotated[bool, typer.Option("--random", help="Watch uniform actions.")] = False,
    level: Annotated[str | None, typer.Option("--level", metavar="NAME", help="As in `memarch envs show`.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="As in `memarch envs show`.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="For the same episodes every time; default: a new one.")] = None,
    episodes: Annotated[int | None, typer.Option(help="How many; default: 1, or until you quit.")] = None,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show what is hidden while you play.")] = False,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the pictures to a .gif or .mp4.")] = None,
    fps: Annotated[float | None, typer.Option(help="Pictures per second of what you watch or save.")] = None,
) -> None:
    """Play an environment, by keyboard or with actions from a pipe, or watch the oracle.

    You see what the observations tell. In a pipe, actions are names or numbers between blanks:
    echo "left right right up" | memarch envs play TMaze -o length=1
    """
    with expected(), expected(ValueError, TypeError, code=USAGE):
        _check(oracle=oracle, random=random, seed=seed, episodes=episodes, fps=fps)
        spec = find_spec(name)
        env = make_env(spec, read_options(task_of(spec), level, option or []))
        film = None if save is None else Film(save, fps=fps or env.metadata["render_fps"])
        seed = time.time_ns() % 2**31 if seed is None else seed
        watched = oracle or random
        game = Game(env, spec.id, seed=seed, reveal=watched or reveal, film=film)
    try:
        if watched:
            choose = game.expert if oracle else _uniform(len(game.names), seed)
            _watch(game, choose, episodes=episodes or 1, fps=fps or env.metadata["render_fps"])
        elif not sys.stdin.isatty():
            _play_piped(game, episodes)
        elif not sys.stdout.isatty():
            fail("playing by keyboard needs a terminal to show it; for a pipe give --oracle or actions on stdin", USAGE)
        else:
            with expected():
                play_by_keys(game, episodes)
            show.emit(game.title)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    _report(game)
    if film is not None:
        with expected():
            film.save()
            size = show.num_bytes(film.path.stat().st_size)
        show.emit(f"wrote {show.count_of(len(film.pictures), 'picture')} to {film.path}, {size}")


def _check(*, oracle: bool, random: bool, seed: int | None, episodes: int | None, fps: float | None) -> None:
    if oracle and random:
        raise ValueError("give --oracle or --random, not both")
    if episodes is not None and episodes < 1:
        raise ValueError(f"--episodes must be at least 1; got {episodes}")
    if seed is not None and seed < 0:
        raise ValueError(f"--seed must be at least 0; got {seed}")
    if fps is not None and not 0 < fps <= 50:
        raise ValueError(f"--fps must be above 0 and at most 50; got {fps}")


def _uniform(num_actions: int, seed: int) -> Callable[[], int]:
    import numpy as np

    generator = np.random.default_rng(seed)
    return lambda: int(generator.integers(num_actions))


def _watch(game: Game, choose: Callable[[], int], *, episodes: int, fps: float) -> None:
    """Whole episodes: in place on a terminal, line after line in a pipe, silently into a film."""
    if game.film is not None:
        _run(game, choose, episodes, lambda: None)
    elif sys.stdout.isatty():
        from rich.live import Live
        from rich.text import Text

        with Live(auto_refresh=False) as live:

            def draw() -> None:
                live.update(Text(f"{game.title}\n\n{game.text()}\n\nreturn {game.total:.3g}"), refresh=True)
                time.sleep(1 / fps)

            _run(game, choose, episodes, draw)
    else:
        show.emit(game.title)
        _run(game, choose, episodes, lambda: _print_step(game))


def _run(game: Game, choose: Callable[[], int], episodes: int, draw: Callable[[], None]) -> None:
    draw()
    while True:
        game.step(choose())
        draw()
        if len(game.results) == episodes:
            return
        if game.over:
            game.begin()
            draw()


def _play_piped(game: Game, episodes: int | None) -> None:
    """The actions of stdin until its end, a q, or the last episode; an action after an end begins the next episode."""
    show.emit(game.title)
    _print_step(game)
    for word in _words():
        if word.lower() == "q" or len(game.results) == episodes:
            return
        with expected(ValueError, code=USAGE):
            action = read_action(word, game.names)
        if game.over:
            game.begin()
            _print_step(game)
        game.step(action)
        _print_step(game)


def _words() -> Iterator[str]:
    for line in sys.stdin:
        yield from line.replace(",", " ").split()


def _print_step(game: Game) -> None:
    if game.steps:
        reward = f", reward {game.last_reward:.3g}" if game.last_reward else ""
        show.emit(f"> {game.names[game.last_action]}{reward}")
    show.emit(game.text())


def _report(game: Game) -> None:
    for result in game.results:
        show.emit(str(result))
    if not game.over and game.steps:
        show.emit(f"left after {show.count_of(game.steps, 'step')} of an episode, return {game.total:.3g}")
    if len(game.results) > 1:
        mean = sum(result.total for result in game.results) / len(game.results)
        share = sum(result.success for result in game.results) / len(game.results)
        show.emit(f"{len(game.results)} episodes: mean return {mean:.3g}, success {share:.0%}")
