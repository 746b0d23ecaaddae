"""The sheet of a grading: which answers are graded, and in which order. Which model gave it is hidden."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from loadgen.decisions.candidates.candidate import Candidate, candidates_of, compared_levels_of
from loadgen.decisions.candidates.runs import SelectRun, TimedAnswer
from loadgen.decisions.grade.notes import answer_id
from loadgen.errors import InputError
from loadgen.plan import rng
from loadgen.store import run_folder
from loadgen.store.run_folder import SentPrompt

SAMPLE: Final = 8
"""The number of prompts whose answers are graded, unless another is asked for."""


class SheetAnswer(Struct, frozen=True):
    """An answer to grade."""

    answer: str
    """Its id: see `answer_id`."""
    prompt: SentPrompt
    text: str
    text_sha256: str
    folders: tuple[Path, ...]
    """The folders of the runs in which it was given."""


class Sheet(Struct, frozen=True, kw_only=True):
    """The answers to grade, and what is asked about each."""

    run_ids: tuple[str, ...]
    aspects: dict[str, str]
    """What is asked: the aspects, each with what it asks."""
    prompts: tuple[SentPrompt, ...]
    """The prompts that were drawn, in the order of the runs."""
    answers: tuple[SheetAnswer, ...]
    """Each once, by prompt and id."""
    by_candidate: dict[str, dict[str, tuple[str | None, ...]]]
    """By candidate and prompt, the ids of its answers; None: the request failed."""

    def order_for(self, grader: str) -> tuple[SheetAnswer, ...]:
        """The answers in the order in which a grader reads them: prompts shuffled, and the answers to each shuffled.
        The answers to one prompt follow each other, so that its text is read once."""
        generator = rng.generator(0, "grade", *self.run_ids, grader)
        prompts = generator.permutation(len(self.prompts))
        place_of = {prompt.id: place for prompt, place in zip(self.prompts, prompts, strict=True)}
        shuffled = [self.answers[place] for place in generator.permutation(len(self.answers))]
        return tuple(sorted(shuffled, key=lambda answer: place_of[answer.prompt.id]))


def sheet_of(runs: Sequence[SelectRun], sample: int = SAMPLE) -> Sheet:
    """The sheet of some runs: the answers of every candidate to a sample of the prompts, at the level of a selection.

    The sample is drawn by the ids of the runs, so that it is the same for all graders and candidates. Raises InputError
    if the runs kept no texts, or grade by different aspects.
    """
    prompts = {prompt.id: prompt for prompt in prompts_of(runs)}
    candidates = candidates_of(runs)
    levels = compared_levels_of(candidates, None)
    if levels is None:
        raise InputError(f"{_names(runs)}: no model has a valid stage, so there is no answer to grade")
    compared = [candidate for candidate in candidates if levels.of_answers in candidate.levels]
    answers, by_candidate = _answers(compared, levels.of_answers, prompts, {run.run_id: run.folder for run in runs})
    common = set.intersection(*(set(each) for each in by_candidate.values()))
    drawn = _sample([prompt for prompt in prompts.values() if prompt.id in common], sample, runs)
    drawn_ids = {prompt.id for prompt in drawn}
    return Sheet(
        run_ids=tuple(run.run_id for run in runs),
        aspects=_aspects(runs),
        prompts=drawn,
        answers=tuple(answer for answer in answers if answer.prompt.id in drawn_ids),
        by_candidate={
            name: {prompt: ids for prompt, ids in each.items() if prompt in drawn_ids}
            for name, each in by_candidate.items()
        },
    )


def _answers(
    candidates: Iterable[Candidate], level: str, prompts: Mapping[str, SentPrompt], folders: Mapping[str, Path]
) -> tuple[list[SheetAnswer], dict[str, dict[str, tuple[str | None, ...]]]]:
    """The answers of some candidates at a level, each once, and by candidate and prompt the ids of its answers."""
    answers: dict[str, SheetAnswer] = {}
    by_candidate: dict[str, dict[str, tuple[str | None, ...]]] = {}
    for candidate in candidates:
        ids: dict[str, list[str | None]] = {}
        for folder, given in _given(candidate, level, folders):
            if given.prompt_id not in prompts or not (given.scored is None or given.scored.counts):
                continue
            answer = None
            if given.text is not None:
                digest = hashlib.sha256(given.text.encode()).hexdigest()  # as `text_sha256` of its record
                answer = answer_id(given.prompt_id, digest)
                places = {folder, *(answers[answer].folders if answer in answers else ())}
                answers[answer] = SheetAnswer(
                    answer, prompts[given.prompt_id], given.text, digest, tuple(sorted(places))
                )
            ids.setdefault(given.prompt_id, []).append(answer)
        by_candidate[candidate.name] = {prompt: tuple(each) for prompt, each in ids.items()}
    order = {prompt: place for place, prompt in enumerate(prompts)}
    return sorted(answers.values(), key=lambda each: (order[each.prompt.id], each.answer)), by_candidate


def _given(candidate: Candidate, level: str, folders: Mapping[str, Path]) -> Iterator[tuple[Path, TimedAnswer]]:
    """The answers of a candidate at a level, each with the folder of its run."""
    for run_id, stages in zip(candidate.run_ids, candidate.runs, strict=True):
        for stage in stages:
            if stage.level == level and stage.invalid_because is None:
                yield from ((folders[run_id], answer) for answer in stage.answers)


def prompts_of(runs: Sequence[SelectRun]) -> tuple[SentPrompt, ...]:
    """The prompts of the runs. The runs compare, so that an id has the same text in each. Raises InputError if they
    were not kept."""
    prompts = {prompt.id: prompt for run in runs for prompt in run_folder.read(run.folder).prompts}
    if not prompts:
        hint = "play with keep_text = true (--set keep_text=true), which keeps prompts and answers"
        raise InputError(f"{_names(runs)}: the texts of the answers were not kept, so they cannot be graded; {hint}")
    return tuple(prompts.values())


def _aspects(runs: Sequence[SelectRun]) -> dict[str, str]:
    first, *others = (run.manifest.scenario.quality.asked_aspects for run in runs)
    for run, other in zip(runs[1:], others, strict=True):
        if other != first:
            raise InputError(f"{runs[0].folder} and {run.folder} are graded by different aspects; grade them apart")
    return first


def _sample(prompts: Sequence[SentPrompt], size: int, runs: Sequence[SelectRun]) -> tuple[SentPrompt, ...]:
    if len(prompts) <= size:
        return tuple(prompts)
    drawn = rng.generator(0, "grade-sample", *(run.run_id for run in runs)).permutation(len(prompts))[:size]
    return tuple(prompts[place] for place in sorted(drawn))


def _names(runs: Iterable[SelectRun]) -> str:
    return ", ".join(str(run.folder) for run in runs)
