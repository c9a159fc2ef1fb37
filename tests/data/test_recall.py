from collections import Counter

import pytest
import torch

from memarch.data.recall import BLANK, IGNORE, mqar, noisy_mqar, noisy_vector_recall, recall_vocabulary


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def writes_and_queries(tokens, labels, num_writes_total):
    """Per row: [(key, value), ...] as written, {position: (key, label)} as asked."""
    for row, wanted in zip(tokens.tolist(), labels.tolist(), strict=True):
        context = row[: 2 * num_writes_total]
        pairs = list(zip(context[0::2], context[1::2], strict=True))
        asked = {t: (row[t], wanted[t]) for t in range(len(row)) if wanted[t] != IGNORE}
        yield row, pairs, asked


def test_vocabulary_is_split_without_gap_or_overlap():
    keys, values, outliers = recall_vocabulary(20, 3)
    assert (list(keys), list(values), list(outliers)) == (list(range(1, 9)), list(range(9, 17)), [17, 18, 19])


def test_mqar_smallest_case_is_forced():
    # One key (1), one value (2), one slot: the only sequence there is.
    tokens, labels = mqar(2, seq_len=4, num_pairs=1, vocab_size=3, generator=seeded())
    assert tokens.tolist() == [[1, 2, 1, BLANK]] * 2
    assert labels.tolist() == [[IGNORE, IGNORE, 2, IGNORE]] * 2
    assert tokens.dtype == labels.dtype == torch.int64


def test_mqar_labels_are_the_stored_values():
    tokens, labels = mqar(11, seq_len=37, num_pairs=5, vocab_size=23, generator=seeded())
    assert tokens.shape == labels.shape == (11, 37)
    vocabulary = recall_vocabulary(23)
    for row, pairs, asked in writes_and_queries(tokens, labels, 5):
        stored = dict(pairs)
        assert len(stored) == len(set(stored.values())) == 5
        assert set(stored) <= set(vocabulary.keys) and set(stored.values()) <= set(vocabulary.values)
        assert {key: value for key, value in asked.values()} == stored
        assert all(t >= 10 and t % 2 == 0 for t in asked)
        assert all(row[t] == BLANK for t in range(10, 37) if t not in asked)


def test_mqar_power_law_moves_queries_to_the_front_and_one_is_uniform():
    def mean_slot(power_law):
        _, labels = mqar(400, seq_len=82, num_pairs=1, vocab_size=9, power_law=power_law, generator=seeded())
        return ((labels != IGNORE).int().argmax(1).double() - 2).mean().item() / 2

    assert 18 < mean_slot(1.0) < 21  # slots 0 .. 39: 19.5 on average
    weights = torch.arange(1, 41, dtype=torch.float64) ** -0.99
    expected = (weights / weights.sum() * torch.arange(40)).sum().item()
    assert abs(mean_slot(0.01) - expected) < 1.5


def test_mqar_keys_and_values_are_drawn_evenly():
    tokens, _ = mqar(600, seq_len=8, num_pairs=2, vocab_size=11, generator=seeded())
    keys, values = Counter(tokens[:, 0].tolist()), Counter(tokens[:, 1].tolist())
    assert sorted(keys) == [1, 2, 3, 4, 5] and sorted(values) == [6, 7, 8, 9, 10]
    assert all(80 < n < 160 for n in (*keys.values(), *values.values()))


@pytest.mark.parametrize("num_outlier_tokens", [4, 0])
def test_noisy_mqar_keeps_the_clean_value_in_the_majority(num_outlier_tokens):
    sizes = {"num_pairs": 4, "vocab_size": 29, "num_writes": 5, "num_outlier_tokens": num_outlier_tokens}
    tokens, labels = noisy_mqar(13, seq_len=53, outlier_fraction=0.3, generator=seeded(), **sizes)
    vocabulary = recall_vocabulary(29, num_outlier_tokens)
    for _, pairs, asked in writes_and_queries(tokens, labels, 20):
        clean = {key: value for key, value in asked.values()}
        assert len(clean) == 4
        assert Counter(key for key, _ in pairs) == dict.fromkeys(clean, 5)
        wrong = [(key, value) for key, value in pairs if value != clean[key]]
        assert len(wrong) == 6
        assert max(Counter(key for key, _ in wrong).values()) <= 2
        allowed = vocabulary.outliers if num_outlier_tokens else vocabulary.values
        assert all(value in allowed for _, value in wrong)


def test_noisy_mqar_writes_come_in_shuffled_order_and_outliers_at_any_write():
    sizes = {"seq_len": 16, "num_pairs": 2, "vocab_size": 11, "num_writes": 3, "num_outlier_tokens": 1}
    tokens, _ = noisy_mqar(300, outlier_fraction=1 / 6, generator=seeded(), **sizes)
    outlier_at = (tokens[:, 1:12:2] == 10).double().mean(0)
    assert torch.allclose(outlier_at.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert outlier_at.min() > 0.1
    repeats = (tokens[:, 0] == tokens[:, 2]).double().mean().item()
    assert 0.3 < repeats < 0.5  # 2 of the 5 other writes


def test_noisy_mqar_without_outliers_writes_clean_values_only():
    tokens, labels = noisy_mqar(
        3, seq_len=30, num_pairs=3, vocab_size=17, num_writes=2, outlier_fraction=0.0, generator=seeded()
    )
    for _, pairs, asked in writes_and_queries(tokens, labels, 6):
        assert set(pairs) == set(asked.values())


def test_vectors_outliers_are_long_and_targets_are_what_clean_writes_store():
    drawn = noisy_vector_recall(
        3, num_pairs=5, key_dim=7, value_dim=11, num_writes=3, outlier_fraction=0.2, generator=seeded()
    )
    assert drawn.keys.shape == (3, 15, 7) and drawn.values.shape == (3, 15, 11) and drawn.targets.shape == (3, 5, 11)
    assert torch.allclose(drawn.queries.norm(dim=-1), torch.ones(3, 5))
    assert torch.allclose(drawn.targets.mean(-1), torch.zeros(3, 5), atol=1e-6)
    assert drawn.is_outlier.sum(1).tolist() == [3, 3, 3]
    rms = drawn.values.square().mean(-1).sqrt()
    assert torch.allclose(rms, torch.where(drawn.is_outlier, 10.0, 1.0))
    for b in range(3):
        for n in range(5):
            same = (drawn.keys[b] == drawn.queries[b, n]).all(-1)
            assert same.sum() == 3
            assert drawn.num_outliers[b, n] == drawn.is_outlier[b, same].sum() <= 1
            kept = drawn.values[b, same & ~drawn.is_outlier[b]]
            assert torch.equal(kept, drawn.targets[b, n].expand_as(kept))


def test_vectors_with_one_write_lose_some_keys_altogether():
    drawn = noisy_vector_recall(2, num_pairs=10, key_dim=5, value_dim=6, outlier_fraction=0.3, generator=seeded())
    assert drawn.num_outliers.sum(1).tolist() == [3, 3]


@pytest.mark.parametrize("make", [mqar, noisy_mqar])
def test_equal_seeds_agree_and_others_differ(make):
    first, again, other = (
        make(4, seq_len=40, num_pairs=3, vocab_size=31, generator=seeded(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_vectors_of_equal_seeds_agree():
    first, again = (noisy_vector_recall(2, num_pairs=3, key_dim=4, value_dim=5, generator=seeded(1)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seq_len": 11}, "seq_len=11 is too short for num_pairs=3 .* use seq_len >= 12"),
        ({"num_pairs": 0}, "num_pairs must be >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"vocab_size": 6}, "num_pairs=3 needs .* 2 keys and 3 values"),
        ({"vocab_size": 2}, "vocab_size=2 leaves no key .* at least 3"),
        ({"power_law": 0.0}, "power_law must be > 0 .* got 0.0"),
    ],
)
def test_impossible_mqar_sizes_are_refused(change, message):
    sizes = {"batch_size": 2, "seq_len": 12, "num_pairs": 3, "vocab_size": 9} | change
    with pytest.raises(ValueError, match=message):
        mqar(sizes.pop("batch_size"), **sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outlier_fraction": 1.0}, r"outlier_fraction must be in \[0, 1\), got 1.0"),
        ({"outlier_fraction": 0.5}, "outlier_fraction=0.5 makes 4 of 9 .* <= 0.333 or more writes"),
        ({"num_writes": 1, "outlier_fraction": 0.4}, "num_writes=1 at most 0 per key"),
        ({"num_outlier_tokens": -1}, "num_outlier_tokens must be >= 0, got -1"),
        ({"seq_len": 23}, "too short for num_pairs=3 written 3 time"),
        ({"num_pairs": 1, "vocab_size": 3, "num_outlier_tokens": 0, "outlier_fraction": 1 / 3}, "one value only"),
    ],
)
def test_impossible_noise_is_refused(change, message):
    sizes = {"seq_len": 24, "num_pairs": 3, "vocab_size": 31, "num_writes": 3, "outlier_fraction": 0.2} | change
    with pytest.raises(ValueError, match=message):
        noisy_mqar(2, **sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value_dim": 1}, "value_dim must be >= 2"),
        ({"outlier_scale": 0.0}, "outlier_scale must be > 0, got 0.0"),
        ({"num_writes": 2, "outlier_fraction": 0.5}, "num_writes=2 at most 0 per key"),
        ({"key_dim": 0}, "key_dim must be >= 1, got 0"),
    ],
)
def test_impossible_vectors_are_refused(change, message):
    sizes = {"num_pairs": 3, "key_dim": 4, "value_dim": 5} | change
    with pytest.raises(ValueError, match=message):
        noisy_vector_recall(2, **sizes)
