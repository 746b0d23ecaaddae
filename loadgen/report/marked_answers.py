"""The answers of a run with their part marks: what says which key point, and what is invented. Pure; no format."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import UNSET, Struct

from loadgen.analysis.quality_types import ScoredAnswer
from loadgen.report.format import format_number, format_percent
from loadgen.report.section import AnswersToPrompt, Fragment, FragmentKind, MarkedAnswer, PointMark, ReportStage

MOST_ANSWERS: Final = 600
"""How many answers a page shows; with more, it would be too large for a browser. The rest is in quality.jsonl."""
LONGEST: Final = 6_000
"""Characters of an answer that are shown."""
FULL: Final = 0.995
"""From this share on, a key point counts as said."""
FORMS: Final = {
    "empty": "empty",
    "refused": "a refusal",
    "wrong_language": "in another language than asked",
    "repeated": "repeats itself",
    "copied": "copied from the prompt",
    "truncated": "cut short by max_tokens",
    "unspaced": "a language without spaces between words, which is not scored",
}
"""The flags of an answer's form, in words."""


class GivenAnswer(Struct, frozen=True):
    """An answer of one stage."""

    stage: str
    text: str
    scored: ScoredAnswer


def answers_by_prompt(stages: Sequence[ReportStage]) -> tuple[AnswersToPrompt, ...]:
    """The different answers to each prompt, in the order of the prompts' first answers, up to `MOST_ANSWERS`."""
    by_prompt: dict[str, dict[str, list[GivenAnswer]]] = {}
    points: dict[str, tuple[str, ...]] = {}
    for given in _given(stages, points):
        by_prompt.setdefault(given.scored.prompt_id, {}).setdefault(given.text, []).append(given)
    room = MOST_ANSWERS
    shown = []
    for prompt_id, texts in by_prompt.items():
        marked = tuple(_marked(given, points[prompt_id]) for given in list(texts.values())[:room])
        room -= len(marked)
        if marked:
            shown.append(AnswersToPrompt(prompt_id, marked))
    return tuple(shown)


def _given(stages: Sequence[ReportStage], points: dict[str, tuple[str, ...]]) -> Iterable[GivenAnswer]:
    """The answers of all stages and runs. points: gets the key points of each prompt."""
    for stage in stages:
        for data in stage.runs:
            texts = {record.index: "" if record.text is UNSET else record.text for record in data.measured}
            for scored in data.scored or ():
                if scored.is_answer and data.scorer is not None:
                    points.setdefault(scored.prompt_id, data.scorer.key_points(scored.prompt_id))
                    yield GivenAnswer(f"{stage.who}, {stage.load}", texts[scored.index], scored)


def _marked(given: Sequence[GivenAnswer], key_points: Sequence[str]) -> MarkedAnswer:
    """One text with its marks. given: all answers that are this text."""
    first = given[0]
    counts = {answer.stage: sum(other.stage == answer.stage for other in given) for answer in given}
    title = "; ".join(stage if count == 1 else f"{stage} ({count} times)" for stage, count in counts.items())
    return MarkedAnswer(
        title=title,
        mark=_mark(first.scored),
        fragments=fragments_of(first.text, first.scored),
        points=tuple(_point(number, text, first.scored) for number, text in enumerate(key_points, start=1)),
    )


def _mark(scored: ScoredAnswer) -> str:
    """The quality in words, and all that lowered it."""
    parts = ["no mark" if scored.quality is None else f"quality {format_number(scored.quality)} of 100"]
    if scored.unsupported:
        invented = "figure or name" if len(scored.unsupported) == 1 else "figures or names"
        parts.append(f"{len(scored.unsupported)} {invented} not in the prompt (× {format_number(scored.supported)})")
    return "; ".join((*parts, *(FORMS.get(flag, flag) for flag in scored.flags)))


def _point(number: int, text: str, scored: ScoredAnswer) -> PointMark:
    covered, mentioned = scored.covered[number - 1], scored.mentioned[number - 1]
    if covered >= FULL:
        return PointMark(number, text, "", "said")
    if covered:
        return PointMark(number, text, format_percent(covered), "partly")
    why = "mentioned, but a figure or a name is missing, or stands with something else" if mentioned else "not said"
    return PointMark(number, text, why, "missing")


def fragments_of(text: str, scored: ScoredAnswer) -> tuple[Fragment, ...]:
    """A text cut at its marks. Joined again, the fragments are the text, up to `LONGEST` characters."""
    said = [
        (place, str(number))
        for number, (place, covered) in enumerate(zip(scored.places, scored.covered, strict=True), start=1)
        if place is not None and covered
    ]
    shown = text[:LONGEST]
    spans = [place for place, _ in said] + list(scored.unsupported)
    cuts = sorted({0, len(shown), *(at for span in spans for at in span if at < len(shown))})
    fragments: list[Fragment] = []
    for start, end in itertools.pairwise(cuts):
        kind = _kind(start, said, scored)
        label = ", ".join(number for place, number in said if place[1] == end)
        fragments.append(Fragment(_readable(shown[start:end]), kind, label))
    return (*fragments, *((Fragment("…", "plain"),) if len(text) > LONGEST else ()))


def _kind(at: int, said: Sequence[tuple[tuple[int, int], str]], scored: ScoredAnswer) -> FragmentKind:
    if any(start <= at < end for start, end in scored.unsupported):
        return "invented"
    return "said" if any(start <= at < end for (start, end), _ in said) else "plain"


def _readable(text: str) -> str:
    """A text with line feeds as its only control characters."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
