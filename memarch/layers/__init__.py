"""Drop-in sequence layers: `y, state = layer(x, state)`; for agents also `layer(x, state, reset=reset)`."""

from .attention import Attention, AttentionState
from .block import MemoryBlock
from .episodic_miras import EpisodicMiras
from .episodic_registry import EPISODIC_MEMORIES, build_episodic_memory
from .gtrxl import GTrXL
from .hcam import HCAM, ChunkReads, HCAMState
from .local_attention import LocalAttention, LocalAttentionState
from .memory_trace import MemoryTrace
from .miras import Memora, Miras, MirasLayerState, Moneta, Yaad
from .miras_points import MIRAS_POINTS, miras_point
from .recurrent import GRU, LSTM, RecurrentState
from .registry import MIXERS, build_mixer
from .swiglu import SwiGLU

__all__ = [
    "EPISODIC_MEMORIES",
    "Attention",
    "AttentionState",
    "ChunkReads",
    "EpisodicMiras",
    "GRU",
    "GTrXL",
    "HCAM",
    "HCAMState",
    "LSTM",
    "LocalAttention",
    "LocalAttentionState",
    "MIRAS_POINTS",
    "MIXERS",
    "Memora",
    "MemoryBlock",
    "MemoryTrace",
    "Miras",
    "MirasLayerState",
    "Moneta",
    "RecurrentState",
    "SwiGLU",
    "Yaad",
    "build_episodic_memory",
    "build_mixer",
    "miras_point",
]
