"""Quality of an answer against the key points of its prompt: `key_points/1`. Pure, deterministic, no model.

    quality = 100 × mean over key points of covered × supported × kept

covered: `key_points.py`, in this folder. supported: the share of the answer's figures and names that the source has.
kept: `form.py`; 0 for an answer that is empty, refuses, or is in another language than asked.
docs/quality.md has the measurements behind it, and what it cannot see.
"""

from collections.abc import Iterator
from typing import Final, Literal

from msgspec import Struct

from loadgen.analysis.quality_types import Span
from loadgen.analysis.scorer import form
from loadgen.analysis.scorer.key_points import KeyPoint, Part, credit_of, key_point_of, parts_of, places_of
from loadgen.analysis.scorer.language import MIN_WORDS, UNSPACED, ScriptAndLanguage, script_and_language_of
from loadgen.analysis.scorer.names import KnownNames, names_known
from loadgen.analysis.scorer.rouge import rouge_l
from loadgen.analysis.scorer.tokens import Token, stem, tokens_of

DIGITS: Final = 4

Flag = Literal["empty", "refused", "wrong_language", "repeated", "copied", "truncated", "unspaced"]
"""What is wrong with the form of an answer. unspaced: its language has no spaces between words, so it has no mark."""
WORTHLESS: Final = frozenset[Flag](("empty", "refused", "wrong_language"))
"""Flags of answers that help nobody: their quality is 0."""
LONGEST: Final = 40_000
"""Characters of an answer that are read; a longer one is no summary, and would take long."""
SHARED: Final = 0.6
"""If the source has at least this share of the words and figures of the key points, they come from it."""
SMALL_COUNT: Final = 10


class AnswerScore(Struct, frozen=True, kw_only=True):
    """The quality of one answer, with its part marks."""

    quality: float | None
    """0 to 100; None if the prompt has no key points, or if its language has no spaces between words."""
    covered: tuple[float, ...] = ()
    """How much of each key point the answer says, 0 to 1."""
    mentioned: tuple[float, ...] = ()
    """The same without regard to figures and names."""
    places: tuple[Span | None, ...] = ()
    """Where in the answer it says each key point; None if it does not mention it."""
    supported: float | None = 1.0
    """The share of its figures and names that the source has; None if it need not keep to the source."""
    unsupported: tuple[Span, ...] = ()
    """The figures and names that the source does not have."""
    distinct: float = 1.0
    copied: float = 0.0
    rouge_l: float | None = None
    """Against all key points together; None without key points."""
    words: int = 0
    flags: tuple[Flag, ...] = ()


class Rubric(Struct, frozen=True):
    """By what the answers to one prompt are scored, prepared once."""

    source: str
    """All that the model was given."""
    key_points: tuple[KeyPoint, ...]
    known: KnownNames
    """The names in it."""
    atoms: frozenset[str]
    """The atoms of all words and figures in it and in the key points."""
    words: int
    runs: frozenset[tuple[str, ...]]
    """All runs of 8 words in it."""
    is_about_source: bool
    """Whether the key points come from the source, as those of a summary do. If they do not, as with a question that
    the model must answer by itself, an answer may be longer than its prompt, and have figures and names of its own."""
    reference: str
    """The key points as one text."""
    asked: ScriptAndLanguage
    """The language in which the answer should be: that of the key points, or of the source."""


def rubric_of(source: str, key_points: tuple[str, ...]) -> Rubric:
    """Prepare a prompt. source: all that the model was given."""
    known = names_known(source, key_points)
    words = form.words_of(source)
    points_text = ". ".join(key_points)
    atoms = frozenset(atom for token in tokens_of(source) for atom in token.atoms)
    wanted = [token for text in key_points for token in tokens_of(text)]
    shared = sum(bool(token.atoms & atoms) for token in wanted)
    return Rubric(
        source=source,
        key_points=tuple(key_point_of(text, known) for text in key_points),
        known=known,
        atoms=atoms.union(*(token.atoms for token in wanted)),
        words=len(words),
        runs=frozenset(form.word_runs_of(words, form.COPIED_RUN)),
        is_about_source=bool(wanted) and shared >= SHARED * len(wanted),
        reference=points_text,
        asked=script_and_language_of(points_text if len(form.words_of(points_text)) >= MIN_WORDS else source),
    )


def score(answer: str, rubric: Rubric, finish_reason: str | None = None) -> AnswerScore:
    """The quality of an answer. finish_reason: as the server gave it; `length` means that it was cut short."""
    text = form.without_thinking(answer)[:LONGEST]
    shape = form.form_of(form.words_of(text), rubric.words if rubric.is_about_source else None, rubric.runs)
    flags = _flags(text, shape, rubric, finish_reason)
    parts = parts_of(text, rubric.known)
    is_supported = {span: supported for part in parts for span, supported in _facts(part, rubric)}
    supported = sum(is_supported.values()) / len(is_supported) if is_supported else 1.0
    places = places_of(parts)
    marks = [credit_of(point, places) for point in rubric.key_points]
    quality = None
    if marks and "unspaced" not in flags:
        kept = 0.0 if WORTHLESS & set(flags) else shape.kept
        quality = round(100 * sum(credit.covered for credit in marks) / len(marks) * supported * kept, 2)
    return AnswerScore(
        quality=quality,
        covered=tuple(round(credit.covered, DIGITS) for credit in marks),
        mentioned=tuple(round(credit.mentioned, DIGITS) for credit in marks),
        places=tuple((credit.start, credit.end) if credit.mentioned else None for credit in marks),
        supported=round(supported, DIGITS) if rubric.is_about_source else None,
        unsupported=tuple(span for span, has_it in is_supported.items() if not has_it),
        distinct=round(shape.distinct, DIGITS),
        copied=round(shape.copied, DIGITS),
        rouge_l=round(rouge_l(text, rubric.reference), DIGITS) if marks else None,
        words=shape.words,
        flags=flags,
    )


def _flags(text: str, shape: form.Form, rubric: Rubric, finish_reason: str | None) -> tuple[Flag, ...]:
    holds: dict[Flag, bool] = {
        "empty": shape.words == 0,
        "refused": form.is_refusal(text),
        "wrong_language": script_and_language_of(text).is_other_than(rubric.asked),
        "repeated": shape.distinct < form.REPEATED_BELOW,
        "copied": shape.copied > form.COPIED_ABOVE,
        "truncated": finish_reason == "length",
        "unspaced": rubric.asked.script in UNSPACED,
    }
    return tuple(flag for flag, is_so in holds.items() if is_so)


def _facts(part: Part, rubric: Rubric) -> Iterator[tuple[Span, bool]]:
    """The figures and names of a statement, and whether the source has each. Small counts in letters (`two people`)
    are left out, because they are mostly the writer's own, and so are the capitals of headings. None if the answer
    need not keep to the source."""
    if not rubric.is_about_source:
        return
    for token in part.tokens:
        is_count = token.is_spelled and any(atom.isdigit() and int(atom) <= SMALL_COUNT for atom in token.atoms)
        if token.kind == "figure" and not is_count:
            yield (token.start, token.end), _has_reading(token, rubric.atoms)
    for name in () if part.statement.is_heading else part.names:
        yield (name.start, name.end), stem(name.folded) in rubric.atoms or stem(name.folded) in rubric.known.stems


def _has_reading(token: Token, atoms: frozenset[str]) -> bool:
    """Whether some atoms have all that one reading of a figure needs."""
    return any(all(needed & atoms for needed in reading) for reading in token.readings)
