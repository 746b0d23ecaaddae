"""The charts of a search: shares by level, throughput by level, and the visits over time. Pure data, without a page.

The axis places neighboring levels at equal distances, so that the levels near the answer can be told apart.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from loadgen.decisions.capacity.answer import LevelAnswer, ModelAnswer
from loadgen.decisions.capacity.words import format_level, share_text
from loadgen.report.charts.figure import MODEL_COLORS, Trace, hover_text, label, layout, rounded
from loadgen.report.format import format_number, format_percent, format_time
from loadgen.report.section import Chart, PlotlyObject

LANE_PX: Final = 22
FRAME_PX: Final = 110
_HALF: Final = 0.5
_STATE_COLORS: Final = {
    "holds": "@better",
    "fails": "@worse",
    "undecided": "@unknown",
    "not_judged": "@degraded-ink",
}


class VisitSpan(Struct, frozen=True):
    """The time during which a visit was played, in seconds since the run began."""

    level: float
    name: str
    start_s: float
    end_s: float
    requests: int


def search_charts(model: ModelAnswer, number: int, visits: Sequence[VisitSpan]) -> tuple[Chart, ...]:
    """The charts of one model's search. number: the model's place, which makes ids unique. visits: those of the
    model."""
    levels = [level for level in model.levels if level.requests]
    if not levels:
        return ()
    charts = [_shares(model, levels, number), _throughput(model, levels, number), _timeline(model, visits, number)]
    return tuple(chart for chart in charts if chart is not None)


def _axis(model: ModelAnswer, levels: Sequence[LevelAnswer]) -> PlotlyObject:
    unit = "users at once" if model.search == "users" else "requests per second"
    return {
        "tickmode": "array",
        "tickvals": list(range(len(levels))),
        "ticktext": [f"{level.level:.4g}" for level in levels],
        "range": [-_HALF - 0.1, len(levels) - _HALF + 0.1],
        "title": {"text": unit},
    }


def _place(level: float, levels: Sequence[LevelAnswer]) -> float | None:
    """The place of a level on the axis; between two of `levels` by its logarithm; None outside them."""
    known = [each.level for each in levels]
    if not known[0] <= level <= known[-1]:
        return None
    return float(np.interp(math.log(level), np.log(known), np.arange(len(known))))


def _shares(model: ModelAnswer, levels: Sequence[LevelAnswer], number: int) -> Chart:
    names = [objective.objective for objective in model.objectives]
    lowest = [100 * each.share_ci[0] for level in levels for each in level.objectives if each.share_ci is not None]
    asked = [100 * objective.share for objective in model.objectives]
    floor = max(0.0, 10 * math.floor((min([*lowest, *asked]) - 3) / 10))
    drawn = layout(_axis(model, levels), {"title": {"text": "share that met it (%)"}, "range": [floor, 101]})
    drawn |= {"barmode": "overlay", "bargap": 0}
    drawn["shapes"] = _bands(model, levels)
    traces = [*_between(model, levels, floor)]
    for at, name in enumerate(names):
        traces += _objective(levels, at, name, len(names))
        limit = {"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": asked[at], "y1": asked[at]}
        drawn["shapes"].append(limit | {"line": {"color": f"@model{at % MODEL_COLORS}", "width": 1.5, "dash": "dash"}})
    caption = (
        "Points: the share of requests that met each objective, with its 95 % interval. Dashed: the share asked. "
        "Green: shown to hold. Red: shown not to. Hatched: not decided."
    )
    return Chart(
        id=f"chart-shares-{number}",
        title="Requests that met the objectives",
        caption=caption,
        traces=tuple(traces),
        layout=drawn,
    )


def _bands(model: ModelAnswer, levels: Sequence[LevelAnswer]) -> list[PlotlyObject]:
    """Green up to `holds`, red from `fails`."""
    bands = []
    for from_level, to_level, color in ((None, model.holds, "@valid"), (model.fails, None, "@invalid")):
        if from_level is None and to_level is None:
            continue
        start = -_HALF if from_level is None else _edge(from_level, levels, -_HALF)
        end = len(levels) - _HALF if to_level is None else _edge(to_level, levels, _HALF)
        sides = {"x0": start, "x1": end, "y0": 0, "y1": 1, "yref": "paper"}
        bands.append({"type": "rect", "layer": "below", "fillcolor": color, "line": {"width": 0}, **sides})
    return bands


def _edge(level: float, levels: Sequence[LevelAnswer], side: float) -> float:
    place = _place(level, levels)
    return (0.0 if place is None else place) + side


def _between(model: ModelAnswer, levels: Sequence[LevelAnswer], floor: float) -> list[Trace]:
    """The hatched area between the levels that are shown."""
    start = -_HALF if model.holds is None else _edge(model.holds, levels, _HALF)
    end = len(levels) - _HALF if model.fails is None else _edge(model.fails, levels, -_HALF)
    if end <= start:
        return []
    hatched = {"color": "@skipped", "pattern": {"shape": "/", "size": 8, "solidity": 0.2}, "line": {"width": 0}}
    bar = {"type": "bar", "x": [(start + end) / 2], "width": [end - start], "base": [floor], "y": [101 - floor]}
    return [bar | {"marker": hatched, "opacity": 0.6, "hoverinfo": "skip", "showlegend": False}]


def _objective(levels: Sequence[LevelAnswer], at: int, name: str, count: int) -> list[Trace]:
    """The share of one objective by level. A step aside keeps several objectives from hiding each other."""
    aside = (at - (count - 1) / 2) * min(0.12, 0.6 / count)
    points = [
        (place, level, level.objectives[at])
        for place, level in enumerate(levels)
        if at < len(level.objectives) and level.objectives[at].share is not None
    ]
    if not points:
        return []
    shares = [100 * (objective.share or 0.0) for _, _, objective in points]
    ends = [objective.share_ci or (objective.share or 0.0,) * 2 for _, _, objective in points]
    color = f"@model{at % MODEL_COLORS}"
    intervals = {
        "type": "data",
        "symmetric": False,
        "array": rounded(100 * high - share for (_, high), share in zip(ends, shares, strict=True)),
        "arrayminus": rounded(share - 100 * low for (low, _), share in zip(ends, shares, strict=True)),
        "color": color,
        "thickness": 2,
        "width": 4,
    }
    texts = [
        hover_text(label(name), f" {share_text(objective)}", f"{level.state}, {level.requests} requests")
        for _, level, objective in points
    ]
    places = [place + aside for place, _, _ in points]
    style = {"mode": "markers", "name": label(name), "marker": {"color": color, "size": 9}, "error_y": intervals}
    return [{"x": places, "y": rounded(shares), **style, "hovertext": texts, "hoverinfo": "text"}]


def _throughput(model: ModelAnswer, levels: Sequence[LevelAnswer], number: int) -> Chart | None:
    rates = [(place, level) for place, level in enumerate(levels) if level.requests_per_s]
    if not rates:
        return None
    drawn = layout(_axis(model, levels), {"title": {"text": "requests per second"}, "rangemode": "tozero"})
    texts = [
        hover_text(
            label(format_level(level.level, model.search)),
            "",
            f"{format_number(level.requests_per_s)} requests/s",
            f"{format_number(level.output_tokens_per_s)} output tokens/s",
        )
        for _, level in rates
    ]
    measured = {
        "x": [place for place, _ in rates],
        "y": rounded(level.requests_per_s for _, level in rates),
        "mode": "lines+markers",
        "name": "measured",
        "line": {"color": "@model0", "width": 2},
        "marker": {"color": "@model0", "size": 9},
        "hovertext": texts,
        "hoverinfo": "text",
    }
    traces: list[Trace] = [measured, *_usl(model, levels)]
    marks = [(model.throughput.saturates_at, "95 % of the most", "dot")]
    if model.search == "users":
        marks.append((model.throughput.knee, "knee", "dash"))
    for level, name, dash in marks:
        place = None if level is None else _place(level, levels)
        if place is not None and level is not None:
            line = {"color": "@axis", "width": 1.5, "dash": dash}
            top = max(each.requests_per_s or 0.0 for each in levels)
            named = f"{name} ({level:.3g})"
            traces.append({"x": [place, place], "y": [0, top], "mode": "lines", "name": named, "line": line})
    caption = "Requests that ended, a second, at each level."
    if model.throughput.usl is not None:
        caption += " Dotted: the Universal Scalability Law, as an explanation and not as a forecast."
    return Chart(
        id=f"chart-rates-{number}", title="Throughput by level", caption=caption, traces=tuple(traces), layout=drawn
    )


def _usl(model: ModelAnswer, levels: Sequence[LevelAnswer]) -> list[Trace]:
    usl = model.throughput.usl
    if usl is None:
        return []
    rates = [
        usl.rate * n / (1 + usl.contention * (n - 1) + usl.coherence * n * (n - 1))
        for n in (level.level for level in levels)
    ]
    line = {"color": "@model1", "width": 1.5, "dash": "dot"}
    return [{"x": list(range(len(levels))), "y": rounded(rates), "mode": "lines", "name": "USL", "line": line}]


def _timeline(model: ModelAnswer, visits: Sequence[VisitSpan], number: int) -> Chart | None:
    if not visits:
        return None
    names = sorted({visit.level for visit in visits})
    states = {level.level: level.state for level in model.levels}
    drawn = layout(
        {"title": {"text": "seconds since the run began (s)"}, "rangemode": "tozero"},
        {
            "title": {"text": "users" if model.search == "users" else "requests/s"},
            "tickmode": "array",
            "tickvals": list(range(len(names))),
            "ticktext": [f"{level:.4g}" for level in names],
            "range": [-0.6, len(names) - 0.4],
        },
    )
    drawn |= {"barmode": "overlay", "bargap": 0.3}
    traces: list[Trace] = []
    for state, color in _STATE_COLORS.items():
        own = [visit for visit in visits if states.get(visit.level) == state]
        if own:
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": state.replace("_", " "),
                    "y": [names.index(visit.level) for visit in own],
                    "base": rounded(visit.start_s for visit in own),
                    "x": rounded(visit.end_s - visit.start_s for visit in own),
                    "marker": {"color": color, "line": {"width": 1, "color": "@card"}},
                    "hovertext": [_visit_text(visit) for visit in own],
                    "hoverinfo": "text",
                }
            )
    return Chart(
        id=f"chart-visits-{number}",
        title="Visits over time",
        caption="Each bar is one visit of a level. Its color is what all visits of the level show together.",
        traces=tuple(traces),
        layout=drawn,
        height=FRAME_PX + LANE_PX * max(len(names), 4),
    )


def _visit_text(visit: VisitSpan) -> str:
    lasted = format_time(visit.end_s - visit.start_s)
    return hover_text(label(visit.name), "", f"{visit.requests} requests in {lasted}")


def asked_text(model: ModelAnswer) -> str:
    """The objectives, in words."""
    return ", ".join(f"{each.objective} ({format_percent(each.share)} of the requests)" for each in model.objectives)
