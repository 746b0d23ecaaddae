"""The parts of a report in any format: sections of paragraphs, tables, facts and charts. Pure data; no format.

Every text is plain. Text from a server, a file or the user is unchanged, and each renderer escapes it.
"""

from collections.abc import Iterable
from typing import Any, Final, Literal

from msgspec import UNSET, Struct

from loadgen.analysis.by_prompt import PromptRow
from loadgen.analysis.stage import StageData
from loadgen.analysis.summary import StageSummary, Summary, Validity
from loadgen.report.format import format_stage_load
from loadgen.store.manifest import Manifest

HEIGHT: Final = 340
"""The default height of a chart, in pixels."""

SHOWN_PERCENTILES: Final = ("p50", "p90", "p95", "p99")
"""The percentiles that reports show, if the samples of some stage suffice: see `known_percentiles`."""

PlotlyObject = dict[str, Any]
"""A trace, a layout or an axis of plotly.js."""

ColumnKind = Literal["text", "number", "verdict", "prose"]
"""How a column's cells are drawn. number: right-aligned. verdict: a verdict on a stage ("valid", "degraded", "invalid",
"skipped"), on a figure ("worse", "better", "same", "unknown") or on a series of a soak ("degrading", "improving",
"stable", "not enough data"), and more after a comma. prose: a sentence, which may take several lines."""


class Column(Struct, frozen=True):
    """A heading, and the kind of its cells."""

    title: str
    kind: ColumnKind = "number"
    rank: int = 0
    """If a terminal is too narrow, the columns of the highest rank are left out first; those of rank 0 are always
    shown."""


class Row(Struct, frozen=True):
    """The cells of one row, as many as there are columns."""

    cells: tuple[str, ...]
    invalid: bool = False
    """Whether its numbers must not be believed; a renderer then strikes them out."""
    href: str = ""
    """A relative address, to which the first cell leads on a page; empty: nowhere."""


class Table(Struct, frozen=True):
    """Headings, rows, and the remarks that belong under them."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()
    folded_under: str = ""
    """If not empty, a page folds the table away under this line."""


class Fact(Struct, frozen=True):
    """A name and its value, such as "seed" and "1"."""

    name: str
    value: str


class LegendEntry(Struct, frozen=True):
    """The meaning of a color in a section's charts. color: a name in the style sheet."""

    color: str
    text: str


class Chart(Struct, frozen=True, kw_only=True):
    """One chart, as data in the shape of plotly.js (`loadgen.report.charts.figure`)."""

    id: str
    """The id of its element; the same in every report of the same run, and unique in it."""
    title: str
    caption: str
    """How to read it; may be empty."""
    traces: tuple[PlotlyObject, ...]
    layout: PlotlyObject
    height: int = HEIGHT
    """In pixels."""


FragmentKind = Literal["plain", "said", "invented"]
"""Whether a fragment of an answer says a key point, or is a figure or a name that its prompt does not have."""


class Fragment(Struct, frozen=True):
    """A part of an answer's text that is marked alike."""

    text: str
    kind: FragmentKind
    label: str = ""
    """The numbers of the key points that end here."""


class PointMark(Struct, frozen=True):
    """What an answer says of one key point."""

    number: int
    text: str
    credit: str
    """In percent, or why there is none."""
    state: Literal["said", "partly", "missing"]


class MarkedAnswer(Struct, frozen=True):
    """One text, with its part marks."""

    title: str
    """At which stages it was the answer, and how often."""
    mark: str
    """Its quality, and what lowered it."""
    fragments: tuple[Fragment, ...]
    points: tuple[PointMark, ...]


class AnswersToPrompt(Struct, frozen=True):
    """The different answers to one prompt."""

    prompt_id: str
    answers: tuple[MarkedAnswer, ...]


class Section(Struct, frozen=True, kw_only=True):
    """A part of a report under a heading of its own, drawn in this order: paragraphs, charts, points, tables, facts,
    answers."""

    title: str
    anchor: str
    """The id of its element, unique in a report."""
    paragraphs: tuple[str, ...] = ()
    legend: tuple[LegendEntry, ...] = ()
    charts: tuple[Chart, ...] = ()
    points: tuple[str, ...] = ()
    """A list of sentences."""
    tables: tuple[Table, ...] = ()
    facts: tuple[Fact, ...] = ()
    answers: tuple[AnswersToPrompt, ...] = ()
    """Only on the page, where they can be folded."""


class ReportStage(Struct, frozen=True):
    """A stage that was played, of one model."""

    number: int
    """Its position in the plan, from 0."""
    summary: StageSummary
    runs: tuple[StageData, ...]
    """Its records in each run of the report, in the order of the runs."""

    @property
    def who(self) -> str:
        return f"{self.summary.model} on {self.summary.target}"

    @property
    def load(self) -> str:
        return format_stage_load(self.summary)

    @property
    def level(self) -> str:
        return self.summary.level

    @property
    def answered(self) -> int:
        return 0 if self.summary.requests is UNSET else self.summary.requests.ok

    @property
    def is_closed(self) -> bool:
        return self.summary.load.is_closed

    @property
    def is_invalid(self) -> bool:
        return isinstance(self.summary.validity, Validity) and self.summary.validity.verdict == "invalid"


class ReportData(Struct, frozen=True, kw_only=True):
    """The input of a section: a run, or several merged runs of one plan."""

    summary: Summary
    manifest: Manifest
    """The manifest of the first run. With several runs, its state says whether all are complete."""
    stages: tuple[ReportStage, ...]
    """The stages that were played, in the order of the plan."""
    prompts: tuple[PromptRow, ...] = ()
    """The rows of one run; empty for several runs."""


def known_percentiles(stages: Iterable[StageSummary], metric: str) -> tuple[str, ...]:
    """The percentiles that are known in at least one stage. The others are not shown; the slowest request is."""
    known = [latency for stage in stages if (latency := stage.metric(metric)) is not None]
    return tuple(
        name for name in SHOWN_PERCENTILES if any(latency.percentile(name).value is not None for latency in known)
    )


def stage_name(stage: StageSummary) -> str:
    """The name of a stage in a row: `smollm2-135m on llamacpp, 4 users`."""
    return f"{stage.model} on {stage.target}, {format_stage_load(stage)}"


def was_played(stage: StageSummary) -> bool:
    return stage.requests is not UNSET
