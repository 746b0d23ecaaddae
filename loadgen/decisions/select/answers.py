"""The answers of all candidates side by side, with their part marks, as tables. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from loadgen.analysis.quality_types import ScoredAnswer
from loadgen.decisions.candidates.runs import TimedAnswer
from loadgen.decisions.grade.notes import Kind, Note
from loadgen.decisions.select.decide import SelectionData
from loadgen.decisions.select.graded import id_of
from loadgen.decisions.select.known import KnownCandidate
from loadgen.report.format import UNKNOWN, format_number
from loadgen.report.section import Column, Row, Table

MOST_PROMPTS: Final = 200
"""How many prompts a page shows; with more, it would be too large for a browser."""
MOST_TEXTS: Final = 3
"""How many different answers of a candidate to one prompt are shown."""
LONGEST_QUOTE: Final = 160
LONGEST_ANSWER: Final = 10_000
"""How many characters of an answer are shown."""
GRADED: Final[dict[Kind, str]] = {"hand": "notes by hand (1 to 5)", "judge": "notes by a judge (1 to 5)"}
COVERED: Final = 0.995
"""From this share on, a key point counts as covered as a whole."""


class ShownAnswer(Struct, frozen=True):
    """One text of a candidate for one prompt, and how many of its answers are this text."""

    answer: TimedAnswer
    count: int
    of: int


def answers_to(known: KnownCandidate, prompt_id: str) -> list[ShownAnswer]:
    """The different answers of a candidate to a prompt, the most frequent first."""
    own = [answer for stage in known.stages for answer in stage.answers if answer.prompt_id == prompt_id]
    counts = Counter(answer.text for answer in own)
    first: dict[str | None, TimedAnswer] = {}
    for answer in own:
        first.setdefault(answer.text, answer)
    return [ShownAnswer(first[text], count, len(own)) for text, count in counts.most_common(MOST_TEXTS)]


def prompts_by_spread(data: SelectionData) -> list[str]:
    """The prompts with answers, those with the largest difference of quality between candidates first."""
    known = [each for each in data.known if each.values is not None]

    def spread(prompt_id: str) -> tuple[float, str]:
        own = [each.values.quality[prompt_id] for each in known if each.values and prompt_id in each.values.quality]
        return (min(own) - max(own) if own else 0.0), prompt_id

    prompts = {prompt for each in known if each.values is not None for prompt in each.values.prompts}
    return sorted(prompts, key=spread)


def three_prompts(data: SelectionData) -> list[str]:
    """The prompt that differs most between candidates, one in the middle, and the one that differs least."""
    ordered = prompts_by_spread(data)
    places = dict.fromkeys((0, len(ordered) // 2, len(ordered) - 1))
    return [ordered[at] for at in places] if ordered else []


def answers_table(data: SelectionData, prompt_id: str) -> Table:
    """The answers of all candidates to one prompt: a column for each candidate, then the marks of each key point."""
    names = [row.name for row in data.selection.candidates]
    known = {each.name: each for each in data.known}
    shown = [answers_to(known[name], prompt_id) for name in names]
    columns = (Column(prompt_id, "prose"), *(Column(name, "prose") for name in names))
    first = [each[0].answer.scored if each else None for each in shown]
    rows = [Row(("quality", *(_quality(scored) for scored in first)))]
    rows.append(Row(("answer", *(_text(each) for each in shown))))
    for place, point in enumerate(data.key_points.get(prompt_id, ())):
        rows.append(Row((point, *(_mark(each, place) for each in shown))))
    rows.append(Row(("not in the prompt", *(_unsupported(each) for each in shown))))
    rows.append(Row(("form", *(_form(scored) for scored in first))))
    for kind, title in GRADED.items():
        own = [note for note in data.notes.of(kind) if note.prompt_id == prompt_id]
        rows.append(Row((title, *(_notes(each, own, data.notes.aspects) for each in shown))))
    return Table(columns, tuple(row for row in rows if any(cell not in ("", UNKNOWN) for cell in row.cells[1:])))


def _quality(scored: ScoredAnswer | None) -> str:
    return UNKNOWN if scored is None else format_number(scored.quality)


def _text(shown: Sequence[ShownAnswer]) -> str:
    """The texts of one candidate; with more than one, how many of its answers each is."""
    if not shown:
        return UNKNOWN
    parts = []
    for each in shown:
        text = (
            "(no answer)" if each.answer.text is None else _shortened(" ".join(each.answer.text.split())) or "(empty)"
        )
        parts.append(text if len(shown) == 1 else f"[{each.count} of {each.of}] {text}")
    return " · ".join(parts)


def _shortened(text: str) -> str:
    more = len(text) - LONGEST_ANSWER
    return text if more <= 0 else f"{text[:LONGEST_ANSWER]}… ({more:,} more characters are in the run folder)"


def _notes(shown: Sequence[ShownAnswer], notes: Iterable[Note], aspects: Sequence[str]) -> str:
    """The notes on an answer, by aspect: the mean of its graders."""
    answer = id_of(shown[0].answer) if shown else None
    by_aspect: dict[str, list[int]] = {}
    for note in notes:
        if note.answer == answer:
            by_aspect.setdefault(note.aspect, []).append(note.note)
    means = {aspect: math.fsum(each) / len(each) for aspect, each in by_aspect.items()}
    return ", ".join(f"{aspect} {means[aspect]:.3g}" for aspect in aspects if aspect in means)


def _mark(shown: Sequence[ShownAnswer], place: int) -> str:
    """Whether the answer says a key point, and where."""
    scored = shown[0].answer.scored if shown else None
    if scored is None or place >= len(scored.covered):
        return UNKNOWN
    covered, mentioned = scored.covered[place], scored.mentioned[place]
    if covered >= COVERED:
        return f"✓{_place(shown[0], place)}"
    if covered > 0:
        return f"{100 * covered:.0f} %{_place(shown[0], place)}"
    return f"✗ mentioned, with a figure or a name missing{_place(shown[0], place)}" if mentioned > 0 else "✗"


def _place(shown: ShownAnswer, place: int) -> str:
    scored = shown.answer.scored
    span = None if scored is None or place >= len(scored.places) else scored.places[place]
    return "" if span is None else f" “{_quote(shown.answer.text, span)}”"


def _quote(text: str | None, span: tuple[int, int]) -> str:
    quote = " ".join((text or "")[span[0] : span[1]].split())
    return quote if len(quote) <= LONGEST_QUOTE else f"{quote[: LONGEST_QUOTE - 1]}…"


def _unsupported(shown: Sequence[ShownAnswer]) -> str:
    scored = shown[0].answer.scored if shown else None
    if scored is None or not scored.unsupported:
        return ""
    return ", ".join(dict.fromkeys(_quote(shown[0].answer.text, span) for span in scored.unsupported))


def _form(scored: ScoredAnswer | None) -> str:
    return "" if scored is None else ", ".join(flag.replace("_", " ") for flag in scored.flags)


def shown_prompts(data: SelectionData) -> Iterable[str]:
    """The prompts whose answers a page shows, in the order of the plan."""
    asked = {prompt for each in data.known if each.values is not None for prompt in each.values.prompts}
    return [prompt for prompt in data.key_points if prompt in asked][:MOST_PROMPTS]
