"""A history as the document of a page: what changed, a chart a metric, the series, and each night. Pure."""

from collections.abc import Callable, Sequence

from loadgen.decisions.history.charts import history_charts
from loadgen.decisions.history.table import series_table
from loadgen.decisions.history.verdict import HistoryAnswer
from loadgen.decisions.history.words import history_lines, title_text, verdict_sentence
from loadgen.report.document import Document, Headline
from loadgen.report.section import Column, Row, Section, Table
from loadgen.store.history import NightRecord

_NIGHTS: tuple[Column, ...] = (
    Column("night", "text"),
    Column("kind", "text"),
    Column("machine", "text"),
    Column("answered"),
    Column("builds", "prose"),
    Column("verdict", "verdict"),
)


def history_document(
    answer: HistoryAnswer, remarks: Sequence[str], report_of: Callable[[NightRecord], str]
) -> Document:
    """The document of the page; equal histories give equal documents. report_of: the address of a night's own report,
    relative to the page; empty if it has none."""
    sections = (_changes(answer), _metrics(answer), _nights(answer, report_of), _remarks(remarks))
    newest = answer.newest
    return Document(
        headline=Headline(
            title=f"{answer.settings.scenario}: the nights",
            models=tuple(dict.fromkeys(f"{each.stage.key.model} on {each.stage.key.target}" for each in answer.series)),
            run_id="" if newest is None else newest.run_id,
            runs=(),
            started_utc="" if newest is None else newest.started_utc,
            incomplete=False,
            answer=verdict_sentence(answer),
            sureness=None,
            progress="",
            table=series_table(answer),
            line=title_text(answer),
        ),
        sections=tuple(section for section in sections if section is not None),
        footer="Made by `loadgen history` from the run folders; what it means is in docs/history.md.",
    )


def _changes(answer: HistoryAnswer) -> Section:
    lines = tuple(history_lines(answer))
    return Section(title="What changed", anchor="changes", points=lines or ("Nothing was shown to have changed.",))


def _metrics(answer: HistoryAnswer) -> Section | None:
    charts = history_charts(answer)
    if not charts:
        return None
    paragraph = (
        "Each night at the moment it began. A dashed line is where a level changed, for the worse or for the better; a "
        "dotted one, where series begin anew."
    )
    return Section(title="Night by night", anchor="timelines", paragraphs=(paragraph,), charts=charts)


def _nights(answer: HistoryAnswer, report_of: Callable[[NightRecord], str]) -> Section:
    rows = []
    for at in reversed(answer.chosen):
        night = answer.nights[at]
        builds = dict.fromkeys(stage.build for stage in night.stages if stage.build is not None)
        verdicts = [stage.verdict for stage in night.stages if stage.verdict is not None]
        worst = next((word for word in ("invalid", "degraded", "valid") if word in verdicts), "skipped")
        cells = (
            night.run_id,
            night.kind,
            night.machine,
            f"{sum(stage.ok for stage in night.stages):,}",
            ", ".join(builds),
            f"{worst}, cut short" if night.incomplete else worst,
        )
        rows.append(Row(cells, href=report_of(night)))
    table = Table(_NIGHTS, tuple(rows), folded_under=f"all {len(rows)} nights, the newest first")
    return Section(title="The nights", anchor="nights", tables=(table,))


def _remarks(remarks: Sequence[str]) -> Section | None:
    return Section(title="Passed over", anchor="notes", points=tuple(remarks)) if remarks else None
