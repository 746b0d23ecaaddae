"""What the notes say: the quality of each candidate by prompt, and how far the graders agree. Pure."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.decisions.grade.notes import LOWEST, Note
from loadgen.stats.agreement import Alpha, GradedUnit, ordinal_alpha, quadratic_kappa
from loadgen.stats.steady import rank_shares

AGREEMENT: Final = 0.667
"""With a lower alpha, notes decide nothing. Source: Krippendorff, Content Analysis (2004), section 11.4.2."""
POINTS_PER_NOTE: Final = 25.0
"""Notes from 1 to 5 become 0 to 100 points."""


class Agreement(Struct, frozen=True, kw_only=True):
    """How far the graders agree."""

    alpha: float | None
    """Krippendorff's alpha for ordinal notes, over all answers and aspects; None: not known."""
    ci: tuple[float, float] | None
    """Its 95 % interval, by a jackknife over answers."""
    kappa: float | None
    """Cohen's kappa with quadratic weights, if there are exactly two graders."""
    units: int
    """How many answers × aspects have notes of two graders or more."""
    answers: int
    """How many answers have such notes."""

    @property
    def disagrees(self) -> bool:
        """Whether the notes decide nothing, because the graders disagree."""
        return self.alpha is not None and self.alpha < AGREEMENT

    @property
    def may_agree(self) -> bool:
        """Whether the graders may agree well enough all the same: the interval reaches that far, or is not known."""
        return self.ci is None or self.ci[1] >= AGREEMENT

    @property
    def may_disagree(self) -> bool:
        """Whether the graders may disagree all the same: the interval reaches that far, or is not known."""
        return self.ci is None or self.ci[0] < AGREEMENT


class PeopleAgreement(Struct, frozen=True, kw_only=True):
    """How far a judge agrees with people."""

    alpha: float | None
    """Krippendorff's alpha of the judge's notes and the medians of the people's; None: not known."""
    ci: tuple[float, float] | None
    """Its 95 % interval, by a jackknife over answers."""
    units: int
    """How many answers × aspects have notes of both."""
    spearman: float | None
    """The rank correlation of the points of answers; None: not known."""
    answers: int
    """How many answers have points of both."""


def agreement_with_people(notes: Iterable[Note], judge: str, aspects: Sequence[str]) -> PeopleAgreement | None:
    """How far a judge, by its name, agrees with the people who graded the same answers. None: nobody did."""
    notes = list(notes)
    by_judge = [note for note in notes if note.kind == "judge" and note.by == judge]
    by_hand = [note for note in notes if note.kind == "hand"]
    people: dict[tuple[str, str], list[int]] = {}
    for note in by_hand:
        people.setdefault((note.answer, note.aspect), []).append(note.note)
    units = [
        GradedUnit(note.answer, {"judge": note.note, "people": statistics.median_low(people[place])})
        for note in by_judge
        if (place := (note.answer, note.aspect)) in people
    ]
    if not units:
        return None
    alpha = ordinal_alpha(units)
    points = [points_of(each, aspects) for each in (by_judge, by_hand)]
    return PeopleAgreement(
        alpha=None if alpha is None else alpha.value,
        ci=None if alpha is None else alpha.ci,
        units=len(units),
        spearman=rank_correlation(*points),
        answers=len(set(points[0]) & set(points[1])),
    )


def agreement_of(notes: Iterable[Note]) -> Agreement | None:
    """How far the graders of some notes agree. None: there is one grader, or none."""
    notes = list(notes)
    graders = sorted({note.by for note in notes})
    if len(graders) < 2:
        return None
    cells: dict[tuple[str, str], dict[str, int]] = {}
    for note in notes:
        cells.setdefault((note.answer, note.aspect), {})[note.by] = note.note
    units = [GradedUnit(answer, each) for (answer, _), each in sorted(cells.items())]
    alpha = ordinal_alpha(units) or Alpha(math.nan, None, sum(len(unit.notes) > 1 for unit in units))
    return Agreement(
        alpha=None if math.isnan(alpha.value) else alpha.value,
        ci=alpha.ci,
        kappa=_kappa(units, graders) if len(graders) == 2 else None,
        units=alpha.units,
        answers=len({unit.group for unit in units if len(unit.notes) > 1}),
    )


def points_of(notes: Iterable[Note], aspects: Sequence[str]) -> dict[str, float]:
    """By answer, its points from 0 to 100: aspects count equally, and so do the graders of an aspect. An answer that
    lacks a note on one of the aspects has none."""
    cells: dict[str, dict[str, list[int]]] = {}
    for note in notes:
        cells.setdefault(note.answer, {}).setdefault(note.aspect, []).append(note.note)
    return {
        answer: POINTS_PER_NOTE * (_mean([_mean(of_aspect[aspect]) for aspect in aspects]) - LOWEST)
        for answer, of_aspect in sorted(cells.items())
        if set(aspects) <= set(of_aspect)
    }


def points_by_prompt(
    points: Mapping[str, float], answers: Mapping[str, Mapping[str, Sequence[str | None]]]
) -> dict[str, dict[str, float]]:
    """By candidate and prompt, the mean points of its answers. Only prompts for which every candidate has points count.

    answers: by candidate and prompt, the ids of its answers; None: the request failed, which counts as 0 points.
    """
    each = {
        candidate: {
            prompt: _mean([0.0 if answer is None else points[answer] for answer in ids])
            for prompt, ids in by_prompt.items()
            if ids and all(answer is None or answer in points for answer in ids)
        }
        for candidate, by_prompt in answers.items()
    }
    graded = {
        candidate: {prompt for prompt, ids in by_prompt.items() if any(answer is not None for answer in ids)}
        for candidate, by_prompt in answers.items()
    }
    common = set.intersection(*(set(prompts) for prompts in each.values())) if each else set()
    common &= set().union(*graded.values()) if graded else set()
    return {
        candidate: {prompt: value for prompt, value in sorted(by_prompt.items()) if prompt in common}
        for candidate, by_prompt in each.items()
    }


def rank_correlation(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """Spearman's correlation of two marks of the same answers, over the answers that have both. None: fewer than
    three, or one of them gave one mark throughout."""
    common = sorted(set(first) & set(second))
    if len(common) < 3:
        return None
    a, b = (_double_ranks([marks[each] for each in common]) for marks in (first, second))
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return None if size == 0 else float((a * b).sum()) / size


def _double_ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Twice the rank of each value, less one, exactly: equal values share their mean rank."""
    ranks: NDArray[np.float64] = np.rint(2 * len(values) * rank_shares(np.array(values, dtype=np.float64)))
    return ranks


def _kappa(units: Sequence[GradedUnit], graders: Sequence[str]) -> float | None:
    pairs = [tuple(unit.notes[grader] for grader in graders) for unit in units if len(unit.notes) == len(graders)]
    return quadratic_kappa([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
