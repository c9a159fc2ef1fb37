"""Drop-in sequence layers: `y, state = layer(x, state)`."""

from .miras import MIRAS_POINTS, Memora, Miras, MirasLayerState, Moneta, Yaad, miras_point

__all__ = ["MIRAS_POINTS", "Memora", "Miras", "MirasLayerState", "Moneta", "Yaad", "miras_point"]
