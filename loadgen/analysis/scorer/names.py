"""The names in a text: people, places, products, as far as their capitals tell. Pure; no list of names."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal

from msgspec import Struct

from loadgen.analysis.scorer.tokens import WORD, Piece, calendar_name, fold, stem
from loadgen.analysis.scorer.vocabulary import LABELS, STOP_WORDS, TITLES

_SPEAKER: Final = re.compile(
    rf"(?:^|(?<=[.!?] ))[ \t]*(?:[-*•>\[\]()\d:.,|]+[ \t]*)?"
    rf"((?:{WORD.pattern}\.?[ \t]+){{0,2}}{WORD.pattern})[*_]*[ \t]*(?=[:(])",
    re.MULTILINE,
)
"""Who speaks: one to three words at the beginning of a line or sentence, before a colon or a parenthesis."""
_INSIDE: Final = re.compile(rf"(?<=[\w,] )({WORD.pattern})")
_TITLED: Final = re.compile(rf"\b(?:{'|'.join(TITLES)})\b\.?[ \t]+({WORD.pattern})", re.IGNORECASE)
_NO_NAMES: Final = STOP_WORDS | TITLES | LABELS
_MANY_CAPITALS: Final = 0.3
"""If a larger share of the content words inside sentences have a capital, the language writes its nouns with one."""
_CASELESS: Final = 0.005
"""A source with a smaller share of capitals among its letters was written without them."""
_ENOUGH_WORDS: Final = 12
_DETERMINERS: Final = frozenset(
    re.findall(r"\w+", "a an the this that these those my your his her its our their no each every some any of in on")
)


class KnownNames(Struct, frozen=True):
    """The names in a transcript and its key points, and what a capital means there."""

    stems: frozenset[str]
    capitals: Literal["names", "nouns"]
    """Whether a capital inside a sentence marks a name, or any noun, as in German."""


def names_known(source: str, key_points: Sequence[str]) -> KnownNames:
    """The names: who speaks, who has a title, what begins a key point and is used like a name, and whatever is
    capitalized inside a sentence, unless all nouns are."""
    inside = [word for text in (source, *key_points) for word in _INSIDE.findall(text) if _may_be_name(word)]
    capital = [word for word in inside if word[0].isupper()]
    has_nouns = len(inside) >= _ENOUGH_WORDS and len(capital) > _MANY_CAPITALS * len(inside)
    words = set() if has_nouns else set(capital)
    words |= {word for text in (source, *key_points) for word in _TITLED.findall(text)}
    words |= {word for speaker in _SPEAKER.findall(source) for word in WORD.findall(speaker)}
    words |= {word for point in key_points if _acts(word := _first_word(point), point, source)}
    stems = frozenset(stem(fold(word)) for word in words if word[0].isupper() and _may_be_name(word))
    return KnownNames(stems, "nouns" if has_nouns else "names")


def _first_word(point: str) -> str:
    first = WORD.search(point)
    return "" if first is None else first[0]


def _acts(word: str, point: str, source: str) -> bool:
    """Whether the first word of a key point is used like the name of a person: it does something, and the source has it
    only with a capital; or, if the source was written without capitals, never after a determiner."""
    if not word or not word[0].isupper() or not _may_be_name(word):
        return False
    if re.match(rf"\W*{re.escape(word)}\s+(?:must|will|shall|should|[a-z]+s)\b", point) is None:
        return False
    signs = Counter(source)
    letters, capitals = (
        sum(count for sign, count in signs.items() if is_so(sign)) for is_so in (str.isalpha, str.isupper)
    )
    if capitals > _CASELESS * letters:
        has_capital = re.search(rf"\b{re.escape(word)}\b", source) is not None
        return has_capital and re.search(rf"\b{re.escape(word.lower())}\b", source) is None
    before = re.findall(rf"(\w+)\W+{re.escape(word.lower())}\b", source)
    return bool(before) and not any(fold(each) in _DETERMINERS for each in before)


@lru_cache(maxsize=65_536)
def _may_be_name(word: str) -> bool:
    folded = fold(word)
    piece = Piece(word, 0, len(word), folded)
    return bool(folded) and folded not in _NO_NAMES and calendar_name(piece) is None


def name_pieces(pieces: Sequence[Piece], known: KnownNames) -> list[Piece]:
    """The names in one statement: words with a capital that do not begin it, or that are known as names. In a statement
    that has a capital at most of its words, as headings have, only those that are known; and of acronyms (`EUR`)."""
    words = [piece for piece in pieces if piece.folded]
    capital = [piece for piece in words if piece.is_capital]
    is_title = len(words) >= 4 and len(capital) > 0.6 * len(words)
    marks_names = known.capitals == "names" and not is_title
    return [
        piece
        for piece in capital
        if _may_be_name(piece.text)
        and (
            stem(piece.folded) in known.stems or (marks_names and piece is not words[0] and not _is_acronym(piece.text))
        )
    ]


def _is_acronym(word: str) -> bool:
    return len(word) > 1 and word.isupper()
