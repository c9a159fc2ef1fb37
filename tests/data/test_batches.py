"""Batches: contiguous pieces, each once an epoch, seeded, resumable at any batch."""

import pytest
import torch

from memarch.data.batches import TextBatches, validation_windows

TOKENS = torch.arange(1000)


def make(seed: int = 0, **sizes: int) -> TextBatches:
    return TextBatches(TOKENS, **{"batch_size": 3, "seq_len": 7, "seed": seed, **sizes})


def test_pieces_are_contiguous_and_once_an_epoch() -> None:
    batches = make()
    for _ in range(2):
        starts = []
        for _ in range(batches.batches_per_epoch):
            x, y = batches.next()
            assert x.shape == y.shape == (3, 7)
            assert torch.equal(y, x + 1) and torch.equal(x, x[:, :1] + torch.arange(7))
            starts += x[:, 0].tolist()
        assert len(set(starts)) == len(starts) >= (1000 - 8) // 7 - 3
        assert len({start % 7 for start in starts}) == 1 and starts != sorted(starts)


def test_epochs_and_seeds_differ_and_one_seed_repeats() -> None:
    def stream(seed: int, count: int = 100) -> torch.Tensor:
        batches = make(seed)
        return torch.stack([batches.next()[0] for _ in range(count)])

    assert torch.equal(stream(1), stream(1))
    assert not torch.equal(stream(1), stream(2))
    per_epoch = make(1).batches_per_epoch
    both = stream(1, 2 * per_epoch)
    assert not torch.equal(both[:per_epoch], both[per_epoch:])


@pytest.mark.parametrize("stop", [0, 1, 45, 46, 47, 60])
def test_restore_goes_on_with_the_next_batch(stop: int) -> None:
    straight, resumed = make(), make()
    assert straight.batches_per_epoch == 47
    for _ in range(stop):
        straight.next()
    resumed.restore(straight.state())
    for _ in range(50):
        for a, b in zip(straight.next(), resumed.next(), strict=True):
            assert torch.equal(a, b)


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least 1; got 0 and 7"):
        make(batch_size=0)
    with pytest.raises(ValueError, match="has 1,000 tokens, but batches of 100 x 10 need at least 1,010"):
        make(batch_size=100, seq_len=10)
    for seed in range(30):
        assert make(seed, batch_size=99, seq_len=10).next()[1].max() < 1000
    for state in ({"epoch": 0, "index": 4}, {"epoch": -1, "index": 0}, {"epoch": 0, "index": 144}):
        with pytest.raises(ValueError, match="resume with the text and sizes"):
            make().restore(state)  # type: ignore[arg-type]


def test_validation_windows_cover_the_stream() -> None:
    x, y = validation_windows(TOKENS, seq_len=7)
    assert x.shape == (142, 7) and torch.equal(y, x + 1) and torch.equal(x.flatten(), TOKENS[: 142 * 7])
    assert validation_windows(TOKENS[:4], seq_len=7)[0].tolist() == [[0, 1, 2]]
    with pytest.raises(ValueError, match="has 1 tokens; expected at least 2"):
        validation_windows(TOKENS[:1], seq_len=7)
