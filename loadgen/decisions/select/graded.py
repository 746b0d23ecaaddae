"""The notes of people and of judges on the answers of a selection: whose count, what they say of each candidate, and
how far the graders agree. Pure, but for reading the notes of the runs."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from loadgen.decisions.candidates.candidate import Candidate, candidates_of, is_candidate
from loadgen.decisions.candidates.runs import SelectRun, StageResult, TimedAnswer
from loadgen.decisions.grade.judges_file import Judging, judge_of, read_judgings
from loadgen.decisions.grade.notes import Kind, Note, answer_id, read_notes
from loadgen.decisions.grade.points import (
    agreement_of,
    agreement_with_people,
    points_by_prompt,
    points_of,
)
from loadgen.decisions.grade.status import DISAGREE, agreement_text, least_text, people_text
from loadgen.decisions.select.candidate_values import quality_with_interval
from loadgen.decisions.select.known import KnownCandidate
from loadgen.decisions.select.policy import Disagreement
from loadgen.decisions.select.selection import GradedQuality, GradedRow
from loadgen.errors import ExitCode, InputError, LoadgenError
from loadgen.report.format import format_count
from loadgen.scenario.policy import QualityBy

KINDS: Final[tuple[Kind, ...]] = ("hand", "judge")
SELF_JUDGED: Final = "it is one of the candidates"


class DisagreementError(LoadgenError):
    """The graders disagree, so that their notes decide nothing."""

    exit_code = ExitCode.GATE_FAILED


class UsedNotes(Struct, frozen=True, kw_only=True):
    """The notes of some runs that count."""

    notes: tuple[Note, ...]
    aspects: tuple[str, ...]
    """What was asked."""
    left_out: dict[str, str]
    """Judges whose notes do not count, with the reason."""

    def of(self, kind: Kind) -> list[Note]:
        """The notes of one kind."""
        return [note for note in self.notes if note.kind == kind]


def notes_of(runs: Sequence[SelectRun]) -> UsedNotes:
    """The notes of the runs. Those of a judge that is one of the candidates do not count. Raises InputError for a file
    that is damaged."""
    folders = [run.folder for run in runs]
    aspects = tuple(runs[-1].manifest.scenario.quality.asked_aspects)
    notes = [note for note in read_notes(folders) if note.aspect in aspects]
    judges = {note.by for note in notes if note.kind == "judge"}
    judgings, candidates = read_judgings(folders), candidates_of(runs)
    left_out = {by: SELF_JUDGED for by in sorted(judges) if _judges_itself(by, judgings.get(by), candidates)}
    used = tuple(note for note in notes if note.kind == "hand" or note.by not in left_out)
    return UsedNotes(notes=used, aspects=aspects, left_out=left_out)


def _judges_itself(by: str, judging: Judging | None, candidates: Sequence[Candidate]) -> bool:
    """Whether a judge is one of the candidates, or was one of those whose answers it graded."""
    if judging is None:
        return is_candidate(judge_of(by), candidates)
    return judging.self_judged or is_candidate(judging.model, candidates)


def with_notes(
    runs: Sequence[SelectRun], notes: UsedNotes, kind: Kind, disagreement: Disagreement
) -> tuple[SelectRun, ...]:
    """The runs with the quality by notes.

    A prompt has a quality if all answers of every candidate to it, at the level of the stage, have a note on every
    aspect; a request that failed counts as 0. Raises InputError if there are no notes of that kind, and
    DisagreementError if the graders disagree and that is not accepted.
    """
    own = notes.of(kind)
    if not own and not notes.left_out:
        task = {
            "hand": "give some with loadgen grade RUN --by NAME",
            "judge": "ask for some with loadgen grade --judge",
        }
        raise InputError(f"--quality {kind}: the runs have no such notes; {task[kind]}")
    agreement = agreement_of(own)
    if agreement is not None and agreement.disagrees and disagreement == "refuse":
        remedy = "grade more of the same answers" if agreement.may_agree else "grade together first"
        raise DisagreementError(
            f"--quality {kind}: {DISAGREE} ({agreement_text(agreement)}; {least_text(agreement)}); {remedy}, or use "
            "them all the same with --force"
        )
    points = points_of(own, notes.aspects)
    graded = {note.prompt_id for note in own if note.answer in points}
    changed = [
        msgspec.structs.replace(run, stages=tuple(_with_points(stage, points, graded) for stage in run.stages))
        for run in runs
    ]
    candidates = candidates_of(changed)
    common = {
        level: set.intersection(
            *(
                {prompt for stage in candidate.at(level) for prompt in stage.quality}
                for candidate in candidates
                if level in candidate.levels
            )
        )
        for level in {level for candidate in candidates for level in candidate.levels}
    }
    return tuple(
        msgspec.structs.replace(
            run, stages=tuple(_of_prompts(stage, common.get(stage.level, set())) for stage in run.stages)
        )
        for run in changed
    )


def _of_prompts(stage: StageResult, prompts: set[str]) -> StageResult:
    quality = {prompt: value for prompt, value in stage.quality.items() if prompt in prompts}
    return msgspec.structs.replace(stage, quality=quality)


def _with_points(stage: StageResult, points: Mapping[str, float], graded: set[str]) -> StageResult:
    by_prompt: dict[str, list[float | None]] = {}
    for answer in _counting([stage]):
        number = id_of(answer)
        by_prompt.setdefault(answer.prompt_id, []).append(0.0 if number is None else points.get(number))
    quality = {
        prompt: sum(known) / len(known)
        for prompt, values in by_prompt.items()
        if prompt in graded and len(known := [value for value in values if value is not None]) == len(values)
    }
    return msgspec.structs.replace(stage, quality=quality)


def graded_rows(notes: UsedNotes, known: Sequence[KnownCandidate], quality_by: QualityBy) -> tuple[GradedRow, ...]:
    """What the notes of each kind say of the candidates; empty without notes."""
    return tuple(_row(notes, kind, known, quality_by) for kind in KINDS if notes.of(kind))


def _row(notes: UsedNotes, kind: Kind, known: Sequence[KnownCandidate], quality_by: QualityBy) -> GradedRow:
    own = notes.of(kind)
    answers: dict[str, dict[str, list[str | None]]] = {}
    for each in known:
        by_prompt: dict[str, list[str | None]] = {}
        for answer in _counting(each.stages):
            by_prompt.setdefault(answer.prompt_id, []).append(id_of(answer))
        if by_prompt:
            answers[each.name] = by_prompt
    points = points_by_prompt(points_of(own, notes.aspects), answers)
    graders = sorted({note.by for note in own})
    return GradedRow(
        kind=kind,
        decides=kind == quality_by,
        graders=tuple(graders),
        prompts=min((len(by_prompt) for by_prompt in points.values()), default=0),
        agreement=agreement_of(own),
        with_people={by: agreement_with_people(notes.notes, by, notes.aspects) for by in graders if kind == "judge"},
        quality={each.name: _quality(points[each.name], each) for each in known if points.get(each.name)},
    )


def _quality(points: Mapping[str, float], known: KnownCandidate) -> GradedQuality:
    mean, interval = quality_with_interval(np.array(list(points.values())))
    marks = [
        answer.scored.quality
        for answer in _counting(known.stages)
        if answer.prompt_id in points and answer.scored is not None and answer.scored.quality is not None
    ]
    return GradedQuality(
        value=_short(mean),
        ci=None if interval is None else (_short(interval[0]), _short(interval[1])),
        n=len(points),
        key_points=_short(math.fsum(marks) / len(marks)) if marks else None,
    )


def _short(value: float) -> float:
    """As all numbers of a selection: six significant digits."""
    return float(f"{value:.6g}")


def id_of(answer: TimedAnswer) -> str | None:
    """The id by which an answer is graded; None if there is no text."""
    if answer.text is None:
        return None
    return answer_id(answer.prompt_id, hashlib.sha256(answer.text.encode()).hexdigest())


def _counting(stages: Iterable[StageResult]) -> list[TimedAnswer]:
    """The answers that say something about the model: not those that we cancelled."""
    return [answer for stage in stages for answer in stage.answers if answer.scored is None or answer.scored.counts]


def graded_lines(row: GradedRow) -> list[str]:
    """Who graded, on how many prompts, and how far they agree, in words."""
    who = {"hand": "by hand", "judge": "by a judge"}[row.kind]
    verb = "quality is by" if row.decides else f"graded {who}:"
    agreement = row.agreement
    if agreement is None:
        text = ""
    elif agreement.alpha is None:
        text = " (how far they agree is not known)"
    else:
        low = "graders disagree, and their notes count by --force" if row.decides else DISAGREE
        verdict = f"; {low}" if agreement.disagrees else ""
        text = f" ({agreement_text(agreement)}; {least_text(agreement)}{verdict})"
    lines = [f"{verb} the notes of {', '.join(row.graders)} on {format_count(row.prompts, 'prompt')}{text}"]
    return [*lines, *(f"{by}: {people_text(agreement)}" for by, agreement in row.with_people.items())]


def left_out_lines(notes: UsedNotes) -> list[str]:
    return [f"the notes of {by} do not count: {reason}" for by, reason in notes.left_out.items()]
