"""English sentences with four kinds of look-alikes: what a memory must tell apart from what it has read.

Every sentence says who did what to which thing, where; a small lexicon of synonym pairs and two frames (active and
passive) give controlled foils, after the design of A. E. Orhan (arXiv 2303.17557): novel, paraphrase, synonym and
random words.
"""

from __future__ import annotations

import random
from typing import NamedTuple

KINDS = ("novel", "paraphrase", "synonym", "random")

_PAIRS = {
    "quality": "big large|small little|quick fast|quiet silent|old ancient|clever smart|happy glad|angry furious|"
    "rich wealthy|brave bold|strange odd|famous renowned|lazy idle|calm serene|thin slender|wet damp",
    "person": "doctor physician|boy lad|teacher instructor|lawyer attorney|thief robber|sailor seaman|king monarch|"
    "farmer grower|pilot aviator|writer author|guest visitor|soldier trooper|cook chef|friend companion|girl lass|"
    "judge magistrate",
    "deed": "hid concealed|bought purchased|found discovered|repaired fixed|carried hauled|took seized|sold traded|"
    "painted coated|guarded protected|dropped released|threw tossed|lent loaned|burned torched|washed cleaned|"
    "praised lauded|copied duplicated",
    "thing": "car automobile|house home|picture image|gift present|stone rock|coat jacket|ship vessel|rug carpet|"
    "cup mug|road street|bag sack|lamp lantern|letter note|knife blade|map chart|ring band",
    "place": "forest woods|shop store|sea ocean|hill mound|cellar basement|garden yard|harbour port|village hamlet|"
    "square plaza|attic loft|bridge overpass|market bazaar|river stream|stable barn|tower spire|station depot",
}
_LEXICON = {slot: [tuple(pair.split()) for pair in text.split("|")] for slot, text in _PAIRS.items()}


class Sentences(NamedTuple):
    """Lists of the same length; sentence i of each foil belongs to sentence i of `study`. Words, lower case."""

    study: list[tuple[str, ...]]
    novel: list[tuple[str, ...]]
    paraphrase: list[tuple[str, ...]]
    synonym: list[tuple[str, ...]]
    random: list[tuple[str, ...]]
    others: list[tuple[str, ...]]

    def foils(self) -> dict[str, list[tuple[str, ...]]]:
        """By kind."""
        return {kind: list(getattr(self, kind)) for kind in KINDS}


def memory_sentences(num_items: int, *, num_others: int = 0, seed: int = 0) -> Sentences:
    """`num_items` sentences to study, their foils, and `num_others` further ones; all of them different.

    novel: another sentence. paraphrase: the same told in the passive voice. synonym: the same with every word of
    content replaced by its synonym. random: the same words in random order.

    Raises: ValueError for fewer than 1 item.
    """
    if num_items < 1 or num_others < 0:
        raise ValueError(f"num_items must be at least 1 and num_others at least 0; got {num_items} and {num_others}")
    rng = random.Random(seed)
    used: set[tuple[int, ...]] = set()
    drawn = [_draw(rng, used) for _ in range(2 * num_items + num_others)]
    study = drawn[:num_items]
    plain = [_active(meaning, 0) for meaning in study]
    return Sentences(
        study=plain,
        novel=[_active(meaning, 0) for meaning in drawn[num_items : 2 * num_items]],
        paraphrase=[_passive(meaning, 0) for meaning in study],
        synonym=[_active(meaning, 1) for meaning in study],
        random=[_shuffled(words, rng) for words in plain],
        others=[_active(meaning, 0) for meaning in drawn[2 * num_items :]],
    )


def _draw(rng: random.Random, used: set[tuple[int, ...]]) -> tuple[int, ...]:
    """Which entry of the lexicon stands in each slot: quality, person, deed, quality, thing, place."""
    while True:
        slots = ("quality", "person", "deed", "quality", "thing", "place")
        meaning = tuple(rng.randrange(len(_LEXICON[slot])) for slot in slots)
        if meaning not in used:
            used.add(meaning)
            return meaning


def _words(meaning: tuple[int, ...], variant: int) -> list[str]:
    slots = ("quality", "person", "deed", "quality", "thing", "place")
    return [_LEXICON[slot][index][variant] for slot, index in zip(slots, meaning, strict=True)]


def _active(meaning: tuple[int, ...], variant: int) -> tuple[str, ...]:
    quality, person, deed, other, thing, place = _words(meaning, variant)
    return ("the", quality, person, deed, "the", other, thing, "near", "the", place)


def _passive(meaning: tuple[int, ...], variant: int) -> tuple[str, ...]:
    quality, person, deed, other, thing, place = _words(meaning, variant)
    participle = {"took": "taken", "threw": "thrown", "hid": "hidden"}.get(deed, deed)
    return ("near", "the", place, "the", other, thing, "was", participle, "by", "the", quality, person)


def _shuffled(words: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
    while True:
        order = list(words)
        rng.shuffle(order)
        if tuple(order) != words:
            return tuple(order)
