"""The probe on memories whose answers are known."""

from __future__ import annotations

import pytest

from memarch.data.sentences import memory_sentences
from memarch.probes import FewShotMemory, overlap

SENTENCES = memory_sentences(6, num_others=20)


class Notebook:
    """Keeps the last `capacity` items; familiar is what it holds, and how often it was written."""

    def __init__(self, capacity=1000, bias=None):
        self.pages, self.capacity, self.bias = [], capacity, bias or {}

    def write(self, items):
        self.pages = [*self.pages, *items][-self.capacity :]

    def score(self, item):
        return self.pages.count(item) + self.bias.get(item, 0.0)

    def recall(self, cue, length):
        found = [page for page in self.pages if page[: len(cue)] == cue]
        return found[-1][len(cue) :][:length] if found else ()


def probe(**options):
    return FewShotMemory(SENTENCES.study, foils=SENTENCES.foils(), others=SENTENCES.others, **options)


def test_a_perfect_memory():
    report = probe().run(Notebook(), exposures=(0, 1, 3), updates=(2, 5))
    assert [(row.exposures, row.updates) for row in report.rows] == [(0, 0), (1, 0), (3, 0), (3, 2), (3, 5)]
    before, *after = report.rows
    assert set(before.recognition.values()) == {0.5} == set(before.change.values())
    assert (before.recall, before.recall_exact, before.num_items) == (0.0, 0.0, 6)
    for row in after:
        assert set(row.recognition.values()) == {1.0} == set(row.change.values())
        assert (row.recall, row.recall_exact) == (1.0, 1.0)


def test_a_small_memory_forgets_when_others_come():
    report = probe().run(Notebook(capacity=12), exposures=(1,), updates=(1, 2), update_items=8)
    full, half, gone = report.rows
    assert full.recall == 1.0
    assert 0 < half.recall < 1  # eight others push two of six items out
    assert half.recall_exact == 4 / 6 and half.recognition["novel"] == pytest.approx((4 + 2 * 0.5) / 6)
    assert gone.recall == 0.0 and gone.recognition["novel"] == 0.5


def test_change_removes_how_familiar_a_foil_was_to_begin_with():
    bias = dict.fromkeys(SENTENCES.novel, 100.0)
    before, after = probe().run(Notebook(bias=bias), exposures=(0, 1)).rows
    assert before.recognition["novel"] == after.recognition["novel"] == 0.0
    assert before.change["novel"] == 0.5 and after.change["novel"] == 1.0


def test_exposures_are_counted_not_repeated():
    memory = Notebook()
    probe().run(memory, exposures=(1, 4))
    assert memory.pages.count(SENTENCES.study[0]) == 4
    probe().run(memory, exposures=(0,), updates=(1, 3), update_items=7)
    assert len(memory.pages) == 4 * 6 + 3 * 7
    assert memory.pages[-1] == SENTENCES.others[0]  # 21 written, 20 there are


def test_the_cue_is_not_scored():
    seen = []

    class Asked(Notebook):
        def recall(self, cue, length):
            seen.append((len(cue), length))
            return ()

    probe(cue_fraction=0.3).run(Asked(), exposures=(0,))
    assert seen == [(3, 7)] * 6


@pytest.mark.parametrize(
    "found, wanted, expected",
    [
        ((1, 2, 3), (1, 2, 3), 1.0),
        ((), (1, 2), 0.0),
        ((4, 5), (1, 2), 0.0),
        ((1, 9, 2, 8), (1, 2), 2 * 2 / 6),
        ((2, 1), (1, 2), 2 * 1 / 4),
    ],
)
def test_overlap_by_hand(found, wanted, expected):
    assert overlap(found, wanted) == expected


def test_tables():
    report = probe().run(Notebook(), exposures=(0, 1), progress=lambda text: None)
    header, lines = report.table()
    assert header == ["exposures", "updates", "novel", "paraphrase", "synonym", "random", "recall", "exact"]
    assert lines[1] == ["1", "0", *["1.00"] * 6]
    assert report.table("change") == (header[:-2], [["0", "0", *["0.50"] * 4], ["1", "0", *["1.00"] * 4]])
    with pytest.raises(ValueError, match="scores must be"):
        report.table("recall")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"study": SENTENCES.study[:1], "foils": {}}, "study needs at least 2 items; got 1"),
        ({"study": [("a",), ("b", "c")], "foils": {}}, r"2 tokens at least; got \('a',\)"),
        ({"foils": {"few": SENTENCES.novel[:2]}}, "one item for each of the 6 studied; 'few' has 2"),
        ({"foils": {"same": SENTENCES.study}}, "a foil of 'same' is studied too"),
        ({"cue_fraction": 1.0}, "cue_fraction must be between 0 and 1; got 1.0"),
    ],
)
def test_bad_items(change, message):
    arguments = {"study": SENTENCES.study, "foils": SENTENCES.foils(), **change}
    with pytest.raises(ValueError, match=message):
        FewShotMemory(arguments.pop("study"), **arguments)


def test_bad_runs_write_nothing():
    memory = Notebook()
    for options, message in [
        ({"exposures": (3, 1)}, r"exposures must ascend from 0 or more; got \(3, 1\)"),
        ({"exposures": (-1,)}, "exposures must ascend"),
        ({"updates": (1, 1)}, "updates must ascend"),
    ]:
        with pytest.raises(ValueError, match=message):
            probe().run(memory, **options)
    with pytest.raises(ValueError, match="updates need other items to write"):
        FewShotMemory(SENTENCES.study, foils={}).run(memory, updates=(1,))
    assert memory.pages == []
