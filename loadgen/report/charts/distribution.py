"""Distributions by level as ECDF steps: TTFT of requests, and the gaps between tokens. Pure data; knows no page."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from loadgen.analysis import metrics
from loadgen.analysis.metrics import Ns
from loadgen.report.charts.figure import (
    LEVEL_COLORS,
    LOG_FROM,
    SLO_IN_SIGHT,
    Chart,
    ChartStage,
    Trace,
    by_model,
    draw_limit,
    label,
    layout,
    log_axis,
    rounded,
    slo_ms,
    unit,
)
from loadgen.report.format import format_duration, format_percent

MOST_STEPS: Final = 600
"""Steps of one curve; beyond that it is thinned evenly in rank, with both ends kept."""
Curve = tuple[ChartStage, Ns]


def distribution_charts(stages: Sequence[ChartStage]) -> list[Chart]:
    """For each model how its TTFTs and the gaps between its tokens are spread, one curve a level."""
    charts: list[Chart] = []
    models = by_model(stages)
    for number, (who, mine) in enumerate(models.items()):
        suffix = f": {who}" if len(models) > 1 else ""
        charts += [chart for chart in (_ttft(mine, number, suffix), _itl(mine, number, suffix)) if chart is not None]
    return charts


def _ttft(stages: Sequence[ChartStage], number: int, suffix: str) -> Chart | None:
    curves = [(one, metrics.of_requests(one.part.ok, closed=one.part.closed)["ttft"]) for one in stages]
    curves = [(one, values) for one, values in curves if len(values)]
    if not curves:
        return None
    low_ms, high_ms = _range_ms(curves)
    limit = slo_ms(stages, "ttft_ms")
    shown_limit = limit if limit is not None and limit <= SLO_IN_SIGHT * high_ms else None
    name, factor = unit([high_ms, shown_limit or 0.0])
    drawn = layout({"title": {"text": f"time to first token ({name})"}}, _share_axis("requests"))
    if high_ms > LOG_FROM * low_ms > 0:
        drawn["xaxis"] |= log_axis(low_ms * factor, high_ms * factor)
    else:
        drawn["xaxis"]["rangemode"] = "tozero"
    traces = _curves(curves, factor, name, positive=drawn["xaxis"].get("type") == "log")
    note = "The share of answered requests whose first token came within a time. Further left is faster."
    if shown_limit is not None:
        draw_limit(drawn, traces, "x", shown_limit * factor, f"SLO ≤ {format_duration(limit)}")
    title = f"Spread of time to first token{suffix}"
    return Chart(id=f"chart-ttft-spread-{number}", title=title, note=note, traces=tuple(traces), layout=drawn)


def _itl(stages: Sequence[ChartStage], number: int, suffix: str) -> Chart | None:
    curves = [(one, metrics.gaps(one.part.ok)[0]) for one in stages]
    curves = [(one, values) for one, values in curves if len(values) and values.max() > 0]
    if not curves:
        return None
    low_ms = min(float(values[values > 0].min()) for _, values in curves) / 1e6
    axis = log_axis(low_ms, _range_ms(curves)[1])
    drawn = layout(axis | {"title": {"text": "gap between tokens (ms, log scale)"}}, _share_axis("gaps"))
    traces = _curves(curves, 1.0, "ms", positive=True)
    note = "The share of gaps between a stream's tokens up to a length. A tail to the right is stutter."
    zeros = max(float((values <= 0).mean()) for _, values in curves)
    if zeros > 0:
        note += f" Up to {format_percent(zeros)} of the gaps are 0 (two tokens in one read), left of the axis."
    title = f"Spread of gaps between tokens{suffix}"
    return Chart(id=f"chart-itl-spread-{number}", title=title, note=note, traces=tuple(traces), layout=drawn)


def _share_axis(of: str) -> dict[str, object]:
    return {"title": {"text": f"share of {of} (%)"}, "range": [0, 104], "dtick": 25}


def _range_ms(curves: Sequence[Curve]) -> tuple[float, float]:
    return min(float(v.min()) for _, v in curves) / 1e6, max(float(v.max()) for _, v in curves) / 1e6


def _curves(curves: Sequence[Curve], factor: float, name: str, *, positive: bool) -> list[Trace]:
    traces: list[Trace] = []
    for place, (one, values) in enumerate(curves):
        xs, shares = steps(values, positive=positive)
        mark = " (invalid)" if one.invalid else ""
        traces.append(
            {
                "x": rounded(x / 1e6 * factor for x in xs),
                "y": rounded(100 * share for share in shares),
                "mode": "lines",
                "name": f"{label(one.load)}{mark}",
                "line": {
                    "shape": "hv",
                    "width": 2,
                    "color": f"@level{_shade(place, len(curves))}",
                    "dash": "dot" if one.invalid else "solid",
                },
                "hovertemplate": f"%{{y:.3~g}} % within %{{x:.3~g}} {name}",
            }
        )
    return traces


def _shade(place: int, count: int) -> int:
    """Spread the levels that there are over the whole ramp."""
    return round(place * (LEVEL_COLORS - 1) / (count - 1)) if count > 1 else LEVEL_COLORS // 2


def steps(values: Ns, *, positive: bool) -> tuple[list[int], list[float]]:
    """The ECDF of some ns: where it steps, and its height from there on, beginning at the foot of its first step.

    positive: leave out what a logarithmic axis cannot show; the heights still count it.
    """
    ordered = np.sort(values)
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    xs, shares = ordered[last], (last + 1) / len(ordered)
    hidden = int((xs <= 0).sum()) if positive else 0
    foot = float(shares[hidden - 1]) if hidden else 0.0
    xs, shares = xs[hidden:], shares[hidden:]
    if len(xs) > MOST_STEPS:
        kept = np.unique(np.linspace(0, len(xs) - 1, MOST_STEPS).round().astype(np.int64))
        xs, shares = xs[kept], shares[kept]
    return [int(xs[0]), *(int(x) for x in xs)], [foot, *(float(share) for share in shares)]
