from itertools import permutations

import pytest
import torch

from memarch.data.state_tracking import FIRST_ELEMENT, GROUPS, IGNORE, NEWLINE, group_table, state_tracking


@pytest.mark.parametrize(("group", "order"), [("parity", 2), ("Z5", 5), ("S3", 6), ("S5", 120)])
def test_tables_are_groups(group, order):
    table = group_table(group)
    assert table.shape == (order, order)
    everything = torch.arange(order)
    assert torch.equal(table[0], everything) and torch.equal(table[:, 0], everything)
    for line in (*table, *table.T):
        assert torch.equal(line.sort().values, everything)
    a, b, c = torch.randint(order, (3, 200))
    assert torch.equal(table[table[a, b], c], table[a, table[b, c]])
    assert torch.equal(table, table.T) == (group in ("parity", "Z5"))


def test_permutations_by_hand():
    """First swap the first two things, then turn all three, is not the other way round."""
    elements = list(permutations(range(3)))
    swap, turn = elements.index((1, 0, 2)), elements.index((1, 2, 0))
    table = group_table("S3")
    assert elements[table[swap, turn]] == (2, 1, 0) and elements[table[turn, swap]] == (0, 2, 1)


@pytest.mark.parametrize("group", GROUPS)
def test_labels_are_the_products_so_far(group):
    tokens, labels = state_tracking(7, group=group, num_lines=11, generator=torch.Generator().manual_seed(0))
    assert tokens.shape == labels.shape == (7, 22) and tokens.dtype == labels.dtype == torch.int64
    assert (tokens[:, 1::2] == NEWLINE).all() and (labels[:, ::2] == IGNORE).all()
    table = group_table(group).tolist()
    for row, wanted in zip(tokens[:, ::2].tolist(), labels[:, 1::2].tolist(), strict=True):
        state = 0
        for token, label in zip(row, wanted, strict=True):
            state = table[state][token - FIRST_ELEMENT]
            assert label == state + FIRST_ELEMENT
    assert tokens[:, ::2].unique().numel() >= min(60, len(table)) // 2


def test_the_generator_decides():
    def draw(seed):
        return state_tracking(3, group="S5", num_lines=5, generator=torch.Generator().manual_seed(seed))[0]

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "S4", "num_lines": 3}, "group must be one of parity, Z5, S3, S5; got 'S4'"),
        ({"group": "S3", "num_lines": 0}, "num_lines must be >= 1, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        state_tracking(2, **options)
