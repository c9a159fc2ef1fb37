"""English sentences with four kinds of look-alikes: what a memory must tell apart from what it has read.

Every sentence says who did what to which thing, where; a small lexicon of synonym pairs and two frames (active and
passive) give controlled foils, after the design of A. E. Orhan (arXiv 2303.17557): novel, paraphrase, synonym and
random words. Sentences of a text of the user's have two of the four: novel and random words.
"""

from __future__ import annotations

import random
import re
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
    """Lists of the same length; sentence i of each foil belongs to sentence i of `study`. Kinds may be empty. Words."""

    study: list[tuple[str, ...]]
    novel: list[tuple[str, ...]]
    paraphrase: list[tuple[str, ...]]
    synonym: list[tuple[str, ...]]
    random: list[tuple[str, ...]]
    others: list[tuple[str, ...]]

    def foils(self) -> dict[str, list[tuple[str, ...]]]:
        """By kind, as far as there are any."""
        return {kind: list(getattr(self, kind)) for kind in KINDS if getattr(self, kind)}


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


def text_sentences(
    text: str, num_items: int, *, num_others: int = 0, seed: int = 0, num_words: tuple[int, int] = (8, 20)
) -> Sentences:
    """`num_items` sentences of a text to study, with foils novel and random, and `num_others` further ones.

    Sentences end with a full stop, a question mark or an exclamation mark, and have `num_words`, least and most.
    Headings of WikiText ("= Title =") and sentences with its "<unk>" are left out, its " @-@ " is "-" again.

    Raises: ValueError for fewer than 1 item, or a text with too few different sentences.
    """
    if num_items < 1 or num_others < 0:
        raise ValueError(f"num_items must be at least 1 and num_others at least 0; got {num_items} and {num_others}")
    found: dict[tuple[str, ...], None] = {}
    for line in text.splitlines():
        if not line.lstrip().startswith("="):
            for part in re.split(r"(?<=[.!?])\s+", re.sub(r" @(.)@ ", r"\1", line).strip()):
                words = tuple(part.split())
                if words and num_words[0] <= len(words) <= num_words[1] and part[-1] in ".!?" and "<unk>" not in words:
                    found[words] = None
    wanted = 2 * num_items + num_others
    if len(found) < wanted:
        raise ValueError(
            f"{wanted} sentences of {num_words[0]} to {num_words[1]} words are needed; the text has {len(found)} "
            "different ones: give more text, or ask for fewer items"
        )
    rng = random.Random(seed)
    drawn = rng.sample(list(found), wanted)
    study = drawn[:num_items]
    return Sentences(
        study=study,
        novel=drawn[num_items : 2 * num_items],
        paraphrase=[],
        synonym=[],
        random=[_shuffled(words, rng) for words in study],
        others=drawn[2 * num_items :],
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
