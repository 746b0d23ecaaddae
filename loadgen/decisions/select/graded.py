"""The quality of answers by the notes of people or of a judge, in place of that by the key points."""

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from loadgen.decisions.grade.marks import AGREEMENT, Agreement, agreement_of, points_of
from loadgen.decisions.grade.notes import Kind, Note, answer_id, read_notes
from loadgen.decisions.select.policy import Disagreement
from loadgen.decisions.select.runs import SelectRun, StageResult, TimedAnswer
from loadgen.errors import ExitCode, LoadgenError


class DisagreementError(LoadgenError):
    """The graders disagree, so that their notes decide nothing."""

    exit_code = ExitCode.GATE_FAILED


def with_notes(
    runs: Sequence[SelectRun], kind: Kind, disagreement: Disagreement
) -> tuple[tuple[SelectRun, ...], tuple[str, ...]]:
    """The runs with the quality by notes, and what a reader must know of these notes.

    A prompt has a quality if all answers of a candidate to it have a note on every aspect; a request that failed counts
    as 0. Raises DisagreementError if the graders disagree and that is not accepted, and InputError for a damaged file.
    """
    notes = [note for note in read_notes([run.folder for run in runs]) if note.kind == kind]
    agreement = agreement_of(notes)
    if agreement is not None and agreement.disagrees and disagreement == "refuse":
        raise DisagreementError(
            f"--quality {kind}: the graders disagree ({_alpha_text(agreement)}), so these notes decide nothing; grade "
            "together first, or use them all the same with --force"
        )
    points = points_of(notes, list(runs[-1].manifest.scenario.quality.asked_aspects))
    graded = {note.prompt_id for note in notes if note.answer in points}
    changed = tuple(
        msgspec.structs.replace(run, stages=tuple(_with_points(stage, points, graded) for stage in run.stages))
        for run in runs
    )
    return changed, _remarks(notes, agreement, len(graded))


def _with_points(stage: StageResult, points: dict[str, float], graded: set[str]) -> StageResult:
    by_prompt: dict[str, list[float | None]] = {}
    for answer in stage.answers:
        if answer.scored is None or answer.scored.counts:
            by_prompt.setdefault(answer.prompt_id, []).append(_points(answer, points))
    quality = {
        prompt: sum(known) / len(known)
        for prompt, values in by_prompt.items()
        if prompt in graded and len(known := [value for value in values if value is not None]) == len(values)
    }
    return msgspec.structs.replace(stage, quality=quality)


def _points(answer: TimedAnswer, points: dict[str, float]) -> float | None:
    """The points of one answer: 0 if the request failed; None if it has no notes."""
    if answer.text is None:
        return 0.0
    digest = hashlib.sha256(answer.text.encode()).hexdigest()
    return points.get(answer_id(answer.prompt_id, digest))


def _remarks(notes: Iterable[Note], agreement: Agreement | None, prompts: int) -> tuple[str, ...]:
    graders = sorted({note.by for note in notes})
    if not graders:
        return ()
    who = f"quality is by the notes of {', '.join(graders)} on {prompts} prompts"
    return (who if agreement is None else f"{who} ({_alpha_text(agreement)})",)


def _alpha_text(agreement: Agreement) -> str:
    if agreement.alpha is None:
        return "how far they agree is not known"
    interval = "" if agreement.ci is None else f", {agreement.ci[0]:.2f} to {agreement.ci[1]:.2f}"
    text = f"Krippendorff's alpha {agreement.alpha:.2f}{interval}; {AGREEMENT} is the least"
    return text.replace("-", "−")
