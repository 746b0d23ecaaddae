"""What all charts share: a chart as plain data in plotly.js's shape, and its axes. Pure; knows no page and no color.

Colors are names that begin with `@`; the style sheet has a light and a dark value for each. Text that a server, a
file or a person chose goes through `label`, since plotly.js reads a little markup.
"""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from msgspec import UNSET, Struct

from loadgen.analysis.stage import StageData, stages_of
from loadgen.analysis.summary import StageSummary, Summary, Validity
from loadgen.redact import printable
from loadgen.report.format import format_load
from loadgen.store.run_folder import Run

Trace = dict[str, Any]
Axis = dict[str, Any]

MODEL_COLORS: Final = 6
"""Models have colors of their own, `@model0`…; the seventh shares the first's."""
LEVEL_COLORS: Final = 8
"""Levels have a ramp, `@level0`… from little load to much."""
HEIGHT: Final = 340
LOG_FROM: Final = 40.0
"""An axis whose values span more than this many times is logarithmic."""
SLO_IN_SIGHT: Final = 4.0
"""A limit more than so many times above everything measured would flatten a chart: it is told, and not drawn."""


class Chart(Struct, frozen=True, kw_only=True):
    """One chart. id: of its element, fixed. note: what to know when reading it; may be empty. height: pixels."""

    id: str
    title: str
    note: str
    traces: tuple[Trace, ...]
    layout: dict[str, Any]
    height: int = HEIGHT


class ChartStage(Struct, frozen=True):
    """One stage that was played: its summary and its records. number: its place in the run, from 0."""

    number: int
    stage: StageSummary
    part: StageData

    @property
    def who(self) -> str:
        return f"{self.stage.model} on {self.stage.target}"

    def name(self, *, alone: bool) -> str:
        """What to call it; alone: its model is the run's only one."""
        return self.load if alone else f"{self.who}, {self.load}"

    @property
    def load(self) -> str:
        return format_load(self.stage.load)

    @property
    def invalid(self) -> bool:
        return isinstance(self.stage.validity, Validity) and self.stage.validity.verdict == "invalid"

    def metric(self, name: str) -> dict[str, Any]:
        """A metric as the summary has it; empty when there is none."""
        return {} if self.stage.metrics is UNSET else self.stage.metrics.get(name, {})


def played(summary: Summary, run: Run) -> list[ChartStage]:
    """The stages that have results, in the run's order. ValueError when the summary is not of this run."""
    pairs = enumerate(zip(summary.stages, stages_of(run), strict=True))
    return [ChartStage(number, stage, part) for number, (stage, part) in pairs if stage.requests is not UNSET]


def by_model(stages: Iterable[ChartStage]) -> dict[str, list[ChartStage]]:
    """Stages of each model and target, in order of first appearance."""
    found: dict[str, list[ChartStage]] = {}
    for one in stages:
        found.setdefault(one.who, []).append(one)
    return found


def label(text: str) -> str:
    """Text that plotly.js shows as it is."""
    return html.escape(printable(text), quote=False)


def hover(one: ChartStage, *lines: str) -> str:
    """What a point of a stage says when pointed at; lines are taken as they are."""
    invalid = ["invalid: not to be believed"] if one.invalid else []
    return "<br>".join([f"<b>{label(one.load)}</b> · {label(one.who)}", *lines, *invalid])


def unit(values_ms: Sequence[float]) -> tuple[str, float]:
    """The unit in which these ms are best read, and the factor to it: ms, or s from a second on."""
    return ("s", 1e-3) if values_ms and max(values_ms) >= 1000 else ("ms", 1.0)


def rounded(values: Iterable[float | None]) -> list[float | None]:
    """Six significant digits, which no screen resolves, keep the page small."""
    return [None if value is None else float(f"{value:.6g}") for value in values]


def slo_ms(stages: Sequence[ChartStage], name: str) -> float | None:
    """The limit that the scenario sets for a metric; None without one."""
    return next((one.stage.slo.slo[name] for one in stages if one.stage.slo and name in one.stage.slo.slo), None)


def layout(x: Axis, y: Axis) -> dict[str, Any]:
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


def level_axis(stages: Sequence[ChartStage]) -> Axis:
    """Levels side by side at 0, 1, 2…, in the plan's order, whatever kind of load they are."""
    told = {one.stage.level: one for one in stages}
    closed = all(one.part.closed for one in stages)
    texts = [str(one.stage.load["concurrency"]) if closed else label(one.load) for one in told.values()]
    # Where only some models' stages are invalid, their faded points say so.
    bad = set(told) - {one.stage.level for one in stages if not one.invalid}
    title = (
        "users at once"
        if closed
        else "load"
        if any(one.part.closed for one in stages)
        else "load (requests per second)"
    )
    # Never fewer than three places wide, lest a single level fill the chart.
    middle, half = (len(told) - 1) / 2, max(len(told), 3) / 2
    return {
        "tickmode": "array",
        "tickvals": list(range(len(told))),
        "ticktext": [f"{text}<br>✕ invalid" if key in bad else text for key, text in zip(told, texts, strict=True)],
        "range": [middle - half, middle + half],
        "title": {"text": title},
    }


def positions(stages: Sequence[ChartStage]) -> dict[str, int]:
    """Where each level stands on the level axis."""
    return {level: place for place, level in enumerate(dict.fromkeys(one.stage.level for one in stages))}


def aside(index: int, count: int) -> float:
    """How far to step aside from a level's place so that `count` marks do not hide each other."""
    step = min(0.12, 0.7 / count)
    return round((index - (count - 1) / 2) * step, 4)


def draw_limit(drawn: dict[str, Any], traces: list[Trace], axis: str, at: float, text: str) -> None:
    """Draw a limit as a dashed line across a chart, with its name; axis: "x" or "y", the one that it stands on."""
    other = "y" if axis == "x" else "x"
    ends = {f"{axis}0": at, f"{axis}1": at, f"{other}0": 0, f"{other}1": 1, f"{other}ref": "paper"}
    drawn["shapes"].append({"type": "line", "line": {"color": "@limit", "width": 1.5, "dash": "dash"}} | ends)
    # Of an annotation, a logarithmic axis wants the exponent, whereas of a shape it wants the value.
    spot = round(math.log10(at), 6) if drawn[f"{axis}axis"].get("type") == "log" else at
    where = {"x": spot, "y": 0, "yref": "paper", "xanchor": "left", "yanchor": "bottom", "textangle": -90}
    if axis == "y":
        where = {"x": 0, "xref": "paper", "y": spot, "xanchor": "left", "yanchor": "bottom"}
    drawn["annotations"].append({"text": text, "showarrow": False, "font": {"color": "@limit", "size": 12}} | where)
    # A point that is not seen keeps the line inside the axis.
    unseen = {"mode": "markers", "opacity": 0, "showlegend": False, "hoverinfo": "skip"}
    traces.append(unseen | {axis: [at], other: [0.5 if axis == "x" else 0]})
