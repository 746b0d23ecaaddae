"""The names in a text: people, places, products, as far as their capitals tell. Pure; no list of names."""

import re
from collections.abc import Sequence
from typing import Final

from loadgen.analysis.scorer.tokens import WORD, Piece, calendar_name, fold, stem
from loadgen.analysis.scorer.vocabulary import LABELS, STOP_WORDS, TITLES

_SPEAKER: Final = re.compile(
    rf"^[ \t]*(?:[-*•>\[\]()\d:.,|]+[ \t]*)?((?:{WORD.pattern}\.?[ \t]+){{0,2}}{WORD.pattern})[*_]*[ \t]*(?=[:(])",
    re.MULTILINE,
)
"""Who speaks: one to three words at the beginning of a line, before a colon or a parenthesis."""
_INSIDE: Final = re.compile(rf"(?<=[\w,] )({WORD.pattern})")
_TITLED: Final = re.compile(rf"\b(?:{'|'.join(TITLES)})\b\.?[ \t]+({WORD.pattern})", re.IGNORECASE)
_CASELESS: Final = 0.005
"""A transcript with a smaller share of capitals among its letters was written without them."""
_DETERMINERS: Final = frozenset(
    re.findall(r"\w+", "a an the this that these those my your his her its our their no each every some any of in on")
)


def names_known(source: str, key_points: Sequence[str]) -> frozenset[str]:
    """The stems of the names in a transcript and its key points: who speaks, who has a title, and whatever is
    capitalized inside a sentence. In a transcript without capitals: what begins a key point and is used like a name."""
    texts = (source, *key_points)
    words = [word for text in texts for pattern in (_INSIDE, _TITLED) for word in pattern.findall(text)]
    words += [word for speaker in _SPEAKER.findall(source) for word in WORD.findall(speaker)]
    names = {stem(fold(word)) for word in words if word[0].isupper() and _may_be_name(word)}
    letters = [sign for sign in source if sign.isalpha()]
    if sum(sign.isupper() for sign in letters) <= _CASELESS * len(letters):
        names |= {stem(fold(word)) for point in key_points if _acts(word := _first_word(point), point, source)}
    return frozenset(names)


def _first_word(point: str) -> str:
    first = WORD.search(point)
    return "" if first is None else first[0]


def _acts(word: str, point: str, source: str) -> bool:
    """Whether the first word of a key point is used like the name of a person: it does something, and no determiner
    stands before it in the source."""
    if not word or not word[0].isupper() or not _may_be_name(word):
        return False
    if re.match(rf"\W*{re.escape(word)}\s+(?:must|will|shall|should|[a-z]+s)\b", point) is None:
        return False
    before = re.findall(rf"(\w+)\W+{re.escape(word.lower())}\b", source.lower())
    in_source = re.search(rf"\b{re.escape(word.lower())}\b", source.lower())
    return in_source is not None and not any(fold(each) in _DETERMINERS for each in before)


def _may_be_name(word: str) -> bool:
    folded = fold(word)
    piece = Piece(word, 0, len(word), folded)
    return bool(folded) and folded not in STOP_WORDS | TITLES | LABELS and calendar_name(piece) is None


def name_pieces(pieces: Sequence[Piece], known: frozenset[str]) -> list[Piece]:
    """The names in one statement: words with a capital that do not begin it, or that are known as names. In a statement
    that has a capital at most of its words, as headings have, only those that are known."""
    words = [piece for piece in pieces if piece.folded]
    capital = [piece for piece in words if piece.is_capital]
    is_title = len(words) >= 4 and len(capital) > 0.6 * len(words)
    return [
        piece
        for piece in capital
        if _may_be_name(piece.text) and (stem(piece.folded) in known or (piece is not words[0] and not is_title))
    ]
