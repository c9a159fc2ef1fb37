import pytest
import torch

from memarch.data.multiplication import EQUALS, IGNORE, TIMES, VOCAB_SIZE, multiplication


@pytest.mark.parametrize("reverse", [True, False])
def test_products_are_right(reverse):
    tokens, labels = multiplication(50, num_digits=3, reverse=reverse, generator=torch.Generator().manual_seed(0))
    assert tokens.shape == labels.shape == (50, 13) and int(tokens.max()) < VOCAB_SIZE
    for row, wanted in zip(tokens.tolist(), labels.tolist(), strict=True):
        assert row[3] == TIMES and row[7] == EQUALS
        a, b = (int("".join(map(str, digits))) for digits in (row[:3], row[4:7]))
        product = [int(d) for d in f"{a * b:06d}"]
        product = product[::-1] if reverse else product
        assert wanted == [IGNORE] * 7 + product and row[8:] == product[:-1]


def test_nine_digits_do_not_overflow():
    tokens, labels = multiplication(200, num_digits=9, generator=torch.Generator().manual_seed(1))
    a, b = (int("".join(map(str, tokens[0, at].tolist()))) for at in (slice(9), slice(10, 19)))
    assert int("".join(map(str, reversed(labels[0, 19:].tolist())))) == a * b
    assert (labels[:, 19:] >= 0).all()


def test_the_generator_decides():
    def draw(seed):
        return multiplication(3, num_digits=4, generator=torch.Generator().manual_seed(seed))[0]

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize(("batch", "digits", "message"), [(0, 2, "batch_size"), (1, 0, "got 0"), (1, 10, "got 10")])
def test_bad_options(batch, digits, message):
    with pytest.raises(ValueError, match=message):
        multiplication(batch, num_digits=digits)
