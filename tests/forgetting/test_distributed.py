"""Two ranks forget what one would: no message is needed, since noise is counted, not drawn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memarch.forgetting import EmbeddingForgetting, ProbabilisticForgetting

from ._models import adamw, batch, loss_of, tiny


def one_process(kind):
    """The same training on the whole batch."""
    model = tiny(tied=kind != "fsdp")
    optimizer = adamw(model)
    if kind == "probabilistic":
        forget = ProbabilisticForgetting(model.embed, probability=0.4, std=0.3, every=2, seed=5)
    else:
        forget = EmbeddingForgetting(model.embed, every=3, std=0.1, seed=5, keep_rows=(1, 20))
    for step in range(7):
        optimizer.zero_grad()
        losses = []
        for half in batch(step).chunk(2):
            if kind == "probabilistic":
                with forget:
                    losses.append(loss_of(model, half))
            else:
                losses.append(loss_of(model, half))
        (sum(losses) / 2).backward()
        optimizer.step()
        if kind == "probabilistic":
            forget.step()
        else:
            forget.step(optimizer)
    return dict(model.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["embedding", "probabilistic", "fsdp"])
def test_two_ranks_do_what_one_process_does(kind, tmp_path):
    script = Path(__file__).parent / "_ranks.py"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", script, kind, str(rank), tmp_path], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    expected = one_process(kind)
    assert set(first) == set(expected)
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value.detach(), rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
