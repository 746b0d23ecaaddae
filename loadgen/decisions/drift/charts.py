"""The charts of a soak: each series over time, TTFT as a heat map, and memory by life of the server. Pure data, without
a page."""

import itertools
import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final

import numpy as np
from msgspec import Struct

from loadgen.analysis.soak_types import DRIFT_METRICS, Drift, DriftMetric, DriftMetricName
from loadgen.decisions.drift.series import TestedWindows, asked_of
from loadgen.decisions.drift.stage_windows import StageWindows
from loadgen.decisions.drift.words import change_text, event_text, interval_text, level_text, title_of
from loadgen.report.charts.figure import MODEL_COLORS, Trace, hover_text, label, layout, log_axis, rounded
from loadgen.report.section import Chart, PlotlyObject
from loadgen.stats.bucket_counts import BucketCounts
from loadgen.stats.drift import Floats
from loadgen.stats.histogram import EDGES_NS
from loadgen.store.events import Event
from loadgen.store.windows import WindowLine

MOST_POINTS: Final = 1440
"""Of more windows, a chart shows every second, every third, and so on."""
MOST_COLUMNS: Final = 480
HEAT_ROWS: Final = 40
LOG_RATIO: Final = 4.0
"""If TTFTs span less than this, a logarithmic axis would hardly have a tick."""
MOST_MARKS: Final = 60
"""Of more events, a chart shows the first ones."""
_LINE_POINTS: Final = 9
_BEYOND: Final = 10.0
_MIB: Final = 2**20
_MARGIN: Final = 0.08

Points = list[float | None]


class StageView(Struct, frozen=True, dict=True):
    """One model of a soak as its charts show it."""

    stage: StageWindows
    tested: TestedWindows
    events: tuple[Event, ...]
    """Those that concern the model."""

    @cached_property
    def moments(self) -> tuple[datetime, ...]:
        """When each window began, by the wall clock."""
        return tuple(datetime.fromisoformat(window.start_utc) for window in self.stage.windows)

    @cached_property
    def middles(self) -> tuple[datetime, ...]:
        return tuple(
            moment + _length(window) / 2 for moment, window in zip(self.moments, self.stage.windows, strict=True)
        )

    @property
    def end(self) -> datetime:
        return self.moments[-1] + _length(self.stage.windows[-1])

    def moment_of(self, ns: int) -> datetime:
        """The wall time of a moment on the run's clock."""
        starts = [window.start_ns for window in self.stage.windows]
        place = max(0, int(np.searchsorted(starts, ns, side="right")) - 1)
        return self.moments[place] + timedelta(microseconds=(ns - starts[place]) / 1e3)

    @cached_property
    def gaps(self) -> tuple[tuple[datetime, datetime], ...]:
        """The times in which nothing was measured: windows with a gap in them, and the time between two windows."""
        windows, spans = self.stage.windows, list[tuple[datetime, datetime]]()
        ends = [*self.moments[1:], self.end]
        for window, begin, end in zip(windows, self.moments, ends, strict=True):
            is_hole = end - begin > 1.5 * _length(window)
            if window.gap_s > 0 or is_hole:
                start = begin if window.gap_s > 0 else begin + _length(window)
                if spans and spans[-1][1] >= start:
                    start = spans.pop()[0]
                spans.append((start, end))
        return tuple(spans)

    @cached_property
    def warm_up(self) -> tuple[datetime, datetime] | None:
        """From the first window to the first that is tested; None if no window is, or none is warm-up."""
        chosen = np.flatnonzero(self.tested.chosen)
        if not chosen.size or not self.tested.warm_up:
            return None
        return self.moments[0], self.moments[int(chosen[0])]


def _length(window: WindowLine) -> timedelta:
    return timedelta(microseconds=(window.end_ns - window.start_ns) / 1e3)


def series_charts(drift: Drift, view: StageView, number: int) -> tuple[Chart, ...]:
    """A chart for each series but the memory. number: the place of the model, which makes ids unique."""
    charts = []
    for name in DRIFT_METRICS:
        metric = drift.metrics.get(name)
        percentile = None if metric is None or not isinstance(metric.percentile, str) else metric.percentile
        values = [] if name == "server_memory" else series_of(view.stage, name, percentile)
        if any(value is not None for value in values):
            charts.append(_series_chart(name, metric, values, view, number))
    return tuple(charts)


def series_of(stage: StageWindows, name: DriftMetricName, percentile: str | None) -> Points:
    """The value of a series in each window; None where it has none. Of a tail, percentile says which it is, and several
    windows have one value."""
    windows = stage.windows
    match name:
        case "ttft_p50":
            return [window.ttft_p50_ms for window in windows]
        case "itl_p50":
            return [window.itl_p50_ms for window in windows]
        case "ttft_tail" | "itl_tail":
            counts = stage.counts.get(name.removesuffix("_tail"))
            return [] if counts is None or percentile is None else _tail(counts, float(percentile[1:]))
        case "stream_tokens_per_s":
            return [window.output_tokens / window.stream_s if window.stream_s > 0 else None for window in windows]
        case "failed_share":
            totals = [asked_of(window) for window in windows]
            return [1 - w.ok / total if total else None for w, total in zip(windows, totals, strict=True)]
        case "server_memory":
            return [None if (size := window.server_memory_bytes) is None else size / _MIB for window in windows]
        case "temperature":
            return [window.temperature_c for window in windows]


def _tail(counts: BucketCounts, p: float) -> Points:
    """The nearest-rank percentile of neighboring windows together, ms, in the place of the window in their middle: of
    so many that ten values or so are beyond it, because a window alone says little of its tail."""
    totals = counts.totals
    needed = _BEYOND / (1 - p / 100) * counts.window_count / max(1, int(totals.sum()))
    size = max(1, math.ceil(needed))
    grouped = counts.in_groups(size)
    ends = np.searchsorted(grouped.window, np.arange(grouped.window_count + 1)).tolist()
    values: Points = [None] * counts.window_count
    for group, (first, last) in enumerate(itertools.pairwise(ends)):
        reached = np.cumsum(grouped.count[first:last])
        if reached.size:
            place = int(np.searchsorted(reached, math.ceil(p / 100 * int(reached[-1]))))
            middle = min(group * size + size // 2, counts.window_count - 1)
            values[middle] = float(EDGES_NS[grouped.bucket[first + place] + 1] - 1) / 1e6
    return values


def _series_chart(
    name: DriftMetricName, metric: DriftMetric | None, values: Points, view: StageView, number: int
) -> Chart:
    factor, unit = _scale(name, values)
    scaled = [None if value is None else value * factor for value in values]
    title = title_of(name, metric)
    drawn = layout(_time_axis(view), {"title": {"text": f"{title} ({unit})"}})
    low, high = _range(scaled)
    drawn["yaxis"]["range"] = [low, high]
    traces = [
        *_gap_bars(view, low, high),
        _points(title, scaled, view, f"@model{number % MODEL_COLORS}", unit),
        *_fitted(metric, view, factor),
        *_marks(view, drawn, high),
    ]
    _shade_warm_up(view, drawn)
    return Chart(
        id=f"chart-{name.replace('_', '-')}-{number}",
        title=title,
        caption="" if metric is None else _caption(name, metric),
        traces=tuple(traces),
        layout=drawn,
        height=300,
    )


def _caption(name: DriftMetricName, metric: DriftMetric) -> str:
    ends = f"{level_text(metric, metric.start)} to {level_text(metric, metric.end)}"
    return f"{metric.verdict}: {change_text(name, metric)} ({interval_text(name, metric)}), {ends}"


def _scale(name: DriftMetricName, values: Points) -> tuple[float, str]:
    """The factor and the unit in which a series is drawn."""
    match name:
        case "ttft_p50" | "ttft_tail" | "itl_p50" | "itl_tail":
            slow = max(value for value in values if value is not None) >= 1000
            return (1e-3, "s") if slow else (1.0, "ms")
        case "failed_share":
            return 100.0, "%"
        case "server_memory":
            return 1.0, "MiB"
        case "temperature":
            return 1.0, "°C"
        case "stream_tokens_per_s":
            return 1.0, "tok/s"


def _range(values: Points) -> tuple[float, float]:
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    margin = _MARGIN * (high - low) or max(0.05 * abs(high), 0.1)
    return (0.0 if low >= 0 and low - margin < 0 else low - margin), high + 2 * margin


def _time_axis(view: StageView) -> PlotlyObject:
    ends = [_text(view.moments[0]), _text(view.end)]
    return {"type": "date", "title": {"text": "time (UTC)"}, "range": ends, "hoverformat": "%H:%M:%S"}


def _text(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(timespec="seconds")


def _points(title: str, values: Points, view: StageView, color: str, unit: str) -> Trace:
    step = -(-len(values) // MOST_POINTS)
    windows = view.stage.windows
    places = [place for place in range(0, len(values), step) if values[place] is not None]
    opacity = [1.0 if windows[place].valid and not windows[place].draining else 0.3 for place in places]
    return {
        "x": [_text(view.middles[place]) for place in places],
        "y": rounded(values[place] for place in places),
        "mode": "markers",
        "name": label(title),
        "marker": {"color": color, "size": 4, "opacity": opacity},
        "hovertemplate": f"%{{x}}: %{{y}} {label(unit)}<extra></extra>",
    }


def _fitted(metric: DriftMetric | None, view: StageView, factor: float) -> list[Trace]:
    """The line that was fitted. A relative change is a curve that hardly bends."""
    if metric is None or metric.start is None or metric.end is None or metric.from_ns is None or metric.to_ns is None:
        return []
    shares = np.linspace(0.0, 1.0, _LINE_POINTS)
    moments = [view.moment_of(int(ns)) for ns in metric.from_ns + shares * (metric.to_ns - metric.from_ns)]
    line = metric.start + shares * (metric.end - metric.start)
    if metric.unit in ("ms", "tokens/s") and metric.start > 0 and metric.end > 0:
        line = metric.start * (metric.end / metric.start) ** shares
    style = {"color": "@limit", "width": 2.5}
    return [
        {
            "x": [_text(moment) for moment in moments],
            "y": rounded((line * factor).tolist()),
            "mode": "lines",
            "name": "fitted",
            "line": style,
            "hoverinfo": "skip",
        }
    ]


def _gap_bars(view: StageView, low: float, high: float) -> list[Trace]:
    """The gaps, hatched."""
    if not view.gaps:
        return []
    hatched = {"color": "@skipped", "pattern": {"shape": "/", "size": 8, "solidity": 0.25}, "line": {"width": 0}}
    spans = [(begin, end, end - begin) for begin, end in view.gaps]
    return [
        {
            "type": "bar",
            "name": "not measured",
            "x": [_text(begin + length / 2) for begin, _, length in spans],
            "width": [length.total_seconds() * 1e3 for _, _, length in spans],
            "base": [low] * len(spans),
            "y": [high - low] * len(spans),
            "marker": hatched,
            "hoverinfo": "skip",
        }
    ]


def _shade_warm_up(view: StageView, drawn: PlotlyObject) -> None:
    if view.warm_up is None:
        return
    begin, end = view.warm_up
    ends = {"x0": _text(begin), "x1": _text(end), "y0": 0, "y1": 1, "yref": "paper"}
    drawn["shapes"].append({"type": "rect", "fillcolor": "@window", "line": {"width": 0}, "layer": "below", **ends})


def _marks(view: StageView, drawn: PlotlyObject, high: float) -> list[Trace]:
    """The events, each as a line and a mark at the top."""
    shown = view.events[:MOST_MARKS]
    if not shown:
        return []
    moments = [_text(datetime.fromisoformat(event.at_utc)) for event in shown]
    for moment in moments:
        line = {"color": "@axis", "width": 1, "dash": "dot"}
        drawn["shapes"].append(
            {"type": "line", "x0": moment, "x1": moment, "y0": 0, "y1": 1, "yref": "paper", "line": line}
        )
    return [
        {
            "x": moments,
            "y": [high] * len(moments),
            "mode": "markers",
            "name": "events",
            "marker": {"color": "@degraded-ink", "size": 9, "symbol": "triangle-down"},
            "hovertext": [_event_hover(event) for event in shown],
            "hoverinfo": "text",
            "cliponaxis": False,
        }
    ]


def _event_hover(event: Event) -> str:
    return hover_text(label(event_text(event)), f" · {label(event.at_utc[11:19])} UTC", label(event.detail))


def heat_map(view: StageView, number: int) -> Chart | None:
    """How TTFT is distributed in each window; None if nothing was answered."""
    counts = view.stage.counts.get("ttft")
    if counts is None or not counts.count.size:
        return None
    step = -(-counts.window_count // MOST_COLUMNS)
    grouped = counts.in_groups(step) if step > 1 else counts
    edges = _row_edges(grouped)
    rows = np.searchsorted(edges, EDGES_NS[grouped.bucket], side="right") - 1
    cells = np.zeros((edges.size - 1, grouped.window_count))
    np.add.at(cells, (rows.clip(0, edges.size - 2), grouped.window), grouped.count)
    totals = grouped.totals
    shares = 100 * cells / np.maximum(totals, 1)
    factor, unit = (1e-9, "s") if edges[-1] >= 1e9 else (1e-6, "ms")
    limits = (edges * factor).tolist()
    drawn = layout(_time_axis(view), {"title": {"text": f"TTFT ({unit})"}, "range": [limits[0], limits[-1]]})
    if limits[-1] > LOG_RATIO * limits[0]:
        drawn["yaxis"] |= log_axis(limits[0], limits[-1])
        drawn["yaxis"]["range"] = [math.log10(limits[0]), math.log10(limits[-1])]
    drawn["showlegend"] = False
    trace: Trace = {
        "type": "heatmap",
        "x": [*(_text(moment) for moment in view.moments[::step]), _text(view.end)],
        "y": rounded(limits),
        "z": [[float(f"{share:.3g}") or None for share in row] for row in shares.tolist()],
        "zmin": 0,
        "colorscale": [[0, "@heat0"], [0.35, "@heat1"], [1, "@heat2"]],
        "colorbar": {"title": {"text": "%"}, "thickness": 10, "outlinewidth": 0},
        "hovertemplate": "%{x}, %{y:.3g} " + unit + ": %{z} %<extra></extra>",
    }
    return Chart(
        id=f"chart-heat-{number}",
        title="TTFT, window by window",
        caption="Each column is a window; the stronger the color of a cell, the more of its requests had that TTFT.",
        traces=(trace,),
        layout=drawn,
    )


def _row_edges(counts: BucketCounts) -> Floats:
    """The limits of the rows, ns: at equal ratios."""
    low = max(float(EDGES_NS[int(counts.bucket.min())]), 1e3)
    high = float(EDGES_NS[int(counts.bucket.max()) + 1])
    return np.geomspace(low, max(high, low * 1.1), HEAT_ROWS + 1)


def memory_charts(drift: Drift, view: StageView, number: int) -> tuple[Chart, ...]:
    """The memory of the server by life of its process, and ours; each only if it is known."""
    windows = view.stage.windows
    sizes = series_of(view.stage, "server_memory", None)
    own = [None if (size := window.own_rss_bytes) is None else size / _MIB for window in windows]
    lives = sorted({window.server_life for window in windows})
    metric = drift.metrics.get("server_memory")
    charts = []
    if any(size is not None for size in sizes):
        by_life = {
            "the server" if len(lives) == 1 else f"the server, life {life + 1}": [
                size if window.server_life == life else None for size, window in zip(sizes, windows, strict=True)
            ]
            for life in lives
        }
        caption = "" if metric is None else f"{_caption('server_memory', metric)}. "
        caption += "What its processes hold themselves, without mapped files; the line is that of the floor."
        drawn = _memory_chart(f"chart-memory-{number}", "The server's memory", caption, by_life, metric, view)
        charts.append(drawn)
    if any(size is not None for size in own):
        caption = "The resident memory of loadgen's own processes."
        chart_id = f"chart-own-memory-{number}"
        charts.append(_memory_chart(chart_id, "loadgen's memory", caption, {"loadgen": own}, None, view))
    return tuple(charts)


def _memory_chart(
    chart_id: str, title: str, caption: str, series: Mapping[str, Points], metric: DriftMetric | None, view: StageView
) -> Chart:
    """series: by name, MiB in each window."""
    low, high = _range([value for values in series.values() for value in values])
    drawn = layout(_time_axis(view), {"title": {"text": "memory (MiB)"}, "range": [low, high]})
    traces = _gap_bars(view, low, high)
    for place, (name, values) in enumerate(series.items()):
        if any(value is not None for value in values):
            traces.append(_points(name, values, view, f"@model{place % MODEL_COLORS}", "MiB"))
    traces += [*_fitted(metric, view, 1.0), *_marks(view, drawn, high)]
    return Chart(id=chart_id, title=title, caption=caption, traces=tuple(traces), layout=drawn, height=300)


def with_events(events: Iterable[Event], model: str) -> tuple[Event, ...]:
    """The events that concern a model."""
    return tuple(event for event in events if event.model in (None, model))
