"""How much of a key point an answer says, and where. Pure.

A key point is looked for in one place: a statement, a statement and the next if that names nobody else, or a heading
and a statement below it. Its figures and names weigh double, and each that is missing lowers the credit by its share.
So does a month or a weekday that stands in place of the right one.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate, compress, pairwise
from math import inf
from typing import Final, Literal, get_args

from msgspec import Struct
from msgspec.structs import replace

from loadgen.analysis.scorer.names import KnownNames, name_pieces
from loadgen.analysis.scorer.statements import Statement, statements_of
from loadgen.analysis.scorer.tokens import Piece, Token, fold, pieces_of, stem, tokens_of_pieces
from loadgen.analysis.scorer.vocabulary import MONTHS, WEEKDAYS, synonyms

FACT_WEIGHT: Final = 2.0
CHANCE: Final = 0.3
"""A smaller share of a key point is in most texts of the same subject by chance."""
COMPLETE: Final = 0.8
"""From this share on, a key point is said."""
COMPANIONS: Final = 2
"""A figure belongs to the words that are at most so many tokens away from it in the key point."""
CLAUSE: Final = 5
"""How many steps the end of a clause counts, so that what a clause says belongs to its own names and figures."""
DATE_REACH: Final = CLAUSE + 1
"""A month or weekday that is at most so many steps from the words of a key point is their date."""
_CLAUSE_END: Final = re.compile(r"[,;:]|\b(?:and|while|but|so|whereas|then)\b", re.IGNORECASE)
_MONTHS: Final = frozenset(MONTHS)
_WEEKDAYS: Final = frozenset(WEEKDAYS)
_SYNONYMS: Final = {
    stem(fold(word)): frozenset(stem(fold(other)) for other in words) for word, words in synonyms().items()
}

DatePart = Literal["month", "weekday"]
Way = tuple[frozenset[str], ...]
"""One way to say something: of each set, one atom is needed."""


class Wanted(Struct, frozen=True):
    """A token of a key point, and how an answer may say it."""

    ways: tuple[Way, ...]
    atoms: frozenset[str]
    """All atoms of all ways."""
    weight: float
    is_figure: bool = False
    is_name: bool = False
    date: DatePart | None = None
    """Which part of a date it is; None if it is none."""


class KeyPoint(Struct, frozen=True):
    """A key point, as it is looked for."""

    text: str
    wanted: tuple[Wanted, ...]
    atoms: frozenset[str]
    """All atoms of all that is wanted."""
    names: frozenset[str]
    """The stems of its names."""

    @property
    def width(self) -> int:
        """How many tokens a place may have at most."""
        return 2 * len(self.wanted) + 2


class Credit(Struct, frozen=True):
    """How much of a key point a place of an answer says."""

    covered: float = 0.0
    """0 to 1; figures and names must be there."""
    mentioned: float = 0.0
    """The same, whatever its figures and names are."""
    start: int = 0
    end: int = 0
    """The place in the answer; both 0 if nothing of it is mentioned."""


class Part(Struct, frozen=True):
    """A statement of an answer with its content."""

    statement: Statement
    tokens: tuple[Token, ...]
    names: tuple[Piece, ...]
    steps: tuple[int, ...]
    """How far each token is from the one before: 1, and more across the end of a clause."""


class Place(Struct, frozen=True):
    """Where a key point may stand: the tokens of one or two statements, and at which of them each atom stands."""

    at: dict[str, list[int]]
    figures: tuple[int, ...]
    names: tuple[int, ...]
    """At which of its tokens figures and names stand."""
    dates: dict[DatePart, tuple[int, ...]]
    """At which of its tokens months and weekdays stand."""
    coordinates: tuple[int, ...]
    """How far each token is from the first."""
    second_names: frozenset[str]
    """The stems of the names in its second statement; a key point that does not have them cannot go on there."""
    start: int
    end: int


def key_point_of(text: str, known: KnownNames) -> KeyPoint:
    """A key point as it is looked for"""
    pieces = pieces_of(text)
    names = {stem(piece.folded) for piece in name_pieces(pieces, known)}
    wanted: dict[frozenset[str], Wanted] = {}
    for token in tokens_of_pieces(pieces, text):
        is_name = token.kind == "word" and bool(token.atoms & names)
        weight = 1.0 if token.kind == "word" and not is_name else FACT_WEIGHT
        ways = token.readings or ((_spellings(token, is_name),),)
        atoms = frozenset(atom for way in ways for needed in way for atom in needed)
        wanted.setdefault(token.atoms, Wanted(ways, atoms, weight, token.kind == "figure", is_name, _date_part(token)))
    return KeyPoint(
        text,
        tuple(wanted.values()),
        atoms=frozenset().union(*(each.atoms for each in wanted.values())),
        names=frozenset().union(*(each.atoms for each in wanted.values() if each.is_name)),
    )


def _date_part(token: Token) -> DatePart | None:
    if token.kind != "calendar":
        return None
    return "month" if token.atoms <= _MONTHS else "weekday" if token.atoms <= _WEEKDAYS else None  # not `weekend`


def _spellings(token: Token, is_name: bool) -> frozenset[str]:
    """The atoms by which an answer may say a word."""
    if token.kind != "word" or is_name:
        return token.atoms
    return token.atoms.union(*(_SYNONYMS.get(atom, frozenset()) for atom in token.atoms))


def parts_of(text: str, known: KnownNames) -> list[Part]:
    """The statements of an answer with their content."""
    parts = []
    for statement in statements_of(text):
        pieces = pieces_of(text[: statement.end], statement.start)
        tokens = tuple(tokens_of_pieces(pieces, text))
        parts.append(Part(statement, tokens, tuple(name_pieces(pieces, known)), _steps(tokens, text)))
    return parts


def _steps(tokens: Sequence[Token], text: str) -> tuple[int, ...]:
    between = (text[token.end : following.start] for token, following in pairwise(tokens))
    return (CLAUSE, *(CLAUSE if _CLAUSE_END.search(gap) else 1 for gap in between)) if tokens else ()


def places_of(parts: Sequence[Part]) -> list[Place]:
    """All places in which a key point may stand."""
    return [place for place in map(_place, _joined(parts)) if place.at]


def _joined(parts: Sequence[Part]) -> Iterator[tuple[Part, ...]]:
    """Single statements first, so that of two places that say the same the shorter counts."""
    yield from ((part,) for part in parts)
    heading: Part | None = None
    for at, part in enumerate(parts):
        if part.statement.is_heading:
            heading = part
        elif heading is not None:
            yield heading, part
        if at + 1 < len(parts) and not part.statement.is_heading:
            yield part, parts[at + 1]


def _names_of(part: Part) -> frozenset[str]:
    """The stems of the names in a statement; a single letter (`batch C`) names nobody."""
    return frozenset(stem(name.folded) for name in part.names if len(name.folded) > 1)


def _place(parts: Sequence[Part]) -> Place:
    tokens = [token for part in parts for token in part.tokens]
    starts = {name.start for part in parts for name in part.names}
    at: dict[str, list[int]] = {}
    for index, token in enumerate(tokens):
        for atom in token.atoms:
            at.setdefault(atom, []).append(index)
    # Of a heading and an item below it, the item is the place.
    first = parts[-1] if parts[0].statement.is_heading else parts[0]
    return Place(
        at,
        figures=tuple(index for index, token in enumerate(tokens) if token.kind == "figure"),
        names=tuple(index for index, token in enumerate(tokens) if token.start in starts),
        dates={
            part: tuple(index for index, token in enumerate(tokens) if _date_part(token) == part)
            for part in get_args(DatePart)
        },
        coordinates=tuple(accumulate(step for part in parts for step in part.steps)),
        second_names=_names_of(parts[-1]) if len(parts) > 1 and _names_of(parts[0]) else frozenset(),
        start=first.statement.start,
        end=parts[-1].statement.end,
    )


def credit_of(point: KeyPoint, places: Sequence[Place]) -> Credit:
    """The credit of a key point in the place that says most of it."""
    best = Credit()
    weights, width = [wanted.weight for wanted in point.wanted], point.width
    total = sum(weights)
    for place in places:
        common = point.atoms & place.at.keys()
        if not place.second_names <= point.names or not common:
            continue
        hits = [() if each.atoms.isdisjoint(common) else _hits(each, place) for each in point.wanted]
        most = sum(compress(weights, hits))
        if most <= CHANCE * total or _mentioned(most / total) <= best.covered:  # no window in it says more than all
            continue
        for begin in sorted({hit for of_it in hits for hit in of_it}):
            inside = [of_it and _inside(of_it, begin, begin + width) for of_it in hits]
            mentioned = _mentioned(sum(compress(weights, inside)) / total)
            if mentioned <= best.covered:
                continue
            covered = mentioned * _share_of_facts(point, inside, place)
            if covered > best.covered or (not best.covered and mentioned > best.mentioned):
                best = Credit(covered, max(mentioned, best.mentioned), place.start, place.end)
            elif mentioned > best.mentioned:
                best = replace(best, mentioned=mentioned)
    return best


def _mentioned(share: float) -> float:
    """How much is mentioned if a share of the weights is there."""
    return min(1.0, max(0.0, (share - CHANCE) / (COMPLETE - CHANCE)))


def _hits(wanted: Wanted, place: Place) -> Sequence[int]:
    """At which tokens of a place something stands; if a figure needs several, at the first of them."""
    hits = set[int]()
    for way in wanted.ways:
        each = [{hit for atom in atoms if atom in place.at for hit in place.at[atom]} for atoms in way]
        hits |= each[0] if all(each) else set()
    return sorted(hits)


def _inside(hits: Sequence[int], begin: int, end: int) -> Sequence[int]:
    """Those of some ascending positions that are in a window."""
    return hits[bisect_left(hits, begin) : bisect_left(hits, end)]


def _share_of_facts(point: KeyPoint, inside: Sequence[Sequence[int]], place: Place) -> float:
    """The share of the figures of a key point that stand in a window with their words, times that of its names. A wrong
    month or weekday counts as a figure that is missing."""
    share = 1.0
    wrong_dates = sum(_is_wrong_date(point, index, inside, place) for index in range(len(point.wanted)))
    for kind, all_of_kind in (("is_figure", place.figures), ("is_name", place.names)):
        facts = [index for index, wanted in enumerate(point.wanted) if getattr(wanted, kind)]
        missing = wrong_dates if kind == "is_figure" else 0
        if facts or missing:
            own = {hit for index in facts for hit in inside[index]}
            begin, end = min(own, default=0) - point.width, max(own, default=0) + point.width
            foreign = [place.coordinates[at] for at in _inside(all_of_kind, begin, end) if at not in own]
            placed = [[place.coordinates[at] for at in hits] for hits in inside]
            share *= sum(_is_attached(point, index, placed, foreign) for index in facts) / (len(facts) + missing)
    return share


def _is_wrong_date(point: KeyPoint, index: int, inside: Sequence[Sequence[int]], place: Place) -> bool:
    """Whether a month or weekday of a key point is missing in a window, and another stands near its words."""
    part = point.wanted[index].date
    if part is None or inside[index]:
        return False
    own = [place.coordinates[at] for hits in inside for at in hits]
    taken = {at for wanted, hits in zip(point.wanted, inside, strict=True) if wanted.date == part for at in hits}
    others = [place.coordinates[at] for at in place.dates[part] if at not in taken]
    return any(_distance(other, own) <= DATE_REACH for other in others)


def _is_attached(point: KeyPoint, fact: int, inside: Sequence[Sequence[int]], foreign: Sequence[int]) -> bool:
    """Whether a figure or a name stands with the words to which it belongs, and not only somewhere near: no other fact
    of its kind is nearer to most of them. inside, foreign: coordinates."""
    if not inside[fact]:
        return False
    votes = []
    for index, wanted in enumerate(point.wanted):
        if wanted.is_figure or wanted.is_name or not inside[index]:
            continue
        if not point.wanted[fact].is_name and abs(index - fact) > COMPANIONS:
            continue
        votes.append(any(_distance(hit, inside[fact]) <= _distance(hit, foreign) for hit in inside[index]))
    return not votes or sum(votes) >= (0.5 * len(votes) if point.wanted[fact].is_name else 1)


def _distance(at: int, others: Sequence[int]) -> float:
    return min((abs(at - other) for other in others), default=inf)
