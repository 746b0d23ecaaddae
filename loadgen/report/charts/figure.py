"""The parts that all charts share: axes, colors and text in plotly.js's form. Pure; knows no page.

Colors are names that start with `@`; the style sheet has a light and a dark value for each. Text from a server, a file
or the user must pass through `label`, because plotly.js interprets some markup.
"""

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import Final

from loadgen.redact import printable
from loadgen.report.metric_names import DAGGER
from loadgen.report.section import PlotlyObject, ReportStage

Trace = PlotlyObject
Axis = PlotlyObject

MODEL_COLORS: Final = 6
"""Each model has its own color, `@model0`…; the seventh model has the color of the first."""
LEVEL_COLORS: Final = 8
"""Levels have a ramp of colors, `@level0`…, from low to high load."""
LOG_FROM: Final = 40.0
"""An axis whose values span more than this many times is logarithmic."""
SLO_IN_SIGHT: Final = 4.0
"""A limit that is more than this many times above all measured values would flatten a chart; its caption states it."""
_BREAK: Final = "<br>"
_BOLD: Final = "<b>{}</b>"


def by_model(stages: Iterable[ReportStage]) -> dict[str, list[ReportStage]]:
    """Stages of each model and target, in order of first appearance."""
    grouped: dict[str, list[ReportStage]] = {}
    for stage in stages:
        grouped.setdefault(stage.who, []).append(stage)
    return grouped


def label(text: str) -> str:
    """Text that plotly.js shows literally."""
    return html.escape(printable(text), quote=False)


def hover_text(title: str, *lines: str) -> str:
    """The text beside a point under the pointer: a title in bold, the rest of its line, and more lines.

    All texts have already passed through `label`.
    """
    return _BREAK.join([_BOLD.format(title) + "".join(lines[:1]), *lines[1:]])


def stage_hover(stage: ReportStage, *lines: str) -> str:
    """The text beside a point of a stage under the pointer."""
    invalid = ["invalid: not to be believed"] if stage.is_invalid else []
    return hover_text(label(stage.load), f" · {label(stage.who)}", *lines, *invalid)


def unit(values_ms: Sequence[float]) -> tuple[str, float]:
    """The best unit for these values in ms, and the factor to convert them: ms, or s from one second on."""
    return ("s", 1e-3) if values_ms and max(values_ms) >= 1000 else ("ms", 1.0)


def rounded(values: Iterable[float | None]) -> list[float | None]:
    """The values rounded to six significant digits, which keeps the page small without a visible effect."""
    return [None if value is None else float(f"{value:.6g}") for value in values]


def mark_caption(stages: Sequence[ReportStage], metric: str) -> str:
    """The reasons why a metric is not what its name says in some stages, for a chart's caption; empty if there are
    none."""
    reasons = dict.fromkeys(stage.summary.not_valid[metric] for stage in stages if metric in stage.summary.not_valid)
    return "".join(f" {DAGGER} {why}." for why in reasons)


def slo_ms(stages: Sequence[ReportStage], name: str) -> float | None:
    """The limit that the scenario sets for a metric; None without one."""
    attained = (stage.summary.slo for stage in stages)
    return next((attainment.slo[name] for attainment in attained if attainment and name in attainment.slo), None)


def layout(x: Axis, y: Axis) -> PlotlyObject:
    """The layout of a chart: axes with thin lines, the legend above, the background of the page."""
    quiet = {"gridcolor": "@grid", "linecolor": "@axis", "zeroline": False, "automargin": True, "ticks": "outside"}
    quiet |= {"tickcolor": "@axis"}
    return {
        "xaxis": quiet | x,
        "yaxis": quiet | y | ({"title": y["title"] | {"standoff": 12}} if "title" in y else {}),
        "margin": {"l": 56, "r": 16, "t": 8, "b": 48},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"},
        "hoverlabel": {"align": "left"},
        "showlegend": True,
        "shapes": [],
        "annotations": [],
    }


def log_axis(low: float, high: float) -> Axis:
    """A logarithmic axis from `low` to `high`, both above 0, with whole numbers instead of powers at its ticks."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return {"type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:.6g}" for tick in ticks]}


def level_axis(stages: Sequence[ReportStage]) -> Axis:
    """Levels side by side at 0, 1, 2…, in the plan's order, for any kind of load."""
    by_level = {stage.level: stage for stage in stages}
    closed = [stage.is_closed for stage in stages]
    texts = [label(stage.load) for stage in by_level.values()]
    if all(closed):
        texts = [re.sub(" users?", "", text).replace(" (", f"{_BREAK}(") for text in texts]
    # If the stages of only some models are invalid, their faded points show it.
    invalid = set(by_level) - {stage.level for stage in stages if not stage.is_invalid}
    title = "users at once" if all(closed) else "load" if any(closed) else "load (requests per second)"
    # At least three places wide, so that a single level does not fill the chart.
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
    """The position of each level on the level axis."""
    return {level: place for place, level in enumerate(dict.fromkeys(stage.level for stage in stages))}


def aside(index: int, count: int) -> float:
    """The horizontal offset of a mark, so that the `count` marks of a level do not hide each other."""
    step = min(0.12, 0.7 / count)
    return round((index - (count - 1) / 2) * step, 4)


def draw_limit(drawn: PlotlyObject, traces: list[Trace], axis: str, at: float, text: str) -> None:
    """Draw a limit as a dashed line across a chart, and name it in the legend. axis: "x" or "y", the axis of its
    value."""
    other = "y" if axis == "x" else "x"
    ends = {f"{axis}0": at, f"{axis}1": at, f"{other}0": 0, f"{other}1": 1, f"{other}ref": "paper"}
    drawn["shapes"].append({"type": "line", "line": {"color": "@limit", "width": 1.5, "dash": "dash"}} | ends)
    # A line of one point draws nothing, but it keeps the limit inside the axis and adds an entry to the legend.
    look = {"mode": "lines", "name": text, "line": {"color": "@limit", "width": 1.5, "dash": "dash"}}
    traces.append(look | {"hoverinfo": "skip", axis: [at], other: [0.5 if axis == "x" else 0]})
