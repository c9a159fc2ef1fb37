"""Drop-in sequence layers: `y, state = layer(x, state)`."""

from .attention import Attention, AttentionState
from .block import MemoryBlock
from .hcam import HCAM, HCAMState
from .local_attention import LocalAttention, LocalAttentionState
from .miras import Memora, Miras, MirasLayerState, Moneta, Yaad
from .miras_points import MIRAS_POINTS, miras_point
from .registry import MIXERS, build_mixer
from .swiglu import SwiGLU

__all__ = [
    "HCAM",
    "MIRAS_POINTS",
    "MIXERS",
    "Attention",
    "AttentionState",
    "HCAMState",
    "LocalAttention",
    "LocalAttentionState",
    "Memora",
    "MemoryBlock",
    "Miras",
    "MirasLayerState",
    "Moneta",
    "SwiGLU",
    "Yaad",
    "build_mixer",
    "miras_point",
]
