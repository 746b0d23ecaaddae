"""What all charts share: axes, colors and text in plotly.js's shape. Pure; knows no page.

Colors are names that begin with `@`; the style sheet has a light and a dark value for each. Text that a server, a
file or a person chose goes through `label`, since plotly.js reads a little markup.
"""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Final

from loadgen.redact import printable
from loadgen.report.metric_names import DAGGER
from loadgen.report.section import PlotlyObject, ReportStage

Trace = PlotlyObject
Axis = PlotlyObject

MODEL_COLORS: Final = 6
"""Models have colors of their own, `@model0`…; the seventh shares the first's."""
LEVEL_COLORS: Final = 8
"""Levels have a ramp, `@level0`… from little load to much."""
LOG_FROM: Final = 40.0
"""An axis whose values span more than this many times is logarithmic."""
SLO_IN_SIGHT: Final = 4.0
"""A limit more than so many times above everything measured would flatten a chart: it is stated, and not drawn."""
_BREAK: Final = "<br>"
_BOLD: Final = "<b>{}</b>"


def by_model(stages: Iterable[ReportStage]) -> dict[str, list[ReportStage]]:
    """Stages of each model and target, in order of first appearance."""
    grouped: dict[str, list[ReportStage]] = {}
    for stage in stages:
        grouped.setdefault(stage.who, []).append(stage)
    return grouped


def label(text: str) -> str:
    """Text that plotly.js shows as it is."""
    return html.escape(printable(text), quote=False)


def hover_text(title: str, *lines: str) -> str:
    """What stands beside a point when it is pointed at: a title in bold, what follows it on its line, and more lines.

    All are `label`s already.
    """
    return _BREAK.join([_BOLD.format(title) + "".join(lines[:1]), *lines[1:]])


def stage_hover(stage: ReportStage, *lines: str) -> str:
    """What a point of a stage says when it is pointed at."""
    invalid = ["invalid: not to be believed"] if stage.is_invalid else []
    return hover_text(label(stage.load), f" · {label(stage.who)}", *lines, *invalid)


def unit(values_ms: Sequence[float]) -> tuple[str, float]:
    """The unit in which these ms are best read, and the factor to it: ms, or s from a second on."""
    return ("s", 1e-3) if values_ms and max(values_ms) >= 1000 else ("ms", 1.0)


def rounded(values: Iterable[float | None]) -> list[float | None]:
    """Six significant digits, which no screen resolves, keep the page small."""
    return [None if value is None else float(f"{value:.6g}") for value in values]


def mark_note(stages: Sequence[ReportStage], metric: str) -> str:
    """Why a metric is not what its name says in some of the stages, to be added to a chart's note; empty where it
    is."""
    reasons = dict.fromkeys(stage.summary.not_valid[metric] for stage in stages if metric in stage.summary.not_valid)
    return "".join(f" {DAGGER} {why}." for why in reasons)


def slo_ms(stages: Sequence[ReportStage], name: str) -> float | None:
    """The limit that the scenario sets for a metric; None without one."""
    attained = (stage.summary.slo for stage in stages)
    return next((attainment.slo[name] for attainment in attained if attainment and name in attainment.slo), None)


def layout(x: Axis, y: Axis) -> PlotlyObject:
    """A plain chart: axes with quiet lines, the legend above, the page's own background."""
    quiet = {"gridcolor": "@grid", "linecolor": "@axis", "zeroline": False, "automargin": True, "ticks": "outside"}
    quiet |= {"tickcolor": "@axis"}
    return {
        "xaxis": quiet | x,
        "yaxis": quiet | y,
        "margin": {"l": 56, "r": 16, "t": 8, "b": 48},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"},
        "hoverlabel": {"align": "left"},
        "showlegend": True,
        "shapes": [],
        "annotations": [],
    }


def log_axis(low: float, high: float) -> Axis:
    """A logarithmic axis from `low` to `high`, both above 0, with whole numbers at its ticks rather than powers."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return {"type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:.6g}" for tick in ticks]}


def level_axis(stages: Sequence[ReportStage]) -> Axis:
    """Levels side by side at 0, 1, 2…, in the plan's order, whatever kind of load they are."""
    by_level = {stage.level: stage for stage in stages}
    closed = [stage.is_closed for stage in stages]
    texts = [str(stage.summary.load.concurrency) if all(closed) else label(stage.load) for stage in by_level.values()]
    # Where only some models' stages are invalid, their faded points say so.
    invalid = set(by_level) - {stage.level for stage in stages if not stage.is_invalid}
    title = "users at once" if all(closed) else "load" if any(closed) else "load (requests per second)"
    # Never fewer than three places wide, lest a single level fill the chart.
    middle, half = (len(by_level) - 1) / 2, max(len(by_level), 3) / 2
    return {
        "tickmode": "array",
        "tickvals": list(range(len(by_level))),
        "ticktext": [
            text + _BREAK + "✕ invalid" if level in invalid else text
            for level, text in zip(by_level, texts, strict=True)
        ],
        "range": [middle - half, middle + half],
        "title": {"text": title},
    }


def positions(stages: Sequence[ReportStage]) -> dict[str, int]:
    """Where each level stands on the level axis."""
    return {level: place for place, level in enumerate(dict.fromkeys(stage.level for stage in stages))}


def aside(index: int, count: int) -> float:
    """How far to step aside from a level's place so that `count` marks do not hide each other."""
    step = min(0.12, 0.7 / count)
    return round((index - (count - 1) / 2) * step, 4)


def draw_limit(drawn: PlotlyObject, traces: list[Trace], axis: str, at: float, text: str) -> None:
    """Draw a limit as a dashed line across a chart, and name it in the legend, where it covers nothing; axis: "x" or
    "y", the one that it stands on."""
    other = "y" if axis == "x" else "x"
    ends = {f"{axis}0": at, f"{axis}1": at, f"{other}0": 0, f"{other}1": 1, f"{other}ref": "paper"}
    drawn["shapes"].append({"type": "line", "line": {"color": "@limit", "width": 1.5, "dash": "dash"}} | ends)
    # A line of one point draws nothing, keeps the limit inside the axis, and has its place in the legend.
    look = {"mode": "lines", "name": text, "line": {"color": "@limit", "width": 1.5, "dash": "dash"}}
    traces.append(look | {"hoverinfo": "skip", axis: [at], other: [0.5 if axis == "x" else 0]})
