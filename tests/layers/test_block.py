"""MemoryBlock: the residual form, and that any mixer drops in with its state and mask."""

import torch
from torch import Tensor, nn

from memarch.layers.attention import Attention
from memarch.layers.block import MemoryBlock


class RunningSum(nn.Module):
    """The smallest mixer there is: a cumulative sum whose state is the total."""

    def forward(self, x: Tensor, state: Tensor | None = None, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = x if mask is None else x * mask[..., None]
        y = x.cumsum(1) if state is None else x.cumsum(1) + state[:, None]
        return y, y[:, -1]


def test_is_two_prenorm_residual_steps() -> None:
    torch.manual_seed(0)
    block = MemoryBlock(RunningSum(), 7, mlp_dim=13)
    x = torch.randn(2, 5, 7)
    with torch.no_grad():
        block.mixer_norm.weight.uniform_(0.5, 2)
        block.mlp_norm.weight.uniform_(0.5, 2)

    def norm(z: Tensor, weight: Tensor) -> Tensor:
        return z / (z.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    h = x + norm(x, block.mixer_norm.weight).cumsum(1)
    expected = h + block.mlp(norm(h, block.mlp_norm.weight))
    y, state = block(x)
    torch.testing.assert_close(y, expected)
    assert state.shape == (2, 7)


def test_state_and_mask_reach_the_mixer() -> None:
    torch.manual_seed(1)
    for mixer in (RunningSum(), Attention(8, 2, window_tokens=3)):
        block = MemoryBlock(mixer, 8)
        x = torch.randn(2, 6, 8)
        whole, _ = block(x)
        first, state = block(x[:, :4])
        second, _ = block(x[:, 4:], state)
        torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-5, atol=1e-6)
        mask = torch.tensor([[False, False, True, True, True, True]]).expand(2, -1)
        padded, _ = block(x, mask=mask)
        torch.testing.assert_close(padded[:, 2:], block(x[:, 2:])[0], rtol=1e-5, atol=1e-6)
