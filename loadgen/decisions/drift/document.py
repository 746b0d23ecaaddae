"""The report of a soak: the verdict, one row a metric, what happened, and the series over time. Pure."""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.analysis.soak_types import DriftMetric, DriftMetricName
from loadgen.analysis.summary import Summary
from loadgen.decisions.drift.charts import StageView, heat_map, memory_charts, series_charts
from loadgen.decisions.drift.words import (
    ModelSoak,
    change_text,
    detail_text,
    event_text,
    interval_text,
    level_text,
    models_of_soak,
    remarks_of,
    soak_sentence,
    title_of,
)
from loadgen.report.console import lines_text, table_text
from loadgen.report.document import Document, headline
from loadgen.report.format import UNKNOWN, format_bytes, format_count, format_time
from loadgen.report.main_table import main_table
from loadgen.report.section import Column, ReportData, Row, Section, Table
from loadgen.report.sections.circumstances import circumstances
from loadgen.report.sections.latencies import latencies
from loadgen.report.sections.models import models
from loadgen.report.sections.server_behavior import server_behavior
from loadgen.report.sections.validity import validity
from loadgen.report.text_table import Screen
from loadgen.store.events import Event

EVENTS_SHOWN: Final = 12
"""How many events a terminal and the first table of a report show."""
SECTIONS: Final = (validity, latencies, server_behavior, models, circumstances)
"""The sections of any run that need no records."""
FOOTER: Final = (
    "Every number is in summary.json, every window in windows.jsonl and histograms.hlog, every event in events.jsonl, "
    "in the run folder."
)


CHART_NOTE: Final = (
    "Each point is a window, and the line is the change that was fitted. Shaded: warm-up, which is in no test. "
    "Hatched: nothing was measured. Triangles: events. Faded points: windows that are not valid, or come after the "
    "deadline."
)
NO_ANSWER: Final = "No request was answered."


class SoakReport(Struct, frozen=True):
    """What a report of a soak shows."""

    data: ReportData
    """Its summary and its manifest; no stage has records."""
    views: tuple[StageView, ...]
    """The windows of each model that was played, in the order of `models_of_soak`."""
    events: tuple[Event, ...]


def drift_table(model: ModelSoak) -> Table:
    """A row for each series: both ends, the change with its interval, and the word."""
    columns = (
        Column("metric", "text"),
        *(Column(title) for title in ("from", "to", "change", "95 % interval")),
        Column("p"),
        Column("details", "text"),
        Column("verdict", "verdict"),
    )
    rows = tuple(_row(name, metric) for name, metric in model.drift.metrics.items())
    return Table(columns, rows, remarks_of(model))


def _row(name: DriftMetricName, metric: DriftMetric) -> Row:
    return Row(
        (
            title_of(name, metric),
            level_text(metric, metric.start),
            level_text(metric, metric.end),
            change_text(name, metric),
            interval_text(name, metric),
            _p_text(metric.p_adjusted),
            detail_text(name, metric),
            metric.verdict,
        )
    )


def _p_text(p: float | None) -> str:
    if p is None:
        return UNKNOWN
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def models_table(models_played: Sequence[ModelSoak]) -> Table:
    """A row for each model: its word, and what happened to it."""
    columns = (
        *(Column(title, "text") for title in ("model", "served by")),
        *(Column(title) for title in ("windows", "outages", "restarts")),
        Column("verdict", "verdict"),
    )
    rows = (
        Row(
            (
                model.summary.model,
                model.summary.target,
                str(model.soak.windows),
                str(model.soak.outages.count),
                str(model.soak.server_restarts),
                model.drift.verdict,
            )
        )
        for model in models_played
    )
    return Table(columns, tuple(rows))


def events_table(events: Sequence[Event], *, most: int | None = None) -> Table:
    """The events in order: when, what, for how long. most: how many are shown."""
    titles = (Column("UTC", "text"), Column("what happened", "text"), Column("for"))
    columns = (*titles, Column("details", "prose", rank=1))
    shown = events if most is None else events[:most]
    rows = tuple(
        Row(
            (
                event.at_utc[:19].replace("T", " "),
                event_text(event),
                UNKNOWN if event.for_s is None else format_time(event.for_s),
                event.detail,
            )
        )
        for event in shown
    )
    rest = len(events) - len(shown)
    return Table(columns, rows, (f"{format_count(rest, 'event')} more in events.jsonl",) if rest else ())


def soak_document(report: SoakReport) -> Document:
    """The document of a soak; equal reports give equal documents."""
    summary, played = report.data.summary, models_of_soak(report.data.summary)
    top = headline(summary)
    is_judged = len(played) == 1 and bool(played[0].drift.metrics)
    table = drift_table(played[0]) if is_judged else models_table(played) if len(played) > 1 else top.table
    opened = msgspec.structs.replace(
        top,
        answer=_capital(soak_sentence(summary)),
        sureness=top.answer,
        table=table,
    )
    sections = [
        *(
            section
            for number, (model, view) in enumerate(zip(played, report.views, strict=True))
            for section in _sections_of(model, view, number, of=f" of {model.who}" if len(played) > 1 else "")
        ),
        _events_section(report.events),
        None if table is top.table else Section(title="The soak as one stage", anchor="stage", tables=(top.table,)),
        *(make_section(report.data) for make_section in SECTIONS),
    ]
    return Document(opened, tuple(section for section in sections if section is not None), FOOTER)


def _sections_of(model: ModelSoak, view: StageView, number: int, *, of: str) -> list[Section]:
    """The charts of a model. of: which model it is, if there are several; it then has its table here."""
    series = series_charts(model.drift, view, number)
    heat, memory = heat_map(view, number), memory_charts(model.drift, view, number)
    sections = [
        Section(
            title=f"Over time{of}",
            anchor=f"time-{number}",
            paragraphs=(CHART_NOTE,) if series else (NO_ANSWER,),
            charts=series,
            tables=(drift_table(model),) if of and model.drift.metrics else (),
        )
    ]
    if heat is not None:
        sections.append(Section(title=f"Every window{of}", anchor=f"heat-{number}", charts=(heat,)))
    if memory:
        lives = lives_table(view)
        tables = (lives,) if len(lives.rows) > 1 else ()
        sections.append(Section(title=f"Memory{of}", anchor=f"memory-{number}", charts=memory, tables=tables))
    return sections


def lives_table(view: StageView) -> Table:
    """A row for each life of the server's process: when, and its memory at both ends and at most."""
    columns = (
        Column("life", "text"),
        *(Column(title, "text") for title in ("from (UTC)", "to (UTC)")),
        *(Column(title) for title in ("windows", "memory at its start", "at its end", "at most")),
    )
    rows = []
    for life in sorted({window.server_life for window in view.stage.windows}):
        own = [window for window in view.stage.windows if window.server_life == life]
        known = [size for window in own if (size := window.server_memory_bytes) is not None]
        sizes = (known[0], known[-1], max(known)) if known else (None, None, None)
        ends = (own[0].start_utc[11:16], own[-1].start_utc[11:16])
        rows.append(Row((str(life + 1), *ends, str(len(own)), *map(format_bytes, sizes))))
    return Table(columns, tuple(rows))


def _events_section(events: Sequence[Event]) -> Section | None:
    if not events:
        return None
    tables = [events_table(events, most=EVENTS_SHOWN)]
    if len(events) > EVENTS_SHOWN:
        folded = msgspec.structs.replace(events_table(events), folded_under=f"All {len(events)} events")
        tables.append(folded)
    return Section(title="What happened", anchor="events", tables=tuple(tables))


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _narrow(table: Table) -> Table:
    """The table of series without p, and with the details beside the word, which may take several lines."""
    *others, _, _, verdict = table.columns
    columns = (*others, msgspec.structs.replace(verdict, kind="prose"))
    rows = (Row((*row.cells[:-3], ", ".join(filter(None, (row.cells[-1], row.cells[-2]))))) for row in table.rows)
    return msgspec.structs.replace(table, columns=columns, rows=tuple(rows))


def _series_text(model: ModelSoak, title: str, screen: Screen) -> str:
    return table_text(_narrow(drift_table(model)), title, screen)


def soak_text(summary: Summary, events: Sequence[Event], screen: Screen) -> str:
    """The report for a terminal: the verdict, one row a metric, what happened, and the usual table."""
    played = models_of_soak(summary)
    name = f" · {played[0].who}" if len(played) == 1 else ""
    parts = [lines_text([f"{summary.scenario}{name} · {summary.run_id}", soak_sentence(summary)], screen)]
    titles = [model.who if len(played) > 1 else "" for model in played]
    parts += [
        _series_text(model, title, screen) for model, title in zip(played, titles, strict=True) if model.drift.metrics
    ]
    if events:
        parts.append(table_text(events_table(events, most=EVENTS_SHOWN), "events", screen))
    return "\n".join([*parts, table_text(main_table(summary), "the soak as one stage", screen)])
