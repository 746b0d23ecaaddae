"""How much of a key point an answer says, and where. Pure.

A key point is looked for in one place: a statement, a statement and the next if that names nobody, or a heading and a
statement below it. Its figures and names weigh double, and each that is missing lowers the credit by its share.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from loadgen.analysis.scorer.names import name_pieces
from loadgen.analysis.scorer.statements import Statement, statements_of
from loadgen.analysis.scorer.tokens import Piece, Token, fold, pieces_of, stem, tokens_of_pieces
from loadgen.analysis.scorer.vocabulary import synonyms

FACT_WEIGHT: Final = 2.0
CHANCE: Final = 0.3
"""A smaller share of a key point is in most texts of the same subject by chance."""
COMPLETE: Final = 0.8
"""From this share on, a key point is said."""
_SYNONYMS: Final = {
    stem(fold(word)): frozenset(stem(fold(other)) for other in words) for word, words in synonyms().items()
}

Way = tuple[frozenset[str], ...]
"""One way to say something: of each set, one atom is needed."""


class Wanted(Struct, frozen=True):
    """A token of a key point, and how an answer may say it."""

    ways: tuple[Way, ...]
    weight: float
    is_figure: bool = False
    is_name: bool = False


class KeyPoint(Struct, frozen=True):
    """A key point, as it is looked for."""

    text: str
    wanted: tuple[Wanted, ...]

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


class Place(Struct, frozen=True):
    """Where a key point may stand: the tokens of one or two statements, and at which of them each atom stands."""

    tokens: tuple[Token, ...]
    at: dict[str, list[int]]
    start: int
    end: int


def key_point_of(text: str, known: frozenset[str]) -> KeyPoint:
    """A key point as it is looked for. known: the stems of known names."""
    pieces = pieces_of(text)
    names = {stem(piece.folded) for piece in name_pieces(pieces, known)}
    wanted: dict[frozenset[str], Wanted] = {}
    for token in tokens_of_pieces(pieces, text):
        is_name = token.kind == "word" and bool(token.atoms & names)
        weight = 1.0 if token.kind == "word" and not is_name else FACT_WEIGHT
        ways = token.readings or ((_spellings(token, is_name),),)
        wanted.setdefault(token.atoms, Wanted(ways, weight, token.kind == "figure", is_name))
    return KeyPoint(text, tuple(wanted.values()))


def _spellings(token: Token, is_name: bool) -> frozenset[str]:
    """The atoms by which an answer may say a word."""
    if token.kind != "word" or is_name:
        return token.atoms
    return token.atoms.union(*(_SYNONYMS.get(atom, frozenset()) for atom in token.atoms))


def parts_of(text: str, known: frozenset[str]) -> list[Part]:
    """The statements of an answer with their content."""
    parts = []
    for statement in statements_of(text):
        pieces = pieces_of(text[: statement.end], statement.start)
        parts.append(Part(statement, tuple(tokens_of_pieces(pieces, text)), tuple(name_pieces(pieces, known))))
    return parts


def places_of(parts: Sequence[Part]) -> list[Place]:
    """All places in which a key point may stand."""
    return [_place(tokens, start, end) for tokens, start, end in _joined(parts) if tokens]


def _joined(parts: Sequence[Part]) -> Iterator[tuple[tuple[Token, ...], int, int]]:
    """Single statements first, so that of two places that say the same the shorter counts."""
    yield from ((part.tokens, part.statement.start, part.statement.end) for part in parts)
    heading: Part | None = None
    for at, part in enumerate(parts):
        start, end = part.statement.start, part.statement.end
        if part.statement.is_heading:
            heading = part
        elif heading is not None and not (heading.names and part.names):
            yield heading.tokens + part.tokens, start, end
        if at + 1 < len(parts) and not parts[at + 1].names and not part.statement.is_heading:
            yield part.tokens + parts[at + 1].tokens, start, parts[at + 1].statement.end


def _place(tokens: tuple[Token, ...], start: int, end: int) -> Place:
    at: dict[str, list[int]] = {}
    for index, token in enumerate(tokens):
        for atom in token.atoms:
            at.setdefault(atom, []).append(index)
    return Place(tokens, at, start, end)


def credit_of(point: KeyPoint, places: Sequence[Place]) -> Credit:
    """The credit of a key point in the place that says most of it."""
    best = Credit()
    total = sum(wanted.weight for wanted in point.wanted)
    for place in places:
        hits = [[_hits(way, place) for way in wanted.ways] for wanted in point.wanted]
        if sum(w.weight for w, of_it in zip(point.wanted, hits, strict=True) if any(of_it)) <= CHANCE * total:
            continue
        begins = {hit for of_it in hits for of_way in of_it for each in of_way for hit in each}
        for begin in begins:
            present = [_is_present(of_it, begin, begin + point.width) for of_it in hits]
            credit = _credit(point, present, total, place)
            if (credit.covered, credit.mentioned) > (best.covered, best.mentioned):
                best = credit
    return best


def _hits(way: Way, place: Place) -> list[list[int]]:
    """Where each part of a way stands; empty if one does not."""
    each = [sorted({hit for atom in atoms if atom in place.at for hit in place.at[atom]}) for atoms in way]
    return each if all(each) else []


def _is_present(ways: Sequence[Sequence[Sequence[int]]], begin: int, end: int) -> bool:
    """Whether one of the ways stands within some tokens of a place."""
    return any(way and all(_is_within(hits, begin, end) for hits in way) for way in ways)


def _is_within(hits: Sequence[int], begin: int, end: int) -> bool:
    first = bisect_left(hits, begin)
    return first < len(hits) and hits[first] < end


def _credit(point: KeyPoint, present: Sequence[bool], total: float, place: Place) -> Credit:
    share = sum(w.weight for w, is_there in zip(point.wanted, present, strict=True) if is_there) / total
    mentioned = min(1.0, max(0.0, (share - CHANCE) / (COMPLETE - CHANCE)))
    covered = mentioned
    for kind in ("is_figure", "is_name"):
        of_kind = [is_there for w, is_there in zip(point.wanted, present, strict=True) if getattr(w, kind)]
        covered *= sum(of_kind) / len(of_kind) if of_kind else 1.0
    return Credit(covered, mentioned, place.start, place.end)
