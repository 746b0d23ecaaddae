"""How far a grading is: who graded how much, and how far the graders agree. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from loadgen.decisions.grade.judges_file import Judging
from loadgen.decisions.grade.notes import Kind, Note
from loadgen.decisions.grade.points import (
    AGREEMENT,
    Agreement,
    PeopleAgreement,
    agreement_of,
    agreement_with_people,
)
from loadgen.decisions.grade.sheet import Sheet
from loadgen.report.format import format_count

DISAGREE: Final = "graders disagree: these notes decide nothing yet"
KINDS: Final[dict[Kind, str]] = {"hand": "by hand", "judge": "a judge"}


class Grader(Struct, frozen=True, kw_only=True):
    """What one grader has done."""

    by: str
    kind: Kind
    notes: int
    answers: int
    """How many answers have a note on each aspect."""


class JudgeStatus(Struct, frozen=True, kw_only=True):
    """How far one judge can be trusted."""

    by: str
    with_people: PeopleAgreement | None
    """None: nobody graded the same answers by hand."""
    judging: Judging | None
    """None: it is not known how its notes came about."""


class GradingStatus(Struct, frozen=True, kw_only=True):
    """How far the grading of some runs is."""

    graders: tuple[Grader, ...]
    answers: int
    """How many answers the sheet has."""
    prompts: int
    notes: int
    """How many notes count, on answers of the sheet."""
    agreement: Agreement | None
    """Of the people; None: fewer than two graded."""
    judges: tuple[JudgeStatus, ...]


def status_of(sheet: Sheet, notes: Sequence[Note], judgings: Mapping[str, Judging]) -> GradingStatus:
    """The status of a grading. Notes on other answers, such as those of another sample, do not count.

    judgings: by grader.
    """
    listed = {answer.answer for answer in sheet.answers}
    own = [note for note in notes if note.answer in listed and note.aspect in sheet.aspects]
    graders = sorted({(note.kind, note.by) for note in own})
    return GradingStatus(
        graders=tuple(
            _grader(sheet, by, kind, [note for note in own if (note.kind, note.by) == (kind, by)])
            for kind, by in graders
        ),
        answers=len(sheet.answers),
        prompts=len(sheet.prompts),
        notes=len(own),
        agreement=agreement_of(note for note in own if note.kind == "hand"),
        judges=tuple(
            JudgeStatus(
                by=by, with_people=agreement_with_people(own, by, list(sheet.aspects)), judging=judgings.get(by)
            )
            for kind, by in graders
            if kind == "judge"
        ),
    )


def status_lines(status: GradingStatus) -> list[str]:
    """The status in words."""
    if not status.graders:
        return [f"no notes yet on the {status.answers} answers to {status.prompts} prompts"]
    lines = [
        f"{grader.by} ({KINDS[grader.kind]}): {grader.answers} of {status.answers} answers graded, {grader.notes} notes"
        for grader in status.graders
    ]
    judges = [f"{judge.by}: {people_text(judge.with_people)}" for judge in status.judges]
    return [*lines, agreement_line(status.agreement), *judges]


def people_text(agreement: PeopleAgreement | None) -> str:
    """How far a judge agrees with people, in words."""
    if agreement is None:
        return "not compared with people"
    alpha = "not known" if agreement.alpha is None else f"{agreement.alpha:.3f}{_interval_text(agreement.ci)}"
    rank = "not known" if agreement.spearman is None else f"{agreement.spearman:.2f}"
    text = f"with people: Krippendorff's alpha {alpha}, Spearman {rank}, on {agreement.answers} answers"
    return text.replace("-", "−")


def agreement_text(agreement: Agreement) -> str:
    """Krippendorff's alpha with its interval, kappa if there is one, and on how many answers; alpha must be known."""
    assert agreement.alpha is not None
    kappa = "" if agreement.kappa is None else f", quadratic kappa {agreement.kappa:.3f}"
    text = f"Krippendorff's alpha {agreement.alpha:.3f}{_interval_text(agreement.ci)}{kappa}"
    answers = format_count(agreement.answers, "answer")
    return f"{text.replace('-', '−')}, on {answers} with notes of two graders or more"


def least_text(agreement: Agreement) -> str:
    """The least alpha with which notes decide, and whether more notes may come to the other side of it."""
    least = f"{AGREEMENT} is the least"
    if agreement.disagrees:
        return f"{least}, and the true alpha may be above it" if agreement.may_agree else least
    return f"{least}, and the true alpha may be below it" if agreement.may_disagree else least


def _interval_text(ci: tuple[float, float] | None) -> str:
    if ci is None:
        return " (95 % interval unknown: too few answers, or all notes too alike)"
    return f" (95 % interval {ci[0]:.2f} to {ci[1]:.2f})"


def agreement_line(agreement: Agreement | None) -> str:
    """How far the graders agree, in words."""
    if agreement is None:
        return "agreement: not known; one grader alone has nobody to agree with"
    if agreement.alpha is None:
        return f"agreement: not known; {agreement.units} answers and aspects have notes of two graders"
    verdict = f"; {DISAGREE}" if agreement.disagrees else ""
    return f"agreement: {agreement_text(agreement)}; {least_text(agreement)}{verdict}"


def _grader(sheet: Sheet, by: str, kind: Kind, notes: Sequence[Note]) -> Grader:
    noted = {(note.answer, note.aspect) for note in notes}
    graded = sum(all((answer.answer, aspect) in noted for aspect in sheet.aspects) for answer in sheet.answers)
    return Grader(by=by, kind=kind, notes=len(notes), answers=graded)
