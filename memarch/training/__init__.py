"""Training loops, checkpoints and logs; no terminal input or output."""

from memarch._interrupt import stop_on_interrupt

from .checkpoint import latest_checkpoint, resolve_checkpoint
from .evaluation import Evaluation, evaluate
from .lm import DivergedError, LMSettings, LMTrainer, TrainingResult
from .lm_data import LMData, prepare_text
from .logging import CSVLogger, StepReport, TensorBoardLogger, TrainerCallback

__all__ = [
    "CSVLogger",
    "DivergedError",
    "Evaluation",
    "LMData",
    "LMSettings",
    "LMTrainer",
    "StepReport",
    "TensorBoardLogger",
    "TrainerCallback",
    "TrainingResult",
    "evaluate",
    "latest_checkpoint",
    "prepare_text",
    "resolve_checkpoint",
    "stop_on_interrupt",
]
