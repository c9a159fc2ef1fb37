"""State tracking: one element of a finite group a line; at every newline the product of all elements so far is due.

    x_1 newline x_2 newline ... x_N newline        label of the n-th newline: x_1 x_2 ... x_n

The word problem of a group, in the form of arXiv 2404.08819: a transformer of constant depth can learn it up to a
length only (for S5 under common conjectures none can do all lengths), whoever keeps a state can go on for ever. Labels
are never fed back, so the state has to be kept inside.

B batch, N lines, G elements of the group.
"""

from itertools import permutations

import torch
from torch import Tensor

IGNORE = -100
PAD, END, NEWLINE, FIRST_ELEMENT = 0, 1, 2, 3
GROUPS = ("parity", "Z5", "S3", "S5")


def group_table(group: str) -> Tensor:
    """The products of a group, `[G, G]` int64: `table[a, b]` is a b (first a, then b); element 0 is the identity.

    "parity" is Z2, "Z5" addition modulo 5; "S3" and "S5" are all permutations of 3 and 5 things, in lexicographic
    order.

    Raises: ValueError for another group.
    """
    if group not in GROUPS:
        raise ValueError(f"group must be one of {', '.join(GROUPS)}; got {group!r}")
    if group in ("parity", "Z5"):
        steps = torch.arange(2 if group == "parity" else 5)
        return (steps[:, None] + steps) % len(steps)
    elements = torch.tensor(list(permutations(range(int(group[1:])))))
    rank = elements.new_tensor([elements.shape[1] ** i for i in range(elements.shape[1])])
    codes, order = (elements * rank).sum(-1).sort()
    # First a, then b: thing i goes to b[a[i]].
    products = elements[:, elements].transpose(0, 1)
    return order[torch.searchsorted(codes, (products * rank).sum(-1))]


def state_tracking(
    batch_size: int, *, group: str, num_lines: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Lines of uniformly drawn elements, and the product so far at each newline.

    Token ids are PAD, END, NEWLINE and FIRST_ELEMENT + element: `FIRST_ELEMENT + len(group_table(group))` in all.

    Returns: tokens `[B, 2 N]` and labels `[B, 2 N]`, int64; label -100 on elements, else the product's token at the
    newline itself.
    Raises: ValueError for sizes below 1 or another group.
    """
    for name, value in (("batch_size", batch_size), ("num_lines", num_lines)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    table = group_table(group)
    drawn = torch.randint(len(table), (batch_size, num_lines), generator=generator)
    states = [drawn[:, 0]]
    for line in range(1, num_lines):
        states.append(table[states[-1], drawn[:, line]])
    newlines = torch.full_like(drawn, NEWLINE)
    tokens = torch.stack([drawn + FIRST_ELEMENT, newlines], -1).flatten(1)
    due = torch.stack(states, 1) + FIRST_ELEMENT
    return tokens, torch.stack([torch.full_like(due, IGNORE), due], -1).flatten(1)
