"""The tokens of a text that carry content: words by their stems, figures by all that they may mean. Pure.

A token knows its place in the text, so that a report can mark it there.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, Literal

from msgspec import Struct

from loadgen.analysis.scorer.figure_readings import (
    FIGURE,
    SUFFIX,
    Readings,
    half_hour_readings,
    number_readings,
    readings_of,
)
from loadgen.analysis.scorer.vocabulary import (
    CALENDAR,
    CAPITAL_ONLY,
    DAY_ORDINALS,
    EXPANSIONS,
    IRREGULAR,
    MONTHS,
    ORDINALS,
    SCALES,
    SPELLINGS,
    STOP_WORDS,
    TENS,
    UNITS,
)

Kind = Literal["word", "figure", "calendar"]

_MARKS: Final = "\u0300-\u036f"
_DEGREES: Final = r"(?!(?:(?<=[°º])|(?<=[°º] ))[CF]\b)"
"""Not the letter of a unit, as in 11 °C, which would look like a name."""
WORD: Final = re.compile(rf"{_DEGREES}[^\W\d_](?:[^\W\d_]|[{_MARKS}])*(?:['’][^\W\d_]+)*")
_PIECE: Final = re.compile(rf"(?P<word>{WORD.pattern})|(?P<figure>\d)|(?P<percent>%)")
_OTHER_LETTERS: Final = str.maketrans({"ø": "o", "đ": "d", "ł": "l", "ß": "ss", "æ": "ae", "œ": "oe", "ı": "i"})
_ORDINAL_ENDING: Final = re.compile(r"(?:st|nd|rd|th|h)\b", re.IGNORECASE)
_BRITISH: Final = tuple(
    (re.compile(pattern), american)
    for pattern, american in (
        (r"(?<=\w\w)our(?=(?:s|ed|ing)?$)", "or"),
        (r"(?<=\w\w)tre(?=s?$)", "ter"),
        (r"(?<=\w\w\w)is(?=(?:e|es|ed|ing|ation|ations)$)", "iz"),
        (r"(?<=\w\w)amme(?=s?$)", "am"),
        (r"icenc(?=es?$|ed$|ing$)", "icens"),
    )
)
"""British endings, and the American ones by which both spellings are known."""
_LONGEST_STEM: Final = 64
_HALF: Final = (frozenset(("half",)),)
"""What `50 %` means, too."""
_SCALABLE: Final = frozenset(("plain", "grouped", "fraction", "clock"))
"""The kinds of figures that a multiplier may follow."""
_PARTS_OF_HOUR: Final = {"half": 30, "quarter": 15}


class Token(Struct, frozen=True):
    """A word or a figure of a text."""

    kind: Kind
    atoms: frozenset[str]
    """The stem of a word, the name of a month or weekday, or all atoms of all readings of a figure."""
    start: int
    end: int
    """Its place in the text: `text[start:end]`."""
    readings: Readings = ()
    """What a figure may mean (`loadgen.analysis.scorer.figure_readings`); empty for words."""
    is_spelled: bool = False
    """Whether a figure is written in letters."""


class Piece(Struct, frozen=True):
    """A word as it is written, or a figure, before stop words are left out."""

    text: str
    start: int
    end: int
    folded: str
    """The word in lower case and without accents or a possessive ending; empty for a figure."""
    readings: Readings = ()

    @property
    def is_capital(self) -> bool:
        return self.text[0].isupper()


@lru_cache(maxsize=65_536)
def fold(word: str) -> str:
    """A word in lower case, without accents, and without what follows an apostrophe (`Owen's`, `don't`)."""
    word = word.replace("’", "'").partition("'")[0].lower()
    if not word.isascii():
        word = unicodedata.normalize("NFKD", word).translate(_OTHER_LETTERS)
        word = "".join(sign for sign in word if not unicodedata.combining(sign))
    return word


@lru_cache(maxsize=65_536)
def stem(folded: str) -> str:
    """The stem of a folded word: `prints`, `printed` and `printing` have the same; so have `rise` and `rose`."""
    word = IRREGULAR.get(folded, folded)
    for pattern, american in _BRITISH:
        word = pattern.sub(american, word)
    for ending in ("", "s", "ed", "ing"):
        if word.endswith(ending) and (spelled := SPELLINGS.get(word.removesuffix(ending) if ending else word)):
            word = spelled
            break
    for ending in ("ations", "ation", "ings", "ing", "ied", "ies", "ed", "es", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    word = word[:-1] if len(word) > 3 and word[-1] == word[-2] else word
    return word[:_LONGEST_STEM]


def pieces_of(text: str, start: int = 0) -> list[Piece]:
    """All words and figures of a text from a place on, in order."""
    return list(_pieces(text, start))


def _pieces(text: str, at: int) -> Iterator[Piece]:
    while (match := _PIECE.search(text, at)) is not None:
        if match.lastgroup != "figure":
            yield Piece(match[0], match.start(), match.end(), "percent" if match[0] == "%" else fold(match[0]))
            at = match.end()
            continue
        figure = FIGURE.match(text, match.start())
        assert figure is not None  # every digit begins a figure
        suffix = SUFFIX.match(text, figure.end()) if figure.lastgroup in _SCALABLE else None
        end = figure.end() if suffix is None else suffix.end()
        readings = readings_of(figure, suffix[1] if suffix else "")
        yield Piece(text[figure.start() : end], figure.start(), end, "", readings)
        at = end
        ordinal = _ORDINAL_ENDING.match(text, at)
        at = at if ordinal is None else ordinal.end()


def tokens_of(text: str) -> list[Token]:
    """The content tokens of a text, in order: figures, also those in letters, and words that are no stop words."""
    return tokens_of_pieces(pieces_of(text), text)


def tokens_of_pieces(pieces: Sequence[Piece], text: str) -> list[Token]:
    """As `tokens_of`, of pieces that were cut already."""
    tokens: list[Token] = []
    at = 0
    while at < len(pieces):
        piece = pieces[at]
        if piece.readings:
            is_half = text[piece.start : piece.end] == "50" and [each.folded for each in pieces[at + 1 : at + 2]] == [
                "percent"
            ]
            readings = (*piece.readings, _HALF) if is_half else piece.readings
            tokens.append(_figure(readings, piece.start, piece.end))
            at += 1
        elif (spelled := _spelled_figure(pieces, at, text)) is not None:
            tokens.append(spelled[0])
            at = spelled[1]
        else:
            token = _word(pieces, at)
            tokens += [] if token is None else [token]
            at += 1
    return tokens


def _figure(readings: Readings, start: int, end: int, *, spelled: bool = False) -> Token:
    atoms = frozenset(atom for reading in readings for needed in reading for atom in needed)
    return Token("figure", atoms, start, end, readings, spelled)


def _word(pieces: Sequence[Piece], at: int) -> Token | None:
    piece = pieces[at]
    day_or_month = calendar_name(piece)
    if day_or_month is not None:
        return Token("calendar", frozenset((day_or_month,)), piece.start, piece.end)
    if piece.folded == "cent" and at and pieces[at - 1].folded == "per":
        return Token("word", frozenset((stem("percent"),)), piece.start, piece.end)
    if piece.folded in STOP_WORDS or piece.text.lower() in ("o'clock", "o’clock"):
        return None
    words = EXPANSIONS.get(piece.folded, (piece.folded,))
    return Token("word", frozenset(stem(word) for word in words), piece.start, piece.end)


def calendar_name(piece: Piece) -> str | None:
    """The month or weekday that a word names; None if it names none."""
    name = CALENDAR.get(piece.folded)
    return None if name is None or (piece.folded in CAPITAL_ONLY and not piece.is_capital) else name


def _spelled_figure(pieces: Sequence[Piece], at: int, text: str) -> tuple[Token, int] | None:
    """The figure in letters that begins at a piece, and the index after it; None if there is none."""
    piece = pieces[at]
    word = piece.folded
    if word in ("noon", "midday"):
        return _figure(half_hour_readings(12, 0), piece.start, piece.end, spelled=True), at + 1
    if (time := _time_in_words(pieces, at)) is not None:
        return time
    if word in ORDINALS:
        return _figure(number_readings(ORDINALS[word]), piece.start, piece.end, spelled=True), at + 1
    if word in DAY_ORDINALS and _is_beside_month(pieces, at):
        return _figure(number_readings(DAY_ORDINALS[word]), piece.start, piece.end, spelled=True), at + 1
    number = _number(pieces, at, text)
    if number is None or (word == "one" and number[1] == at + 1):  # `one` alone is a pronoun more often than a number
        return None
    value, end = number
    minutes = _number(pieces, end, text) if value in range(1, 13) and end == at + 1 else None
    readings = number_readings(value)
    if minutes is not None and minutes[0] in range(10, 60) and _touch(pieces, end - 1, text):  # seven fifty
        readings = half_hour_readings(int(value), int(minutes[0]))
        end = minutes[1]
    return _figure(readings, piece.start, pieces[end - 1].end, spelled=True), end


def _time_in_words(pieces: Sequence[Piece], at: int) -> tuple[Token, int] | None:
    """A time such as `half past six` or `twenty to six`."""
    if at + 2 >= len(pieces) or pieces[at + 1].folded not in ("past", "to"):
        return None
    first, hour = pieces[at].folded, UNITS.get(pieces[at + 2].folded, 0)
    minutes = _PARTS_OF_HOUR.get(first) or (UNITS | TENS).get(first, 0)
    if not (minutes in (5, 10, 15, 20, 25, 30) and hour in range(1, 13)):
        return None
    is_past = pieces[at + 1].folded == "past"
    readings = half_hour_readings(hour, minutes) if is_past else half_hour_readings((hour - 2) % 12 + 1, 60 - minutes)
    if first not in _PARTS_OF_HOUR and not is_past:  # `ten to twelve` may be a range, too
        readings = (*readings, (*number_readings(minutes)[0], *number_readings(hour)[0]))
    return _figure(readings, pieces[at].start, pieces[at + 2].end, spelled=True), at + 3


def _is_beside_month(pieces: Sequence[Piece], at: int) -> bool:
    """Whether a word is the day of a date: `first of May`, `May first`."""
    near = [*pieces[max(0, at - 1) : at], *[piece for piece in pieces[at + 1 : at + 3] if piece.folded != "of"][:1]]
    return any(calendar_name(piece) in MONTHS for piece in near if piece.folded)


def _touch(pieces: Sequence[Piece], at: int, text: str) -> bool:
    """Whether only a space or a hyphen stands between a piece and the next."""
    return at + 1 < len(pieces) and text[pieces[at].end : pieces[at + 1].start] in (" ", "-", "‑", "\u00a0")


def _number(pieces: Sequence[Piece], at: int, text: str) -> tuple[float, int] | None:
    """The number in letters that begins at a piece, and the index after it: `four hundred and twelve`."""
    total, current, end = 0.0, None, at
    while end < len(pieces) and (end == at or _touch(pieces, end - 1, text)):
        word = pieces[end].folded
        if word in UNITS and (current is None or (current % 100 == 0 and current) or _is_tens(current, UNITS[word])):
            current = (current or 0) + UNITS[word]
        elif word in TENS and (current is None or (current % 100 == 0 and current)):
            current = (current or 0) + TENS[word]
        elif word == "hundred" and current is not None and current < 100:
            current *= 100
        elif word in SCALES and word != "hundred" and current is not None:
            total, current = total + current * SCALES[word], None
        elif word == "a" and end == at and end + 1 < len(pieces) and pieces[end + 1].folded in SCALES:
            current = 1
        elif word == "and" and _continues(pieces, end, text, current, total):
            pass
        else:
            break
        end += 1
        if current is None and not (end < len(pieces) and pieces[end].folded in (UNITS | TENS | {"and": 0})):
            break
    if end == at:
        return None
    value = total + (current or 0)
    if [piece.folded for piece in pieces[end : end + 3]] == ["and", "a", "half"]:
        return value + 0.5, end + 3
    return value, end


def _is_tens(current: float, unit: int) -> bool:
    """Whether a unit may follow, as in `twenty-four`."""
    return 0 < unit < 10 and current % 100 in range(20, 100, 10)


def _continues(pieces: Sequence[Piece], at: int, text: str, current: float | None, total: float) -> bool:
    """Whether an `and` is within a number: after a hundred or a thousand, before more of it."""
    is_after_scale = (current is not None and current >= 100 and current % 100 == 0) or (current is None and total > 0)
    return is_after_scale and _touch(pieces, at, text) and pieces[at + 1].folded in (UNITS | TENS)
