"""Agents that learn with any of the memories; environments come by id or factory, from any package.

agent = memarch.agents.PPO("memarch/TMaze-v0", memory="hcam", env_options={"length": 50})
agent.learn(200_000)
agent.evaluate()                        # on seeds it has not seen
agent.save("agent")
"""

try:
    import gymnasium as _gymnasium  # noqa: F401 - tells what is missing before anything else fails
except ImportError as error:
    raise ImportError("memarch.agents needs the package gymnasium: pip install 'memarch[agents]'") from error

from ._world import is_first_process, join_torchrun
from .callbacks import (
    AgentCallback,
    AgentReport,
    Checkpoint,
    CSVLogger,
    Evaluate,
    StopAtThreshold,
    TensorBoardLogger,
)
from .environments import EnvironmentFailedError
from .evaluation import AgentEvaluation
from .memories import MEMORIES, build_memory
from .policy import MemoryPolicy
from .ppo import PPO, AgentResult
from .progress import ProgressBar
from .recall_picture import draw_recall
from .rollout import Episode
from .settings import PolicySettings, PPOSettings
from .statistics import Interval, bootstrap_interval, interquartile_mean
from .update import DivergedError, UpdateReport
from .watching import WatchedEpisode, watch

__all__ = [
    "AgentCallback",
    "AgentEvaluation",
    "AgentReport",
    "AgentResult",
    "CSVLogger",
    "Checkpoint",
    "DivergedError",
    "EnvironmentFailedError",
    "Episode",
    "Evaluate",
    "Interval",
    "MEMORIES",
    "MemoryPolicy",
    "PPO",
    "PPOSettings",
    "PolicySettings",
    "ProgressBar",
    "StopAtThreshold",
    "TensorBoardLogger",
    "UpdateReport",
    "WatchedEpisode",
    "bootstrap_interval",
    "build_memory",
    "draw_recall",
    "interquartile_mean",
    "is_first_process",
    "join_torchrun",
    "watch",
]
