"""One environment being played: what happened so far, as text and as pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._envs_open import action_names

if TYPE_CHECKING:
    from gymnasium import Env

    from ._envs_film import Film


@dataclass(frozen=True)
class Result:
    """A finished episode."""

    number: int
    total: float
    success: bool
    steps: int

    def __str__(self) -> str:
        ended = "success" if self.success else "no success"
        return f"episode {self.number}: return {self.total:.3g}, {ended}, {self.steps} step{'s'[: self.steps != 1]}"


class Game:
    """Episodes of `env`, one after another.

    Args:
        env: the scalar form of one of our environments, with render_mode "rgb_array".
        env_id: its id.
        seed: of the first episode; those after it go on from there.
        reveal: whether `text` shows what is hidden from a player.
        film: gets every picture.
    """

    def __init__(self, env: Env[Any, Any], env_id: str, *, seed: int, reveal: bool, film: Film | None = None) -> None:
        self.env, self.seed, self.reveal, self.film = env, seed, reveal, film
        self.task: Any = env.unwrapped.task  # type: ignore[attr-defined]
        self.title = f"{env_id}, seed {seed}"
        self.summary: str = self.task.summary
        self.names = action_names(self.task, int(self.task.action_space.n))
        self.results: list[Result] = []
        self._seed: int | None = seed
        self.begin()

    def begin(self) -> None:
        """Start an episode."""
        self.env.reset(seed=self._seed)
        self._seed = None
        self.steps, self.total, self.over = 0, 0.0, False
        self.last_action, self.last_reward = 0, 0.0
        self._take_picture()

    def step(self, action: int) -> None:
        """Take an action; `results` gets one more at the end of the episode."""
        _, reward, terminated, truncated, info = self.env.step(action)
        self.last_action, self.last_reward = action, float(reward)
        self.steps, self.total, self.over = self.steps + 1, self.total + float(reward), terminated or truncated
        if self.over:
            self.results.append(Result(len(self.results) + 1, self.total, bool(info["success"]), self.steps))
        self._take_picture()

    def text(self) -> str:
        """The current state, or what a player may see of it."""
        shown: str = self.task.text(0) if self.reveal else self.task.view(0)
        return shown

    def expert(self) -> int:
        """What a player with perfect memory would do."""
        return int(self.task.expert()[0])

    def _take_picture(self) -> None:
        if self.film is not None:
            picture: Any = self.env.render()
            self.film.add(picture, last=self.over)
