"""The charts of a selection: quality against latency, and who is first by weight. Pure data; knows no page."""

from collections.abc import Iterable, Sequence
from typing import Final

from loadgen.decisions.select.selection import CandidateRow, CriterionRow, Selection
from loadgen.decisions.select.words import quality_text
from loadgen.report.charts.figure import LOG_FROM, MODEL_COLORS, Trace, hover_text, label, layout, log_axis
from loadgen.report.format import format_duration
from loadgen.report.section import Chart

QUALITY_CHART: Final = "chart-quality"
BANDS_CHART: Final = "chart-bands"
BAND_HEIGHT: Final = 46
"""The height of one row of bands, in pixels."""


def colors_of(selection: Selection) -> dict[str, str]:
    """The color of each candidate, by its name: the same in all charts."""
    names = sorted(row.name for row in selection.candidates)
    return {name: f"@model{at % MODEL_COLORS}" for at, name in enumerate(names)}


def quality_chart(selection: Selection) -> Chart | None:
    """Quality against latency, with intervals and the Pareto front; None if one of them is not known of anybody."""
    rows = [row for row in selection.candidates if {"quality", "latency"} <= set(row.criteria)]
    if not rows:
        return None
    colors = colors_of(selection)
    times = [end / 1000 for row in rows for end in _ends(row.criteria["latency"])]
    x: dict[str, object] = {"title": {"text": "E2E, geometric mean over prompts (s)"}, "rangemode": "tozero"}
    if max(times) > LOG_FROM * min(times):
        x = log_axis(min(times), max(times)) | {"title": {"text": "E2E, geometric mean over prompts (s)"}}
    drawn = layout(x, {"title": {"text": "quality (points of 100)"}, "range": [-2, 102]})
    traces: list[Trace] = [*_front(rows), *(_point(row, colors[row.name]) for row in rows)]
    caption = "Up and to the left is better. Lines: 95 % intervals. Hollow: out. Dashed: the Pareto front."
    return Chart(
        id=QUALITY_CHART,
        title="Quality against latency",
        caption=caption,
        traces=tuple(traces),
        layout=drawn,
        height=420,
    )


def _ends(row: CriterionRow) -> tuple[float, ...]:
    return (row.value, *(row.ci or ()))


def _front(rows: Sequence[CandidateRow]) -> Iterable[Trace]:
    front = sorted((row for row in rows if row.pareto), key=lambda row: row.criteria["latency"].value)
    if len(front) > 1:
        yield {
            "x": [round(row.criteria["latency"].value / 1000, 4) for row in front],
            "y": [round(row.criteria["quality"].value, 2) for row in front],
            "mode": "lines",
            "name": "Pareto front",
            "line": {"color": "@axis", "width": 1.5, "dash": "dash"},
            "hoverinfo": "skip",
        }


def _point(row: CandidateRow, color: str) -> Trace:
    quality, latency = row.criteria["quality"], row.criteria["latency"]
    state = [] if row.out is None else [f"out: {label(row.out)}"]
    return {
        "x": [round(latency.value / 1000, 4)],
        "y": [round(quality.value, 2)],
        "mode": "markers",
        "name": label(row.name),
        "marker": {
            "color": color,
            "size": 12,
            "symbol": "circle" if row.eligible else "circle-open",
            "line": {"width": 2, "color": color},
        },
        "error_x": _error(latency, 1000, color),
        "error_y": _error(quality, 1, color),
        "text": [
            hover_text(
                label(row.name),
                "",
                f"quality {quality_text(quality)}",
                f"E2E {format_duration(latency.value)}",
                *state,
            )
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _error(row: CriterionRow, divisor: float, color: str) -> dict[str, object]:
    low, high = row.ci or (row.value, row.value)
    return {
        "type": "data",
        "symmetric": False,
        "array": [round((high - row.value) / divisor, 4)],
        "arrayminus": [round((row.value - low) / divisor, 4)],
        "color": color,
        "thickness": 1.5,
        "width": 4,
    }


def bands_chart(selection: Selection) -> Chart | None:
    """Who is first for each share of each criterion; None if there is nothing to compare."""
    sensitivity = selection.sensitivity
    if len(sensitivity) < 2 or sum(row.eligible for row in selection.candidates) < 2:
        return None
    colors = colors_of(selection)
    names = list(sensitivity)
    traces: list[Trace] = []
    shown: set[str] = set()
    for place, name in enumerate(names):
        row = sensitivity[name]
        for (start, first), end in zip(row.first, [*(edge for edge, _ in row.first[1:]), 1.0], strict=True):
            width = end - start
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "x": [round(width, 5)],
                    "base": [round(start, 5)],
                    "y": [place],
                    "width": [0.62],
                    "name": label(first),
                    "legendgroup": label(first),
                    "showlegend": first not in shown,
                    "marker": {"color": colors[first], "line": {"width": 1, "color": "@card"}},
                    "text": [hover_text(label(first), " is first", f"while {name} weighs {start:.3g} to {end:.3g}")],
                    "textposition": "none",
                    "hovertemplate": "%{text}<extra></extra>",
                }
            )
            shown.add(first)
    drawn = layout(
        {"title": {"text": "share of the weight; the others keep their proportion"}, "range": [0, 1]},
        {
            "tickmode": "array",
            "tickvals": list(range(len(names))),
            "ticktext": [label(name) for name in names],
            "range": [len(names) - 0.5, -0.5],
            "title": {"text": ""},
            "showgrid": False,
        },
    )
    drawn["barmode"] = "overlay"
    drawn["shapes"] = [
        {
            "type": "line",
            "x0": sensitivity[name].weight,
            "x1": sensitivity[name].weight,
            "y0": place - 0.42,
            "y1": place + 0.42,
            "line": {"color": "@ink", "width": 2.5},
        }
        for place, name in enumerate(names)
    ]
    drawn["margin"] |= {"l": 90}
    caption = "Each row: who is first for each share of one criterion. The line: the share as it is now."
    title, height = "Who is first, by weight", BAND_HEIGHT * len(names) + 120
    return Chart(id=BANDS_CHART, title=title, caption=caption, traces=tuple(traces), layout=drawn, height=height)
