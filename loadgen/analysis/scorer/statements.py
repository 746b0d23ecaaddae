"""Cuts a text into statements: sentences, and items of lists. Pure."""

import re
from collections.abc import Iterator
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

_ABBREVIATIONS: Final = r"\b(?:mr|mrs|ms|dr|prof|st|no|nos|approx|ca|vs|etc|e\.g|i\.e|incl|max|min|fig|sen|jr|tel)\.$"
_ABBREVIATED: Final = re.compile(_ABBREVIATIONS, re.IGNORECASE)
_END: Final = re.compile(r"[.!?;…][\"'”’)\]*_]*\s+")
_BULLET: Final = re.compile(r"\s*(?:[-*•–—+▪◦·>|#]+|\[[ xX]?\]|[☐☑✓✔])\s*")
_NUMBER: Final = re.compile(r"\s*[*_]*\(?(\d{1,2})[.):][*_]*\s+")
_HEADING_END: Final = re.compile(r":[*_\s]*$")
_LONGEST_HEADING: Final = 60
"""Characters of a line that ends with a colon and is still a heading."""


class Statement(Struct, frozen=True):
    """A sentence, or one item of a list."""

    start: int
    end: int
    """Its place in the text: `text[start:end]`."""
    is_heading: bool = False
    """Whether it is the heading of what follows: it ends with a colon, or is marked as a heading."""


def statements_of(text: str) -> tuple[Statement, ...]:
    """The statements of a text, in order; each has a letter or a digit. The marks and numbers of lists are left out."""
    numbers = 0
    statements: list[Statement] = []
    for line in re.finditer(r"[^\n\r\u2028\u2029]+", text):
        start, end = line.span()
        is_marked = line[0].lstrip().startswith("#")
        while (bullet := _BULLET.match(text, start, end)) is not None and bullet.end() > start:
            start = bullet.end()
        number = _NUMBER.match(text, start, end)
        if number is not None and int(number[1]) in (1, numbers + 1):
            numbers, start = int(number[1]), number.end()
        if is_marked or (end - start <= _LONGEST_HEADING and _HEADING_END.search(text, start, end)):
            statements.append(Statement(start, end, is_heading=True))
        else:
            statements += _sentences(text, start, end)
    return tuple(_trimmed(each, text) for each in statements if re.search(r"[^\W_]", text[each.start : each.end]))


def _trimmed(statement: Statement, text: str) -> Statement:
    """A statement without white space at its ends."""
    part = text[statement.start : statement.end]
    start, end = len(part) - len(part.lstrip()), len(part.rstrip())
    return replace(statement, start=statement.start + start, end=statement.start + end)


def _sentences(text: str, start: int, end: int) -> Iterator[Statement]:
    begin = start
    for match in _END.finditer(text, start, end):
        mark = text[begin : match.start() + 1]
        if _ABBREVIATED.search(mark) or _is_before_more(text, mark, match.end()):
            continue
        yield Statement(begin, match.end())
        begin = match.end()
    if begin < end:
        yield Statement(begin, end)


def _is_before_more(text: str, mark: str, at: int) -> bool:
    """Whether a full stop ends no sentence: a small letter follows, or it ends an ordinal such as `27. June`."""
    following = text[at : at + 1]
    is_ordinal = re.search(r"(?<![\d.])\d{1,2}\.$", mark) is not None and re.match(
        r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)", text[at : at + 3], re.IGNORECASE
    )
    return mark.endswith(".") and (following.islower() or bool(is_ordinal))
