"""What an agent reports while it learns, and listeners that write it down, save, evaluate and stop."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from memarch.training.csv_rows import append_row, open_rows

from .evaluation import AgentEvaluation

if TYPE_CHECKING:
    from .ppo import PPO

UPDATES_FILE, EVALUATIONS_FILE = "updates.csv", "evaluations.csv"


@dataclass(frozen=True)
class AgentReport:
    """One rollout and the update from it.

    Attributes:
        step: steps of all environments done.
        total_reward, episode_steps, success: means over the last 100 finished episodes; nan where there are none, or
            the environment does not tell.
        num_episodes: finished so far.
        steps_per_second: of this rollout and update.
        train_seconds: spent in rollouts and updates so far, over all resumed parts.
        policy_loss, ...: see `UpdateReport`.
    """

    step: int
    total_reward: float
    episode_steps: float
    success: float
    num_episodes: int
    steps_per_second: float
    train_seconds: float
    policy_loss: float
    value_loss: float
    entropy: float
    reconstruction_loss: float
    kl: float
    clip_fraction: float
    explained_variance: float
    gradient_norm: float
    learning_rate: float


class AgentCallback:
    """Listener with nothing to do; override what you need. `agent.request_stop()` ends the training."""

    def on_start(self, agent: PPO) -> None:
        """Training begins after `agent.step` of `agent.goal` steps."""

    def on_update(self, agent: PPO, report: AgentReport) -> None:
        """A rollout was collected and learned from."""

    def on_evaluation(self, agent: PPO, evaluation: AgentEvaluation) -> None:
        """The agent was evaluated."""

    def on_checkpoint(self, agent: PPO, path: Path) -> None:
        """A checkpoint is on the disk."""

    def on_end(self, agent: PPO) -> None:
        """Training is over, finished or not."""


class Checkpoint(AgentCallback):
    """Saves to the agent's `out_dir` about every `every_steps` steps."""

    def __init__(self, every_steps: int) -> None:
        self._due = _Every(every_steps)

    def on_start(self, agent: PPO) -> None:
        """Count from here."""
        self._due.start(agent.step)

    def on_update(self, agent: PPO, report: AgentReport) -> None:
        """Save if it is time."""
        if self._due.now(report.step) and report.step < agent.goal:
            agent.checkpoint()


class Evaluate(AgentCallback):
    """Plays `num_episodes` on seeds never trained on about every `every_steps` steps, and at the end."""

    def __init__(self, every_steps: int, *, num_episodes: int = 64) -> None:
        self._due, self.num_episodes = _Every(every_steps), num_episodes

    def on_start(self, agent: PPO) -> None:
        """Count from here."""
        self._due.start(agent.step)

    def on_update(self, agent: PPO, report: AgentReport) -> None:
        """Evaluate if it is time; the listeners hear of it."""
        if self._due.now(report.step) or report.step >= agent.goal:
            agent.tell("on_evaluation", agent.evaluate(num_episodes=self.num_episodes))


class StopAtThreshold(AgentCallback):
    """Ends the training once a mean is high enough; before an `Evaluate` in the list, the end is evaluated too.

    Args:
        measure: "success" or "total_reward".
        threshold: at least this.
        of: "evaluation" (needs an `Evaluate` among the callbacks), or "training": the last 100 episodes, once there
            were so many.

    Raises:
        ValueError: another measure, or another `of`.
    """

    def __init__(
        self,
        measure: Literal["success", "total_reward"],
        threshold: float,
        *,
        of: Literal["evaluation", "training"] = "evaluation",
    ) -> None:
        for name, value, allowed in (
            ("measure", measure, ("success", "total_reward")),
            ("of", of, ("evaluation", "training")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
        self.measure, self.threshold, self.of = measure, threshold, of

    def on_update(self, agent: PPO, report: AgentReport) -> None:
        """Look at the training's mean."""
        if self.of == "training" and report.num_episodes >= 100 and getattr(report, self.measure) >= self.threshold:
            agent.finish()

    def on_evaluation(self, agent: PPO, evaluation: AgentEvaluation) -> None:
        """Look at the evaluation's mean."""
        value = getattr(evaluation, self.measure)
        if self.of == "evaluation" and value is not None and value >= self.threshold:
            agent.finish()


class CSVLogger(AgentCallback):
    """Rows in `directory`/updates.csv and evaluations.csv; those after the step a training resumes from are dropped."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def on_start(self, agent: PPO) -> None:
        """Open the files, with their rows up to `agent.step`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        updates = [field.name for field in fields(AgentReport)]
        evaluations = ["step", *(field.name for field in fields(AgentEvaluation))]
        self._updates = open_rows(self.directory / UPDATES_FILE, updates, agent.step)
        self._evaluations = open_rows(self.directory / EVALUATIONS_FILE, evaluations, agent.step)

    def on_update(self, agent: PPO, report: AgentReport) -> None:
        """Append a row to updates.csv."""
        append_row(self._updates, asdict(report))

    def on_evaluation(self, agent: PPO, evaluation: AgentEvaluation) -> None:
        """Append a row to evaluations.csv."""
        append_row(self._evaluations, {"step": agent.step, **asdict(evaluation)})


class TensorBoardLogger(AgentCallback):
    """The same numbers as TensorBoard event files in `directory`.

    Raises:
        ImportError: the package tensorboard is missing.
    """

    def __init__(self, directory: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoard logs need the package tensorboard: pip install 'memarch[train]'") from error
        self._make_writer, self.directory = SummaryWriter, Path(directory)

    def on_start(self, agent: PPO) -> None:
        """Open a new event file that hides points after `agent.step`."""
        self._writer = self._make_writer(str(self.directory), purge_step=agent.step + 1)

    def on_update(self, agent: PPO, report: AgentReport) -> None:
        """Add the update's numbers."""
        self._add("train", asdict(report), report.step)

    def on_evaluation(self, agent: PPO, evaluation: AgentEvaluation) -> None:
        """Add the evaluation's numbers."""
        self._add("evaluation", asdict(evaluation), agent.step)

    def on_end(self, agent: PPO) -> None:
        """Close the event file."""
        self._writer.close()

    def _add(self, group: str, values: dict[str, float | None], step: int) -> None:
        for name, value in values.items():
            if name != "step" and value is not None and math.isfinite(value):
                self._writer.add_scalar(f"{group}/{name}", value, step)


class _Every:
    """Says when another `every` steps are over."""

    def __init__(self, every: int) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every_steps must be an integer of at least 1; got {every!r}")
        self.every = every

    def start(self, step: int) -> None:
        self._count = step // self.every

    def now(self, step: int) -> bool:
        before, self._count = self._count, step // self.every
        return self._count > before
