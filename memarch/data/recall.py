"""Associative recall: sequences that store key / value pairs and ask for the values later.

`mqar`                 multi-query associative recall (Zoology, arXiv 2312.04927): each key is stored once and asked
                       once.
`noisy_mqar`           each key is stored several times, a minority of the writes carries an outlier: who keeps the
                       clean value?
`noisy_vector_recall`  the same question with vectors instead of tokens, outliers being many times longer than clean
                       values.

Why vectors too: a model trained on tokens may learn to make the outliers' embeddings small, and a pre-norm block
removes their length. With vectors the outlier reaches the memory at full size, which is the case robust losses are
made for.

B batch, T time, N pairs, W writes per key.
"""

from typing import NamedTuple

import torch
from torch import Tensor

IGNORE = -100
BLANK = 0


class RecallVocabulary(NamedTuple):
    """Which token ids are keys, values and outliers; id 0 is the blank."""

    keys: range
    values: range
    outliers: range


class VectorRecall(NamedTuple):
    """Pairs to write and questions to ask, as vectors; see `noisy_vector_recall` for the shapes."""

    keys: Tensor
    values: Tensor
    is_outlier: Tensor
    queries: Tensor
    targets: Tensor
    num_outliers: Tensor


def recall_vocabulary(vocab_size: int, num_outlier_tokens: int = 0) -> RecallVocabulary:
    """Split `vocab_size` ids: 0 blank, then keys, then as many values or one more, the outliers last.

    Raises: ValueError if a range would be empty.
    """
    if num_outlier_tokens < 0:
        raise ValueError(f"num_outlier_tokens must be >= 0, got {num_outlier_tokens}")
    num_keys = (vocab_size - 1 - num_outlier_tokens) // 2
    if num_keys < 1:
        raise ValueError(
            f"vocab_size={vocab_size} leaves no key and no value beside the blank and num_outlier_tokens="
            f"{num_outlier_tokens}: use at least {num_outlier_tokens + 3}"
        )
    first_outlier = vocab_size - num_outlier_tokens
    return RecallVocabulary(
        range(1, 1 + num_keys), range(1 + num_keys, first_outlier), range(first_outlier, vocab_size)
    )


def mqar(
    batch_size: int,
    *,
    seq_len: int,
    num_pairs: int,
    vocab_size: int,
    power_law: float = 0.01,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Multi-query associative recall: `k1 v1 k2 v2 ... _ k2 _ _ k1 _`, the label of a query is its key's value.

    Keys and values are distinct within a row. Queries stand on even slots after the pairs; slot s (from 1) is drawn
    with probability proportional to s^(power_law - 1), so small values ask early and 1.0 asks uniformly (Zoology's
    `power_a`).

    Returns: tokens `[B, T]` and labels `[B, T]`, int64; label -100 where no answer is due, else the value at the
    query itself.
    Raises: ValueError if the pairs and their queries do not fit into `seq_len` or the vocabulary.
    """
    vocabulary = recall_vocabulary(vocab_size)
    _check_sizes(batch_size, seq_len, num_pairs, 1, vocabulary, power_law)
    keys = _distinct(batch_size, num_pairs, vocabulary.keys, generator)
    values = _distinct(batch_size, num_pairs, vocabulary.values, generator)
    order = torch.arange(num_pairs, device=keys.device).expand(batch_size, -1)
    return _assemble(keys, values, order, values, seq_len, power_law, generator)


def noisy_mqar(
    batch_size: int,
    *,
    seq_len: int,
    num_pairs: int,
    vocab_size: int,
    num_writes: int = 3,
    outlier_fraction: float = 0.2,
    num_outlier_tokens: int = 8,
    power_law: float = 0.01,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """MQAR with every key stored `num_writes` times in shuffled order and a minority of the writes carrying an outlier.

    Of the N * W writes of a row, round(outlier_fraction * N * W) are outliers, at most (W - 1) // 2 of them for any
    one key: the label, the clean value, is always the key's majority. An outlier's value comes from the top
    `num_outlier_tokens` ids; with `num_outlier_tokens=0` it is another ordinary value, which nothing but the majority
    tells apart.

    Returns: tokens `[B, T]` and labels `[B, T]` as `mqar`; a query's label is the clean value of its key.
    Raises: ValueError as `mqar`, or if `outlier_fraction` asks for more outliers than a minority of each key's writes.
    """
    vocabulary = recall_vocabulary(vocab_size, num_outlier_tokens)
    _check_sizes(batch_size, seq_len, num_pairs, num_writes, vocabulary, power_law)
    num_outliers = _num_outliers(num_pairs, num_writes, outlier_fraction)
    if num_outliers and num_outlier_tokens == 0 and len(vocabulary.values) < 2:
        raise ValueError(f"vocab_size={vocab_size} has one value only, so no wrong value can be drawn: use at least 4")
    keys = _distinct(batch_size, num_pairs, vocabulary.keys, generator)
    clean = _distinct(batch_size, num_pairs, vocabulary.values, generator)
    order = _shuffled(batch_size, num_pairs * num_writes, generator) % num_pairs
    written = clean.gather(1, order)
    outliers = _mark_outliers(order, num_pairs, num_writes, num_outliers, generator)
    if num_outlier_tokens:
        low, high = vocabulary.outliers.start, vocabulary.outliers.stop
        wrong = torch.randint(low, high, written.shape, generator=generator, device=written.device)
    else:
        first, count = vocabulary.values.start, len(vocabulary.values)
        shift = torch.randint(1, count, written.shape, generator=generator, device=written.device)
        wrong = (written - first + shift) % count + first
    return _assemble(keys, torch.where(outliers, wrong, written), order, clean, seq_len, power_law, generator)


def noisy_vector_recall(
    batch_size: int,
    *,
    num_pairs: int,
    key_dim: int,
    value_dim: int,
    num_writes: int = 1,
    outlier_fraction: float = 0.1,
    outlier_scale: float = 10.0,
    generator: torch.Generator | None = None,
) -> VectorRecall:
    """Random unit-norm keys and unit-RMS values to write, in shuffled order, some of the writes carrying an outlier.

    A clean value has zero mean over its width and norm sqrt(value_dim), what a memory that ends in a LayerNorm can
    produce; an outlier is an unrelated direction of norm outlier_scale * sqrt(value_dim). With one write per key any
    round(outlier_fraction * N) keys get the outlier instead of their value (score the others: `num_outliers == 0`);
    with several writes outliers stay a minority of each key's writes, as in `noisy_mqar`.

    Returns: keys `[B, N*W, key_dim]`, values `[B, N*W, value_dim]`, is_outlier `[B, N*W]` bool, queries `[B, N,
    key_dim]`, targets `[B, N, value_dim]` (the clean values), num_outliers `[B, N]` int64 (outlier writes of each
    key).
    Raises: ValueError on sizes < 1 (value_dim < 2), a fraction out of range, or a scale that is not positive.
    """
    _check_positive(batch_size=batch_size, num_pairs=num_pairs, key_dim=key_dim, num_writes=num_writes)
    if value_dim < 2:
        raise ValueError(f"value_dim must be >= 2 for values of zero mean, got {value_dim}")
    if not outlier_scale > 0:
        raise ValueError(f"outlier_scale must be > 0, got {outlier_scale}")
    num_outliers = _num_outliers(num_pairs, num_writes, outlier_fraction, single_write_may_be_outlier=True)
    queries = torch.nn.functional.normalize(_randn(batch_size, num_pairs, key_dim, generator), dim=-1)
    targets = _unit_rms(_randn(batch_size, num_pairs, value_dim, generator))
    order = _shuffled(batch_size, num_pairs * num_writes, generator) % num_pairs
    is_outlier = _mark_outliers(order, num_pairs, num_writes, num_outliers, generator)
    wrong = outlier_scale * _unit_rms(_randn(batch_size, num_pairs * num_writes, value_dim, generator))
    rows = torch.arange(batch_size, device=order.device)[:, None]
    values = torch.where(is_outlier[..., None], wrong, targets[rows, order])
    counts = torch.zeros_like(queries[..., 0], dtype=torch.int64).scatter_add_(1, order, is_outlier.long())
    return VectorRecall(queries[rows, order], values, is_outlier, queries, targets, counts)


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be >= 1, got {size}")


def _check_sizes(
    batch_size: int, seq_len: int, num_pairs: int, num_writes: int, vocabulary: RecallVocabulary, power_law: float
) -> None:
    _check_positive(batch_size=batch_size, seq_len=seq_len, num_pairs=num_pairs, num_writes=num_writes)
    if not power_law > 0:
        raise ValueError(f"power_law must be > 0 (1.0 asks uniformly), got {power_law}")
    needed = 2 * num_pairs * num_writes + 2 * num_pairs
    if seq_len < needed:
        raise ValueError(
            f"seq_len={seq_len} is too short for num_pairs={num_pairs} written {num_writes} time(s) and asked once: "
            f"use seq_len >= {needed} or fewer pairs"
        )
    room = min(len(vocabulary.keys), len(vocabulary.values))
    if num_pairs > room:
        raise ValueError(
            f"num_pairs={num_pairs} needs as many distinct keys and values, the vocabulary has {len(vocabulary.keys)} "
            f"keys and {len(vocabulary.values)} values: raise vocab_size"
        )


def _num_outliers(
    num_pairs: int, num_writes: int, fraction: float, *, single_write_may_be_outlier: bool = False
) -> int:
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"outlier_fraction must be in [0, 1), got {fraction}")
    count = round(fraction * num_pairs * num_writes)
    per_key = 1 if single_write_may_be_outlier and num_writes == 1 else (num_writes - 1) // 2
    if count > per_key * num_pairs:
        raise ValueError(
            f"outlier_fraction={fraction} makes {count} of {num_pairs * num_writes} writes outliers, but with "
            f"num_writes={num_writes} at most {per_key} per key leave the clean value in the majority: "
            f"use outlier_fraction <= {per_key / num_writes:.3g} or more writes"
        )
    return count


def _mark_outliers(
    order: Tensor, num_pairs: int, num_writes: int, num_outliers: int, generator: torch.Generator | None
) -> Tensor:
    """Choose `num_outliers` writes per row among those that leave every key its majority. order `[B, N*W]`."""
    batch_size, total = order.shape
    per_key = max(1, (num_writes - 1) // 2)
    by_key = torch.rand(batch_size, num_pairs, num_writes, generator=generator, device=order.device)
    eligible = by_key.argsort(-1).argsort(-1) < per_key
    score = torch.rand(batch_size, total, generator=generator, device=order.device)
    score = score.masked_fill(~eligible.reshape(batch_size, total), 2.0)
    chosen = score.argsort(-1).argsort(-1) < num_outliers
    # `chosen` is laid out key by key; the stable sort lists each key's positions in the same layout.
    return torch.zeros_like(chosen).scatter(1, order.argsort(dim=-1, stable=True), chosen)


def _assemble(
    keys: Tensor,
    written: Tensor,
    order: Tensor,
    answers: Tensor,
    seq_len: int,
    power_law: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """keys, answers `[B, N]`; written, order `[B, N*W]`: value and key index of each write."""
    batch_size, num_pairs = keys.shape
    start = 2 * order.shape[1]
    tokens = torch.full((batch_size, seq_len), BLANK, dtype=torch.int64, device=keys.device)
    labels = torch.full_like(tokens, IGNORE)
    tokens[:, 0:start:2] = keys.gather(1, order)
    tokens[:, 1:start:2] = written
    slots = torch.arange(1, (seq_len - start) // 2 + 1, dtype=torch.float64, device=keys.device)
    chance = slots ** (power_law - 1.0)
    asked = torch.multinomial(chance.expand(batch_size, -1), num_pairs, replacement=False, generator=generator)
    position = start + 2 * asked
    return tokens.scatter(1, position, keys), labels.scatter(1, position, answers)


def _shuffled(batch_size: int, count: int, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else torch.device("cpu")
    return torch.rand(batch_size, count, generator=generator, device=device).argsort(-1)


def _distinct(batch_size: int, count: int, choices: range, generator: torch.Generator | None) -> Tensor:
    return _shuffled(batch_size, len(choices), generator)[:, :count] + choices.start


def _randn(batch_size: int, count: int, width: int, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else torch.device("cpu")
    return torch.randn(batch_size, count, width, generator=generator, device=device)


def _unit_rms(x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / x.square().mean(-1, keepdim=True).sqrt()
