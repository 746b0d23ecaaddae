"""The charts of a history: one a metric, night by night. Pure data; knows no page."""

from collections.abc import Sequence
from datetime import UTC
from typing import Final

from loadgen.decisions.history.changes import NightChange, night_levels_of
from loadgen.decisions.history.possible_causes import boundaries_of
from loadgen.decisions.history.series import NightSeries
from loadgen.decisions.history.verdict import HistoryAnswer
from loadgen.decisions.history.words import change_text, format_value, night_day, series_name
from loadgen.report.charts.figure import MODEL_COLORS, Trace, hover_text, label, layout, rounded
from loadgen.report.section import Chart, PlotlyObject
from loadgen.store.history import NightRecord
from loadgen.store.night_metrics import NightMetric, NightValue

HEIGHT: Final = 320
ROW: Final = 14
"""The height of a row of labels, in pixels."""
MOST_ROWS: Final = 4
_COLORS: Final = {"worse": "@worse", "better": "@better"}
_NOTE: Final = "Bars: 95 % intervals. Steps: the levels. Hollow: a night that does not count."


def history_charts(answer: HistoryAnswer) -> tuple[Chart, ...]:
    """A chart for each metric of which something is known."""
    charts: list[Chart] = []
    for metric in answer.settings.metrics:
        series = [each for each in answer.series if each.metric == metric]
        if series:
            charts.append(_chart(answer, metric, series, len(charts)))
    return tuple(charts)


def _chart(answer: HistoryAnswer, metric: NightMetric, series: Sequence[NightSeries], number: int) -> Chart:
    changes = [change for change in answer.changes if change.series.metric == metric]
    traces: list[Trace] = []
    unit = f" ({metric.unit})" if metric.unit else " (%)"
    drawn = layout({"type": "date", "title": {"text": "night (UTC)"}}, {"title": {"text": f"{metric.name}{unit}"}})
    for at, each in enumerate(series):
        own = [change for change in changes if change.series.stage.key == each.stage.key]
        traces += _series_traces(answer, each, own, f"@model{at % MODEL_COLORS}")
    drawn["shapes"] = [*map(_break_line, _break_moments(answer)), *(_change_line(answer, each) for each in changes)]
    rows = {each.stage.key: min(at, MOST_ROWS - 1) for at, each in enumerate(series)}
    drawn["annotations"] = [_change_label(answer, change, rows[change.series.stage.key]) for change in changes]
    traces += _beside(answer, series)
    drawn["margin"] |= {"t": ROW * (2 + max(rows.values()))}
    drawn["legend"] |= {"y": 1.02 + 0.06 * (1 + max(rows.values()))}
    if not metric.unit:
        drawn["yaxis"]["rangemode"] = "tozero"
    return Chart(
        id=f"chart-history-{number}",
        title=metric.name,
        caption=_NOTE,
        traces=tuple(traces),
        layout=drawn,
        height=HEIGHT,
    )


def _moment(night: NightRecord) -> str:
    """When a night began, as plotly.js reads it: it takes no zone into account."""
    return night.moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _scale(metric: NightMetric) -> float:
    return 1.0 if metric.unit else 100.0


def _series_traces(
    answer: HistoryAnswer, series: NightSeries, changes: Sequence[NightChange], color: str
) -> list[Trace]:
    name = label(series_name(answer, series.stage.key) or series.metric.name)
    steps = night_levels_of(series, sorted(changes, key=lambda change: change.night))
    used = dict(series.used)
    rows = list(zip(series.stage.nights, series.values, strict=True))
    counted = [(night, value) for night, value in rows if night in used and value is not None]
    others = [(night, value) for night, value in rows if night not in used and value is not None]
    drawn = [_points(answer, series, counted, name, color, "circle")]
    if others:
        drawn.append(_points(answer, series, others, name, color, "circle-open"))
    xs: list[str | None] = []
    ys: list[float | None] = []
    for step in steps:
        xs += [_moment(answer.nights[step.first]), _moment(answer.nights[step.last]), None]
        ys += [*rounded([step.value * _scale(series.metric)] * 2), None]
    style = {"mode": "lines", "legendgroup": name, "showlegend": False, "hoverinfo": "skip"}
    return [*drawn, style | {"x": xs, "y": ys, "name": name, "line": {"color": color, "width": 2.5}}]


def _points(
    answer: HistoryAnswer,
    series: NightSeries,
    rows: Sequence[tuple[int, NightValue]],
    name: str,
    color: str,
    symbol: str,
) -> Trace:
    scale, metric = _scale(series.metric), series.metric
    stages = dict(zip(series.stage.nights, series.stage.stages, strict=True))
    texts = []
    for night, value in rows:
        record, stage = answer.nights[night], stages[night]
        lines = [f"{label(metric.name)} {format_value(metric, value.value)}"]
        if value.low is not None and value.high is not None:
            lines.append(f"95 % interval {format_value(metric, value.low)} – {format_value(metric, value.high)}")
        if stage.build is not None:
            lines.append(f"build {label(stage.build)}")
        if symbol != "circle":
            lines.append("does not count: " + ("invalid" if stage.verdict == "invalid" else "cut short"))
        texts.append(hover_text(label(night_day(record, answer.nights[-1])), f" · {label(record.run_id)}", *lines))
    trace: Trace = {
        "x": [_moment(answer.nights[night]) for night, _ in rows],
        "y": rounded(value.value * scale for _, value in rows),
        "mode": "markers",
        "name": name,
        "legendgroup": name,
        "showlegend": symbol == "circle",
        "marker": {"color": color, "size": 6, "symbol": symbol},
        "hovertext": texts,
        "hoverinfo": "text",
    }
    if any(value.low is not None for _, value in rows):
        above = [0.0 if value.high is None else (value.high - value.value) * scale for _, value in rows]
        below = [0.0 if value.low is None else (value.value - value.low) * scale for _, value in rows]
        bars = {"type": "data", "symmetric": False, "thickness": 0.8, "width": 0, "color": color}
        trace["error_y"] = bars | {"array": rounded(above), "arrayminus": rounded(below)}
    return trace


def _change_line(answer: HistoryAnswer, change: NightChange) -> PlotlyObject:
    at = _moment(answer.nights[change.night])
    line = {"color": _COLORS[change.direction], "width": 1.5, "dash": "dash"}
    return {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _change_label(answer: HistoryAnswer, change: NightChange, row: int) -> PlotlyObject:
    """The size of a change, above its line. row: of the labels, so that those of two series do not hide each other."""
    return {
        "x": _moment(answer.nights[change.night]),
        "y": 1,
        "yref": "paper",
        "yanchor": "bottom",
        "yshift": ROW * row,
        "showarrow": False,
        "text": label(change_text(change)),
        "font": {"color": _COLORS[change.direction], "size": 12},
    }


def _break_moments(answer: HistoryAnswer) -> list[str]:
    return list(dict.fromkeys(_moment(answer.nights[each.night]) for each in answer.breaks))


def _break_line(at: str) -> PlotlyObject:
    line = {"color": "@axis", "width": 1, "dash": "dot"}
    return {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _beside(answer: HistoryAnswer, series: Sequence[NightSeries]) -> list[Trace]:
    """Marks on the nights on which a build or a trait was first another one."""
    by_night: dict[int, list[str]] = {}
    for stage in {each.stage.key: each.stage for each in series}.values():
        for boundary in boundaries_of(stage, answer.nights):
            texts = by_night.setdefault(boundary.by, [])
            if boundary.text not in texts:
                texts.append(boundary.text)
    if not by_night:
        return []
    lowest = min(value.value for each in series for value in each.values if value is not None)
    scale = _scale(series[0].metric)
    nights = sorted(by_night)
    return [
        {
            "x": [_moment(answer.nights[night]) for night in nights],
            "y": rounded([lowest * scale] * len(nights)),
            "mode": "markers",
            "name": "build or trait changed",
            "marker": {"color": "@axis", "size": 9, "symbol": "triangle-up"},
            "hovertext": [
                hover_text(label(night_day(answer.nights[night], answer.nights[-1])), "", *map(label, by_night[night]))
                for night in nights
            ],
            "hoverinfo": "text",
        }
    ]
