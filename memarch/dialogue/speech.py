"""From "I have a cat" to "Ada has a cat": direct into reported speech, where that is simple English."""

from __future__ import annotations

import re

# Verbs whose third person is just +s and that people use of themselves.
_PLAIN = (
    "love like hate prefer live work want need play own enjoy plan hope think know feel remember dream start run drive "
    "speak read write paint cook eat drink collect sing draw swim travel visit take make get see help hear wear keep "
    "grow"
).split()
_OTHER = {"have": "has", "do": "does", "go": "goes", "teach": "teaches", "study": "studies", "miss": "misses"}
_THIRD = _OTHER | {verb: verb + "s" for verb in _PLAIN}
_PAST = (
    "was went got bought had saw met took made found gave left became began felt won lost ran wrote read sold told "
    "thought knew came ate drove flew grew spent taught broke built chose did could would should might will can must"
).split()

_PRONOUN = re.compile(r"\b(?:I|me|my|mine|myself|we|us|our|ours|ourselves)\b", re.IGNORECASE)
_MY = re.compile(r"\bmy\b", re.IGNORECASE)
_LEAD = re.compile(
    r"^(?:(?:oh|well|yes|yeah|and|but|so|also|actually|wow|hey|hi|btw|sure|anyway),? )+(?=(?:I|my)\b)", re.IGNORECASE
)
_SUBJECT = re.compile(
    r"\bI(?:(?P<short>['\u2019](?:m|ve|ll|d))"
    r"|(?P<also> (?:also|really|still|just|always|never|often|now))? (?P<verb>[a-z]+))"
)
_SHORT = {"m": "is", "ve": "has", "ll": "will", "d": "would"}


def reported(said: str, speaker: str) -> str:
    """One sentence by `speaker` in the third person; where that is not simple, quoted as `speaker: said`.

    >>> reported("I have a cat, and I love my garden.", "Ada")
    "Ada has a cat, and Ada loves Ada's garden."
    >>> reported("Can you help me?", "user")
    'The user: Can you help me?'
    """
    who = {"user": "the user", "assistant": "the assistant"}.get(speaker, " ".join(speaker.split()))
    fallback = f"{who[:1].upper()}{who[1:]}: {said}"
    text = _LEAD.sub("", said)
    if said.endswith("?") or not _PRONOUN.search(text):
        return fallback
    turned, count = _SUBJECT.subn(lambda match: _third(match, who), text)
    if "\0" in turned:
        return fallback
    possessive = who + ("'" if who.endswith("s") else "'s")
    turned = _MY.sub(lambda _: possessive, turned)
    if _PRONOUN.search(turned.replace(who, "")) or re.search(r"\b[Yy]ou", turned):
        return fallback
    return turned[:1].upper() + turned[1:]


def _third(match: re.Match[str], who: str) -> str:
    """The subject with its verb; NUL marks a verb whose form is not known."""
    if short := match["short"]:
        return f"{who} {_SHORT[short[1:]]}"
    verb, adverb = match["verb"], match["also"] or ""
    if verb == "am":
        form = "is"
    elif verb in _THIRD:
        form = _THIRD[verb]
    elif verb in _PAST or verb.endswith("ed"):
        form = verb
    else:
        return "\0"
    return f"{who}{adverb} {form}"
