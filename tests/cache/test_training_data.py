from dataclasses import replace

import pytest
import torch

from memarch.cache.training_data import (
    IGNORE,
    ProblemBatches,
    Problems,
    collate,
    encode,
    in_batches,
    load_problems,
)

from ._training import CHARACTERS, CharacterTokenizer, tiny_problems, write_problems

TOKENIZER = CharacterTokenizer()


def texts(problem):
    return [TOKENIZER.decode(step) for step in problem.steps]


def test_steps_begin_with_their_newline():
    problem = encode("1+2", "a=1\nb=2\n\nc=3", TOKENIZER)
    assert texts(problem) == ["\x011+2\n", "a=1", "\nb=2", "\n", "\nc=3\2"]
    assert problem.num_bytes == (0, 3, 4, 1, 4)


def test_gsm8k_files(tmp_path):
    path = write_problems(tmp_path / "train.jsonl", count=3)
    for given in (path, tmp_path):
        problems = load_problems(given, TOKENIZER)
        assert len(problems.items) == 3 and "<<" not in "".join(map("".join, map(texts, problems.items)))
    assert problems.source == f"{path} (3 of 3 problems)"
    again = load_problems(path, TOKENIZER, max_tokens=33)
    assert 0 < len(again.items) < 3 and again.digest != problems.digest


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothere.jsonl does not exist: give .*openai/grade-school-math"):
        load_problems(tmp_path / "nothere.jsonl", TOKENIZER)
    path = tmp_path / "bad.jsonl"
    for text in ("[1]", '{"question": "a"}', '{"question": "a", "answer": " "}', "no json"):
        path.write_text('{"question": "a", "answer": "b"}\n' + text + "\n")
        with pytest.raises(ValueError, match="bad.jsonl line 2 should be"):
            load_problems(path, TOKENIZER)
    write_problems(path, count=2)
    with pytest.raises(ValueError, match="has no problem of at most 5 tokens among its 2"):
        load_problems(path, TOKENIZER, max_tokens=5)


def test_collate_by_hand():
    problems = [encode("1", "a\nbc", TOKENIZER), encode("2+2", "d", TOKENIZER)]
    batch = collate(problems, 0)

    def shown(step):
        rows = zip(step.ids, step.mask, strict=True)
        return ["".join(CHARACTERS[i] for i in ids[mask].tolist()) for ids, mask in rows]

    assert [shown(step) for step in batch] == [["\x011\n", "\x012+2\n"], ["a", "d\2"], ["\nbc\2", ""]]
    assert batch[0].mask.tolist() == [[False, False, True, True, True], [True] * 5]
    assert batch[0].positions[0, 2:].tolist() == [0, 1, 2] and batch[2].positions[0].tolist() == [4, 5, 6, 7]
    newline, a, b, c, d = (CHARACTERS.index(x) for x in "\nabcd")
    assert batch[0].labels.tolist() == [[IGNORE] * 4 + [a], [IGNORE] * 4 + [d]]
    assert batch[1].labels.tolist() == [[newline, IGNORE], [2, IGNORE]]
    assert batch[2].labels.tolist() == [[b, c, 2, IGNORE], [IGNORE] * 4]


def test_every_problem_once_an_epoch_and_resumable(tmp_path):
    problems = tiny_problems(tmp_path)
    batches = ProblemBatches(problems, 4, seed=3)
    first = [batches.next() for _ in range(6)]
    assert sorted(p.steps for batch in first for p in batch) == sorted(p.steps for p in problems.items)
    state = batches.state()
    second = [batches.next() for _ in range(6)]
    assert second != first
    again = ProblemBatches(problems, 4, seed=3)
    again.restore(state)
    assert [again.next() for _ in range(6)] == second
    assert ProblemBatches(problems, 4, seed=4).next() != first[0]
    with pytest.raises(ValueError, match="batch_size 25 needs as many problems"):
        ProblemBatches(problems, 25, seed=0)


def test_in_batches():
    assert [list(x) for x in in_batches([1, 2, 3], 2)] == [[1, 2], [3]]


def test_labels_count_every_token_of_the_answer(tmp_path):
    problems = tiny_problems(tmp_path, count=5).items
    steps = collate(problems, 0)
    labels = torch.cat([s.labels for s in steps], 1)
    assert (labels != IGNORE).sum(1).tolist() == [sum(map(len, p.steps[1:])) for p in problems]


def test_labels_that_are_not_the_next_tokens():
    problem = replace(encode("1", "a\nbc", TOKENIZER), labels=((IGNORE,) * 3, (5,), (IGNORE, 7, 8, IGNORE)))
    batch = collate([problem, encode("2", "a", TOKENIZER)], 0)
    assert [step.labels[0].tolist() for step in batch] == [[IGNORE] * 3, [5, IGNORE], [IGNORE, 7, 8, IGNORE]]
    assert batch[1].labels[1].tolist() == [TOKENIZER.eos_token_id, IGNORE]
    other = replace(problem, labels=((IGNORE,) * 3, (6,), (IGNORE, 7, 8, IGNORE)))
    digests = {Problems("", (p,)).digest for p in (problem, other, replace(problem, labels=None))}
    assert len(digests) == 3
