"""How far a grading is: who graded how much, and how far the graders agree. Pure."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from loadgen.decisions.grade.marks import AGREEMENT, Agreement, agreement_of
from loadgen.decisions.grade.notes import Kind, Note
from loadgen.decisions.grade.sheet import Sheet

KINDS: Final[dict[Kind, str]] = {"hand": "by hand", "judge": "a judge"}


class Grader(Struct, frozen=True, kw_only=True):
    """What one grader has done."""

    by: str
    kind: Kind
    notes: int
    answers: int
    """How many answers have a note on each aspect."""


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


def status_of(sheet: Sheet, notes: Sequence[Note]) -> GradingStatus:
    """The status of a grading. Notes on other answers, such as those of another sample, do not count."""
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
    )


def status_lines(status: GradingStatus) -> list[str]:
    """The status in words."""
    if not status.graders:
        return [f"no notes yet on the {status.answers} answers to {status.prompts} prompts"]
    lines = [
        f"{grader.by} ({KINDS[grader.kind]}): {grader.answers} of {status.answers} answers graded, {grader.notes} notes"
        for grader in status.graders
    ]
    return [*lines, agreement_line(status.agreement)]


def agreement_line(agreement: Agreement | None) -> str:
    """How far the graders agree, in words."""
    if agreement is None:
        return "agreement: not known; one grader alone has nobody to agree with"
    if agreement.alpha is None:
        return f"agreement: not known; {agreement.units} answers and aspects have notes of two graders"
    interval = "" if agreement.ci is None else f" ({agreement.ci[0]:.2f} to {agreement.ci[1]:.2f})"
    kappa = "" if agreement.kappa is None else f", quadratic kappa {agreement.kappa:.3f}"
    verdict = f"; below {AGREEMENT}: graders disagree: these notes decide nothing yet" if agreement.disagrees else ""
    return f"agreement: Krippendorff's alpha {agreement.alpha:.3f}{interval}{kappa}{verdict}"


def _grader(sheet: Sheet, by: str, kind: Kind, notes: Sequence[Note]) -> Grader:
    noted = {(note.answer, note.aspect) for note in notes}
    graded = sum(all((answer.answer, aspect) in noted for aspect in sheet.aspects) for answer in sheet.answers)
    return Grader(by=by, kind=kind, notes=len(notes), answers=graded)
