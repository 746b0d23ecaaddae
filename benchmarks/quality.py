"""How well the scorer tells good summaries from worse ones, in three styles and fourteen ways to be worse.

    python -m benchmarks.quality [--cases] [--write]

Each folder of FOLDERS has TOML files, one for each style, with a good summary of each meeting. A case is a good summary
of one style and a degraded one of another, as two models would give: it is right if the good one has the higher mark.
`--cases` prints the cases that are wrong; `--write` puts the tables into docs/quality.md. Ends with exit code 1 if a
target is missed.
"""

import argparse
import random
import re
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from benchmarks.tables import write_between
from loadgen.analysis.quality import verdict_of
from loadgen.analysis.scorer.answer_score import Rubric, rubric_of, score
from loadgen.analysis.scorer.vocabulary import CALENDAR, MONTHS, WEEKDAYS
from loadgen.stats.mean import mean_interval

HERE: Final = Path(__file__).parent
MEETINGS: Final = HERE.parent / "scenarios" / "prompts"
FOLDERS: Final = {
    "written first": HERE / "summaries",
    "written later": HERE / "summaries" / "later",
    "of other meetings": HERE / "summaries" / "other_meetings",
}
"""By when they were written: the second and third after the scorer's rules, so that they show whether these fit more
than the first."""
PAGE: Final = HERE.parent / "docs" / "quality.md"
BEGIN: Final = "<!-- made by benchmarks/quality.py: begin -->"
END: Final = "<!-- made by benchmarks/quality.py: end -->"
LOAD_BEGIN: Final = "<!-- made by benchmarks/quality.py, load: begin -->"
LOAD_END: Final = "<!-- made by benchmarks/quality.py, load: end -->"
TEMPLATE: Final = "Summarize this meeting: what was decided, who does what, by when.\n\n"
"""As in the scenario `summarizer`."""
MIN_MEAN: Final = 0.97
MIN_WAY: Final = 0.90
MAX_STYLES_APART: Final = 8.0
MAX_MS: Final = 15.0
_WORDS: Final = "two three four five six seven eight nine ten eleven twelve thirteen fourteen twenty fifty sixty ninety"
_NUMBER: Final = re.compile(rf"\d+(?:[.,:/]\d+)*|\b(?:{_WORDS.replace(' ', '|')})\b")
_MONTHS: Final = frozenset(name for name, month in CALENDAR.items() if month in MONTHS)
_DATE: Final = re.compile(
    rf"\b(?:{'|'.join(name.capitalize() for name in sorted(CALENDAR) if not name.startswith('weekend'))})\b"
)
_NOBODY: Final = frozenset(("Backlog", "Costumes", "Headsets", "Hours", "Props", "Seeds", "Vote", "Weekends"))
"""Labels in the transcripts that name no person."""
_GERMAN: Final = (
    "Die Runde hat über die offenen Punkte gesprochen und sich auf die nächsten Schritte geeinigt. Jeder von uns "
    "kümmert sich um seine Aufgabe, und wir sehen uns in der nächsten Woche mit den Ergebnissen wieder."
)
_VAGUE: Final = (
    "The team met and talked about several open issues. Some decisions were taken, people agreed on who takes care of "
    "what, and there are deadlines for most of it. Further details will follow after the next meeting."
)


class Meeting(Struct, frozen=True):
    """A meeting with its good summaries."""

    id: str
    text: str
    key_points: tuple[str, ...]
    good: dict[str, str]
    """By style."""
    rubric: Rubric

    @property
    def people(self) -> tuple[str, ...]:
        """Who may be mistaken for whom: the names in the key points, and who speaks in the transcript."""
        speakers = re.findall(
            r"^(?:- )?(?:Mr |Mrs |Ms |Dr |Prof\. )?([A-Z]\w+)(?: \(\w[^)]*\))?:", self.text, re.MULTILINE
        )
        titled = re.findall(r"(?:Mr|Mrs|Ms|Dr) ([A-Z]\w+)", self.text)
        lower = [] if speakers else ["Samira", "Leo", "Piet"]
        return tuple(name for name in dict.fromkeys([*speakers, *titled, *lower]) if name not in _NOBODY)


class Case(Struct, frozen=True):
    """A good summary beside a degraded one of another style."""

    way: str
    meeting: str
    good_style: str
    bad_style: str
    good: float
    bad: float

    @property
    def is_right(self) -> bool:
        return self.good > self.bad


def parts_of(text: str) -> list[str]:
    """The items, sentences or clauses that a summary consists of."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        return [f"{line}\n" for line in lines]
    sentences = re.split(r"(?<=[.;])\s+(?=[A-Z])", text.strip())
    if len(sentences) > 2:
        return [f"{sentence} " for sentence in sentences]
    return [part for part in re.split(r"(?<=[,;]) |(?= and | while )", text.strip()) if part]


def _overlap(part: str, point: str) -> int:
    def words(text: str) -> set[str]:
        return {word[:5] for word in re.findall(r"\w+", text.lower()) if len(word) > 2 or word.isdigit()}

    return len(words(part) & words(point))


def drop_points(meeting: Meeting, text: str, dropped: Sequence[str]) -> str:
    """A summary without the parts that say some key points."""
    parts = parts_of(text)
    gone = {max(range(len(parts)), key=lambda at: _overlap(parts[at], point)) for point in dropped}
    rest = [part for at, part in enumerate(parts) if at not in gone]
    return "".join(part if part.endswith(("\n", " ")) else f"{part} " for part in rest).strip()


def half_dropped(meeting: Meeting, text: str, rng: random.Random) -> str:
    return drop_points(meeting, text, rng.sample(meeting.key_points, (len(meeting.key_points) + 1) // 2))


def one_dropped(meeting: Meeting, text: str, rng: random.Random) -> str:
    return drop_points(meeting, text, [rng.choice(meeting.key_points)])


def numbers_mixed(_: Meeting, text: str, __: random.Random) -> str:
    """The numbers of the summary, each in the place of the one before."""
    numbers = _NUMBER.findall(text)
    turned = iter(numbers[1:] + numbers[:1])
    return _NUMBER.sub(lambda _: next(turned), text)


def numbers_invented(_: Meeting, text: str, rng: random.Random) -> str:
    def other(match: re.Match[str]) -> str:
        if match[0].isalpha():
            return rng.choice([word for word in _WORDS.split() if word != match[0]])
        while (changed := re.sub(r"\d", lambda _: str(rng.randint(1, 9)), match[0])) == match[0]:
            pass
        return changed

    return _NUMBER.sub(other, text)


def dates_shifted(_: Meeting, text: str, __: random.Random) -> str:
    """Each month and weekday of the summary, two later."""

    def later(match: re.Match[str]) -> str:
        names = MONTHS if match[0].lower() in _MONTHS else WEEKDAYS
        at = names.index(CALENDAR[match[0].lower()])
        return names[(at + 2) % len(names)].capitalize()

    return _DATE.sub(later, text)


def owners_mixed(meeting: Meeting, text: str, _: random.Random) -> str:
    """The people of the summary, each in the place of another; if there is one, somebody else of the meeting."""
    named = [name for name in meeting.people if re.search(rf"\b{name}\b", text)]
    others = [name for name in meeting.people if name not in named]
    turned = named[1:] + named[:1] if len(named) > 1 else others[:1]
    change = dict(zip(named, turned, strict=False))
    return re.sub(r"\b\w+\b", lambda match: change.get(match[0], match[0]), text)


def cut_at_40_percent(_: Meeting, text: str, __: random.Random) -> str:
    return text[: round(0.4 * len(text))]


def first_lines_copied(meeting: Meeting, text: str, _: random.Random) -> str:
    return " ".join(meeting.text.split()[: len(text.split())])


def one_line_repeated(_: Meeting, text: str, __: random.Random) -> str:
    parts = parts_of(text)
    return parts[0] * len(parts)


def words_in_random_order(_: Meeting, text: str, rng: random.Random) -> str:
    words = text.split()
    rng.shuffle(words)
    return " ".join(words)


Degrade = Callable[[Meeting, str, random.Random], str]
WAYS: Final[Mapping[str, Degrade]] = {
    "half of the points dropped": half_dropped,
    "one point dropped": one_dropped,
    "numbers of the same meeting mixed up": numbers_mixed,
    "numbers invented": numbers_invented,
    "months and weekdays shifted": dates_shifted,
    "owners mixed up": owners_mixed,
    "cut at 40 %": cut_at_40_percent,
    "first lines copied": first_lines_copied,
    "another meeting": lambda meeting, text, rng: text,
    "empty": lambda meeting, text, rng: "",
    "German": lambda meeting, text, rng: _GERMAN,
    "vague": lambda meeting, text, rng: _VAGUE,
    "one line repeated": one_line_repeated,
    "words in random order": words_in_random_order,
}


def read_meetings(folder: Path) -> list[Meeting]:
    """The meetings that have a good summary in every style of a folder."""
    styles = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.toml"))}
    meetings = []
    for path in sorted(MEETINGS.glob("meetings*/*.toml")):
        entry = tomllib.loads(path.read_text("utf-8"))
        if not all(entry["id"] in texts for texts in styles.values()):
            continue
        points = tuple(entry["key_points"])
        meetings.append(
            Meeting(
                id=entry["id"],
                text=entry["text"],
                key_points=points,
                good={style: texts[entry["id"]].strip() for style, texts in styles.items()},
                rubric=rubric_of(TEMPLATE + entry["text"], points),
            )
        )
    return meetings


def mark(text: str, meeting: Meeting) -> float:
    return score(text, meeting.rubric).quality or 0.0


def cases_of(meetings: Sequence[Meeting]) -> list[Case]:
    """Every way, meeting and pair of styles."""
    cases = []
    good = {(m.id, style): mark(text, m) for m in meetings for style, text in m.good.items()}
    for way, degrade in WAYS.items():
        for number, meeting in enumerate(meetings):
            source = meetings[(number + 1) % len(meetings)] if way == "another meeting" else meeting
            for bad_style in meeting.good:
                rng = random.Random(f"{way} {meeting.id} {bad_style}")
                worse = degrade(meeting, source.good[bad_style], rng)
                if worse == meeting.good[bad_style]:  # it has nothing that this way would make worse
                    continue
                bad = mark(worse, meeting)
                cases += [
                    Case(way, meeting.id, style, bad_style, good[meeting.id, style], bad)
                    for style in meeting.good
                    if style != bad_style
                ]
    return cases


def right_share(cases: Sequence[Case]) -> float:
    return sum(case.is_right for case in cases) / len(cases)


def style_means(meetings: Sequence[Meeting]) -> dict[str, float]:
    """By style, the mean mark of the good summaries."""
    styles = meetings[0].good
    return {style: sum(mark(m.good[style], m) for m in meetings) / len(meetings) for style in styles}


def flagged(meetings: Sequence[Meeting]) -> list[str]:
    """The good summaries that have a flag."""
    return [
        f"{meeting.id} {style}: {', '.join(scored.flags)}"
        for meeting in meetings
        for style, text in meeting.good.items()
        if (scored := score(text, meeting.rubric)).flags
    ]


def slowest_ms(meetings: Sequence[Meeting]) -> float:
    """The most CPU time that an answer takes: the shortest of three, over good summaries and one of 300 words."""
    times = []
    for meeting in meetings:
        for text in (*meeting.good.values(), " ".join(meeting.text.split()[-300:])):
            each = []
            for _ in range(3):
                start = time.process_time()
                score(text, meeting.rubric)
                each.append(1e3 * (time.process_time() - start))
            times.append(min(each))
    return max(times)


class Measured(Struct, frozen=True):
    """The summaries of one folder, and what came of them."""

    meetings: list[Meeting]
    cases: list[Case]

    def of_way(self, way: str) -> list[Case]:
        return [case for case in self.cases if case.way == way]


def measure(folder: Path) -> Measured:
    meetings = read_meetings(folder)
    return Measured(meetings, cases_of(meetings))


def table(sets: Mapping[str, Measured]) -> str:
    """The shares of right cases and the mean marks as Markdown."""
    heads = [f"{name}: right | mean mark" for name in sets]
    lines = [f"| degraded by | {' | '.join(heads)} |", f"|---|{'---:|---:|' * len(sets)}"]
    for way in WAYS:
        cells = [
            f"{100 * right_share(of_way):.1f} % | {sum(case.bad for case in of_way) / len(of_way):.1f}"
            for measured in sets.values()
            if (of_way := measured.of_way(way))
        ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    cells = [f"**{100 * right_share(measured.cases):.1f} %** | " for measured in sets.values()]
    lines.append(f"| **all {len(WAYS)} ways** | {' | '.join(cells)} |")
    for name, measured in sets.items():
        good = [f"{style} {mean:.1f}" for style, mean in style_means(measured.meetings).items()]
        lines += ["", f"Mean marks of the good summaries {name}, {len(measured.meetings)} a style: {', '.join(good)}."]
    return "\n".join(lines)


Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.floating[Any]]]
SHAPES: Final[Mapping[str, Draw]] = {
    "nothing changes; half of the texts differ by ±20": lambda rng, size: np.where(
        rng.random(size) < 0.5, rng.normal(0.0, 20.0, size), 0.0
    ),
    "−5 points, spread over all prompts (±10)": lambda rng, size: rng.normal(-5.0, 10.0, size),
    "−5 points: one answer in eight loses 40": lambda rng, size: -40.0 * (rng.random(size) < 0.125),
    "−8 points: one answer in five loses 40": lambda rng, size: -40.0 * (rng.random(size) < 0.2),
}
"""How load may change the quality of a prompt, in points."""
PROMPTS: Final = (8, 16, 32)
SIMULATED: Final = 4_000


def load_table() -> str:
    """How often each verdict on load is given, simulated, as Markdown: shares of "unchanged" and of "lower"."""
    heads = " | ".join(f"{count} prompts: unchanged | lower" for count in PROMPTS)
    lines = [f"| what load does | {heads} |", f"|---|{'---:|' * (2 * len(PROMPTS))}"]
    for name, draw in SHAPES.items():
        cells = []
        for count in PROMPTS:
            rows = draw(np.random.default_rng(count), (SIMULATED, count))
            verdicts = Counter(verdict_of(mean_interval(row), count) for row in rows.tolist())
            cells += [f"{100 * verdicts[verdict] / SIMULATED:.1f} %" for verdict in ("unchanged", "lower")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def missed(meetings: Sequence[Meeting], cases: Sequence[Case], slowest: float) -> list[str]:
    """Each target that is missed, in words."""
    by_way = {way: right_share([case for case in cases if case.way == way]) for way in WAYS}
    means = style_means(meetings).values()
    worst = min(by_way, key=lambda way: by_way[way])
    checks = {
        f"the good one is above in {100 * right_share(cases):.1f} % of all cases": right_share(cases) >= MIN_MEAN,
        f"{worst}: only {100 * by_way[worst]:.1f} %": by_way[worst] >= MIN_WAY,
        f"good styles are {max(means) - min(means):.1f} points apart": max(means) - min(means) <= MAX_STYLES_APART,
        f"an answer takes {slowest:.1f} ms of CPU": slowest <= MAX_MS,
        f"good ones are flagged: {'; '.join(flagged(meetings))}": not flagged(meetings),
    }
    return [text for text, is_met in checks.items() if not is_met]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", action="store_true")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    sets = {name: measure(folder) for name, folder in FOLDERS.items()}
    print(f"{table(sets)}\n\n{load_table()}")
    lines = []
    for measured in sets.values():
        slowest = slowest_ms(measured.meetings)
        print(f"\nThe slowest answer took {slowest:.1f} ms of CPU.")
        lines += missed(measured.meetings, measured.cases, slowest)
        for case in measured.cases if given.cases else ():
            if not case.is_right:
                print(f"{case.way}, {case.meeting}: {case.good_style} {case.good:.1f}, {case.bad_style} {case.bad:.1f}")
    if given.write:
        write_between(PAGE, table(sets), BEGIN, END)
        write_between(PAGE, load_table(), LOAD_BEGIN, LOAD_END)
    for line in lines:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
