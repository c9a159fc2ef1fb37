"""What a trainer reports while it runs, and two listeners that write it down: CSV and TensorBoard."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from .csv_rows import append_row, open_rows
from .evaluation import Evaluation

STEPS_FILE, EVALUATIONS_FILE = "steps.csv", "evaluations.csv"


@dataclass(frozen=True)
class StepReport:
    """One optimiser step.

    Attributes:
        step: steps done, this one included.
        loss: mean nats per token of the batch, before the step.
        learning_rate: of the step.
        gradient_norm: before clipping.
        tokens_per_second: of this step alone.
        train_seconds: spent in steps so far, over all resumed parts.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    train_seconds: float


class TrainerCallback:
    """Listener with nothing to do; override what you need."""

    def on_start(self, step: int, num_steps: int) -> None:
        """Training begins after `step` of `num_steps` steps."""

    def on_step(self, report: StepReport) -> None:
        """A step is done."""

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """The model was evaluated after `step`."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """A checkpoint is on the disk."""

    def on_end(self) -> None:
        """Training is over, finished or not."""


class CSVLogger(TrainerCallback):
    """Rows in `directory`/steps.csv and evaluations.csv; losses are written so that they read back bit for bit.

    Rows after the step that a training resumes from are dropped: it writes them again.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def on_start(self, step: int, num_steps: int) -> None:
        """Open the files, with their rows up to `step`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        steps = [field.name for field in fields(StepReport)]
        evaluations = ["step", *(field.name for field in fields(Evaluation))]
        self._steps = open_rows(self.directory / STEPS_FILE, steps, step)
        self._evaluations = open_rows(self.directory / EVALUATIONS_FILE, evaluations, step)

    def on_step(self, report: StepReport) -> None:
        """Append a row to steps.csv."""
        append_row(self._steps, asdict(report))

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Append a row to evaluations.csv."""
        append_row(self._evaluations, {"step": step, **asdict(evaluation)})


class TensorBoardLogger(TrainerCallback):
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

    def on_start(self, step: int, num_steps: int) -> None:
        """Open a new event file that hides points after `step`."""
        self._writer = self._make_writer(str(self.directory), purge_step=step + 1)

    def on_step(self, report: StepReport) -> None:
        """Add the step's numbers."""
        for name in ("loss", "learning_rate", "gradient_norm", "tokens_per_second"):
            self._writer.add_scalar(f"train/{name}", getattr(report, name), report.step)

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Add the evaluation's numbers."""
        for name in ("loss", "perplexity", "bits_per_byte"):
            self._writer.add_scalar(f"validation/{name}", getattr(evaluation, name), step)

    def on_end(self) -> None:
        """Close the event file."""
        self._writer.close()
