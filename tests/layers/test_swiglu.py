"""SwiGLU: a value by hand, the default width, errors."""

import math

import pytest
import torch

from memarch.layers.swiglu import SwiGLU, default_mlp_dim


def test_value_by_hand() -> None:
    layer = SwiGLU(1, mlp_dim=1)
    with torch.no_grad():
        layer.gate_proj.weight.fill_(2.0)
        layer.up_proj.weight.fill_(3.0)
        layer.down_proj.weight.fill_(5.0)
    y = layer(torch.tensor([[0.5]]))
    silu = 1.0 / (1.0 + math.exp(-1.0))
    torch.testing.assert_close(y, torch.tensor([[5.0 * silu * 1.5]]))


@pytest.mark.parametrize(("d_model", "expected"), [(3, 8), (96, 256), (128, 344), (192, 512), (512, 1368)])
def test_default_width_is_eight_thirds_in_eights(d_model: int, expected: int) -> None:
    assert default_mlp_dim(d_model) == expected == SwiGLU(d_model).gate_proj.out_features


def test_widths_below_one_raise() -> None:
    with pytest.raises(ValueError, match="at least 1; got 8 and 0"):
        SwiGLU(8, mlp_dim=0)
