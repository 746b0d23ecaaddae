"""Distributions by level as ECDF steps: TTFT of requests, and the gaps between tokens. Pure data; knows no page."""

from collections.abc import Callable, Sequence
from typing import Final, Literal

import numpy as np

from loadgen.analysis.metrics import Ns
from loadgen.analysis.stage import StageData
from loadgen.report.charts.figure import (
    LEVEL_COLORS,
    LOG_FROM,
    SLO_IN_SIGHT,
    Trace,
    by_model,
    draw_limit,
    label,
    layout,
    log_axis,
    mark_caption,
    rounded,
    slo_ms,
    unit,
)
from loadgen.report.format import format_duration, format_percent
from loadgen.report.section import Chart, ReportStage

MAX_STEPS: Final = 600
"""The maximum number of steps of a curve; a longer one is thinned evenly in rank, and keeps both ends."""
Curve = tuple[ReportStage, Ns]
"""A stage, and the values of one metric in it, ascending, in ns."""
Scale = Literal["linear", "log"]


def distribution_charts(stages: Sequence[ReportStage]) -> list[Chart]:
    """For each model, the distributions of its TTFTs and of the gaps between its tokens, one curve per level."""
    charts: list[Chart] = []
    models = by_model(stages)
    for number, (who, own_stages) in enumerate(models.items()):
        suffix = f": {who}" if len(models) > 1 else ""
        drawn = (_ttft_chart(own_stages, number, suffix), _itl_chart(own_stages, number, suffix))
        charts += [chart for chart in drawn if chart is not None]
    return charts


def _curves(stages: Sequence[ReportStage], values_of: Callable[[StageData], Ns]) -> list[Curve]:
    """The values of each stage in all runs, sorted once for all later uses."""
    pooled = ((stage, _pooled([values_of(data) for data in stage.runs])) for stage in stages)
    return [(stage, np.sort(values)) for stage, values in pooled if len(values)]


def _pooled(arrays: Sequence[Ns]) -> Ns:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _ttft_values(data: StageData) -> Ns:
    return data.values["ttft"]


def _gap_values(data: StageData) -> Ns:
    return data.gaps.values


def _ttft_chart(stages: Sequence[ReportStage], number: int, suffix: str) -> Chart | None:
    curves = _curves(stages, _ttft_values)
    if not curves:
        return None
    low_ms, high_ms = _range_ms(curves)
    limit = slo_ms(stages, "ttft_ms")
    shown_limit = limit if limit is not None and limit <= SLO_IN_SIGHT * high_ms else None
    name, factor = unit([high_ms, shown_limit or 0.0])
    drawn = layout({"title": {"text": f"time to first token ({name})"}}, _share_axis("requests"))
    scale: Scale = "log" if high_ms > LOG_FROM * low_ms > 0 else "linear"
    if scale == "log":
        drawn["xaxis"] |= log_axis(low_ms * factor, high_ms * factor)
    else:
        drawn["xaxis"]["rangemode"] = "tozero"
    traces = _traces(curves, factor, name, scale)
    caption = (
        "The share of answered requests whose first token came within the time on the axis. Further left is faster."
    )
    if shown_limit is not None:
        draw_limit(drawn, traces, "x", shown_limit * factor, f"SLO ≤ {format_duration(limit)}")
    caption += mark_caption(stages, "ttft_ms")
    title = f"Spread of time to first token{suffix}"
    return Chart(id=f"chart-ttft-spread-{number}", title=title, caption=caption, traces=tuple(traces), layout=drawn)


def _itl_chart(stages: Sequence[ReportStage], number: int, suffix: str) -> Chart | None:
    known = [stage for stage in stages if not _is_withheld(stage, "itl_ms")]
    curves = [(stage, gaps) for stage, gaps in _curves(known, _gap_values) if gaps[-1] > 0]
    if not curves:
        return None
    low_ms = min(float(gaps[_count_hidden(gaps)]) for _, gaps in curves) / 1e6
    axis = log_axis(low_ms, _range_ms(curves)[1])
    drawn = layout(axis | {"title": {"text": "gap between tokens (ms, log scale)"}}, _share_axis("gaps"))
    traces = _traces(curves, 1.0, "ms", "log")
    caption = "The share of gaps between a stream's tokens that are no longer than the time on the axis. "
    caption += "A tail to the right is stutter."
    zeros = max(_count_hidden(gaps) / len(gaps) for _, gaps in curves)
    if zeros > 0:
        caption += f" Up to {format_percent(zeros)} of the gaps are 0 (two tokens in one read), left of the axis."
    caption += mark_caption(stages, "itl_ms")
    title = f"Spread of gaps between tokens{suffix}"
    return Chart(id=f"chart-itl-spread-{number}", title=title, caption=caption, traces=tuple(traces), layout=drawn)


def _is_withheld(stage: ReportStage, name: str) -> bool:
    metric = stage.summary.metric(name)
    return name in stage.summary.not_valid and metric is not None and metric.count == 0


def _count_hidden(ordered: Ns) -> int:
    """How many of some ascending values a logarithmic axis cannot show, because they are not above 0."""
    return int(np.searchsorted(ordered, 0, side="right"))


def _share_axis(of: str) -> dict[str, object]:
    return {"title": {"text": f"share of {of} (%)"}, "range": [0, 104], "dtick": 25}


def _range_ms(curves: Sequence[Curve]) -> tuple[float, float]:
    return min(float(values[0]) for _, values in curves) / 1e6, max(float(values[-1]) for _, values in curves) / 1e6


def _traces(curves: Sequence[Curve], factor: float, name: str, scale: Scale) -> list[Trace]:
    traces: list[Trace] = []
    for place, (stage, values) in enumerate(curves):
        xs, shares = steps(values, scale)
        mark = " (invalid)" if stage.is_invalid else ""
        traces.append(
            {
                "x": rounded(x / 1e6 * factor for x in xs),
                "y": rounded(100 * share for share in shares),
                "mode": "lines",
                "name": f"{label(stage.load)}{mark}",
                "line": {
                    "shape": "hv",
                    "width": 2,
                    "color": f"@level{_shade(place, len(curves))}",
                    "dash": "dot" if stage.is_invalid else "solid",
                },
                "hovertemplate": f"%{{y:.3~g}} % within %{{x:.3~g}} {name}",
            }
        )
    return traces


def _shade(place: int, count: int) -> int:
    """The color of a level, so that the levels are spread over the whole ramp of colors."""
    return round(place * (LEVEL_COLORS - 1) / (count - 1)) if count > 1 else LEVEL_COLORS // 2


def steps(ordered: Ns, scale: Scale) -> tuple[list[int], list[float]]:
    """The ECDF of some values in ns: the positions of its steps and the heights after them, from the foot of the first.

    ordered: ascending, at least one value. On a logarithmic scale, values that it cannot show are left out, but the
    heights count them.
    """
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    xs, shares = ordered[last], (last + 1) / len(ordered)
    hidden = _count_hidden(xs) if scale == "log" else 0
    foot = float(shares[hidden - 1]) if hidden else 0.0
    xs, shares = xs[hidden:], shares[hidden:]
    if len(xs) > MAX_STEPS:
        thinned = np.unique(np.linspace(0, len(xs) - 1, MAX_STEPS).round().astype(np.int64))
        xs, shares = xs[thinned], shares[thinned]
    return [int(xs[0]), *(int(x) for x in xs)], [foot, *(float(share) for share in shares)]
