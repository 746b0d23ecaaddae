"""Charts by level: TTFT, throughput, and the memory and CPU of the server's process. Pure data; knows no page."""

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from loadgen.analysis.summary import Metric, Percentile
from loadgen.report.charts.figure import (
    LOG_FROM,
    MODEL_COLORS,
    SLO_IN_SIGHT,
    Trace,
    aside,
    by_model,
    draw_limit,
    label,
    layout,
    level_axis,
    log_axis,
    mark_caption,
    positions,
    rounded,
    slo_ms,
    stage_hover,
    unit,
)
from loadgen.report.format import format_duration, format_number, lower_bound
from loadgen.report.section import Chart, PlotlyObject, ReportStage, known_percentiles

SLOWEST: Final = "slowest"
"""The name of the slowest request, which replaces p90 if no stage knows it."""
FADED: Final = 0.35
"""The opacity of the points of an invalid stage."""


def ttft_chart(stages: Sequence[ReportStage]) -> Chart | None:
    """TTFT p50 and p90 by level with their intervals, and the SLO as a line; None if nothing was answered. If no stage
    knows p90, the slowest request replaces it."""
    tail = "p90" if "p90" in known_percentiles([stage.summary for stage in stages], "ttft_ms") else SLOWEST
    values = [value for stage in stages for name in ("p50", tail) for value in _known_ms(stage, name)]
    if not values:
        return None
    limit = slo_ms(stages, "ttft_ms")
    drawn_limit = limit if limit is not None and limit <= SLO_IN_SIGHT * max(values) else None
    name, factor = unit([*values, drawn_limit or 0.0])
    drawn = layout(level_axis(stages), {"title": {"text": f"time to first token ({name})"}})
    if max(values) > LOG_FROM * min(values) > 0:
        drawn["yaxis"] |= log_axis(min(values) * factor, max(values) * factor)
    else:
        drawn["yaxis"]["rangemode"] = "tozero"
    models, at = by_model(stages), positions(stages)
    traces: list[Trace] = []
    for index, (who, own_stages) in enumerate(models.items()):
        prefix = f"{label(who)} " if len(models) > 1 else ""
        for half, percentile in enumerate(("p50", tail)):
            step = aside(2 * index + half, 2 * len(models))
            style = _LineStyle(f"{prefix}{percentile}", f"@model{index % MODEL_COLORS}", at, step)
            if percentile == SLOWEST:
                traces += _slowest(own_stages, style, factor)
                continue
            traces += [*_known(own_stages, percentile, style, factor), *_bounded(own_stages, percentile, style, factor)]
    bounded = any(trace["marker"]["symbol"] == "triangle-up-open" for trace in traces)
    caption = "Bars are 95 % intervals." + (
        " △ ≥ marks a lower bound: the true value is there or above." if bounded else ""
    )
    if any(stage.is_invalid for stage in stages):
        caption += " Faded: the stage is invalid."
    if drawn_limit is not None:
        draw_limit(drawn, traces, "y", drawn_limit * factor, f"SLO ≤ {format_duration(limit)}")
    elif limit is not None:
        caption += f" The SLO, {format_duration(limit)}, lies above this chart."
    caption += mark_caption(stages, "ttft_ms")
    return Chart(id="chart-ttft", title="Time to first token", caption=caption, traces=tuple(traces), layout=drawn)


class _LineStyle(Struct, frozen=True):
    """The style of one line of a chart, and the offset of its points from the position of their level."""

    name: str
    color: str
    at: dict[str, int]
    step: float

    def x(self, stages: Sequence[ReportStage]) -> list[float]:
        return [round(self.at[stage.level] + self.step, 4) for stage in stages]


def _ttft(stage: ReportStage, percentile: str) -> Percentile:
    """A percentile of a stage's TTFT; it is not known if the summary does not have it."""
    return (stage.summary.metric("ttft_ms") or Metric()).percentile(percentile)


def _bound_ms(stage: ReportStage, percentile: str) -> float | None:
    return lower_bound(stage.summary.metric("ttft_ms") or Metric(), percentile)


def _known_ms(stage: ReportStage, percentile: str) -> list[float]:
    """The known values of a percentile: its value, its bound, its interval."""
    if percentile == SLOWEST:
        return [slowest] if (slowest := _slowest_ms(stage)) is not None else []
    known, bound = _ttft(stage, percentile), _bound_ms(stage, percentile)
    return [value for value in (known.value, known.low, known.high, bound) if value is not None]


def _known(stages: Sequence[ReportStage], percentile: str, style: _LineStyle, factor: float) -> list[Trace]:
    points = [
        (stage, known.value, known.interval)
        for stage in stages
        if (known := _ttft(stage, percentile)).value is not None and known.interval is not None
    ]
    if not points:
        return []
    drawn_stages = [stage for stage, _, _ in points]
    ys = [value * factor for _, value, _ in points]
    intervals = [interval for _, _, interval in points]
    is_median = percentile == "p50"
    error = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 4, "color": style.color}
    error["array"] = rounded(high * factor - y for (_, high), y in zip(intervals, ys, strict=True))
    error["arrayminus"] = rounded(y - low * factor for (low, _), y in zip(intervals, ys, strict=True))
    return [
        {
            "x": style.x(drawn_stages),
            "y": rounded(ys),
            "error_y": error,
            "mode": "lines+markers",
            "name": style.name,
            "line": {"color": style.color, "width": 2, "dash": "solid" if is_median else "dot"},
            "marker": _marker(drawn_stages, style.color, "circle" if is_median else "diamond", 9),
            "hovertext": [
                stage_hover(
                    stage,
                    f"TTFT {percentile} {format_duration(value)}",
                    f"95 % interval {format_duration(low)} – {format_duration(high)}",
                )
                for stage, value, (low, high) in points
            ],
            "hoverinfo": "text",
        }
    ]


def _bounded(stages: Sequence[ReportStage], percentile: str, style: _LineStyle, factor: float) -> list[Trace]:
    points = [(stage, bound) for stage in stages if (bound := _bound_ms(stage, percentile)) is not None]
    if not points:
        return []
    marker = _marker(_stages(points), style.color, "triangle-up-open", 11)
    return [
        {
            "x": style.x(_stages(points)),
            "y": rounded(bound * factor for _, bound in points),
            "mode": "markers+text",
            "name": f"{style.name}, at least",
            "text": ["≥"] * len(points),
            "textposition": "middle right",
            "textfont": {"color": style.color, "size": 14},
            "marker": marker | {"line": {"width": 2, "color": style.color}},
            "hovertext": [
                stage_hover(stage, f"TTFT {percentile} ≥ {format_duration(bound)}") for stage, bound in points
            ],
            "hoverinfo": "text",
        }
    ]


def _slowest_ms(stage: ReportStage) -> float | None:
    return (stage.summary.metric("ttft_ms") or Metric()).max


def _slowest(stages: Sequence[ReportStage], style: _LineStyle, factor: float) -> list[Trace]:
    points = [(stage, slowest) for stage in stages if (slowest := _slowest_ms(stage)) is not None]
    if not points:
        return []
    return [
        {
            "x": style.x(_stages(points)),
            "y": rounded(slowest * factor for _, slowest in points),
            "mode": "markers",
            "name": style.name,
            "marker": _marker(_stages(points), style.color, "line-ew-open", 12) | {"line": {"width": 2}},
            "hovertext": [
                stage_hover(stage, f"slowest TTFT of {stage.answered}: {format_duration(slowest)}")
                for stage, slowest in points
            ],
            "hoverinfo": "text",
        }
    ]


def _stages(points: Sequence[tuple[ReportStage, object]]) -> list[ReportStage]:
    return [stage for stage, _ in points]


def _marker(stages: Sequence[ReportStage], color: str, symbol: str, size: int) -> PlotlyObject:
    opacity = [FADED if stage.is_invalid else 1.0 for stage in stages]
    return {"color": color, "size": size, "symbol": symbol, "opacity": opacity}


def throughput_chart(stages: Sequence[ReportStage]) -> Chart | None:
    """Output tokens per second by level, of all users together and of one; None if neither is known."""
    models, at = by_model(stages), positions(stages)
    traces: list[Trace] = []
    for index, (who, own_stages) in enumerate(models.items()):
        prefix = f"{label(who)} " if len(models) > 1 else ""
        for half, (key, name, symbol) in enumerate(
            (("output_tokens_per_s", "all together", "square"), ("per_user_tokens_per_s", "each user", "circle-open"))
        ):
            style = _LineStyle(
                f"{prefix}{name}", f"@model{index % MODEL_COLORS}", at, aside(2 * index + half, 2 * len(models))
            )
            traces += _rates(own_stages, key, style, symbol)
    if not traces:
        return None
    drawn = layout(level_axis(stages), {"title": {"text": "output tokens per second"}, "rangemode": "tozero"})
    caption = (
        "All together: tokens inside the steady window. Each user: the median rate of a stream after its first token."
    )
    caption += mark_caption(stages, "per_user_tokens_per_s")
    return Chart(id="chart-throughput", title="Throughput", caption=caption, traces=tuple(traces), layout=drawn)


def _rates(stages: Sequence[ReportStage], key: str, style: _LineStyle, symbol: str) -> list[Trace]:
    rates = [(stage, getattr(stage.summary.throughput, key, None)) for stage in stages]
    points = [(stage, rate) for stage, rate in rates if rate is not None]
    if not points:
        return []
    dash = "dot" if symbol.endswith("open") else "solid"
    return [
        {
            "x": style.x(_stages(points)),
            "y": rounded(rate for _, rate in points),
            "mode": "lines+markers",
            "name": style.name,
            "line": {"color": style.color, "width": 2, "dash": dash},
            "marker": _marker(_stages(points), style.color, symbol, 9) | {"line": {"width": 2, "color": style.color}},
            "hovertext": [stage_hover(stage, f"{format_number(rate)} tokens/s {style.name}") for stage, rate in points],
            "hoverinfo": "text",
        }
    ]


def server_charts(stages: Sequence[ReportStage]) -> list[Chart]:
    """Peak memory and CPU of the server's process by level, each only if it is known."""
    peaks = {stage.number: peak for stage in stages if (peak := stage.summary.peak_mib) is not None}
    shares = {stage.number: share for stage in stages if (share := stage.summary.server_cpu_share) is not None}
    memory = _server_bars(stages, peaks, "peak memory (MiB)", lambda value: f"peak {value:.0f} MiB resident")
    cpu = _server_bars(stages, shares, "CPU (cores busy)", lambda value: f"{value:.2f} cores busy on average")
    charts = []
    if memory:
        caption = "Resident memory of the server and its children, at its highest."
        charts.append(
            Chart(id="chart-memory", title="Memory", caption=caption, traces=memory[0], layout=memory[1], height=260)
        )
    if cpu:
        caption = "Averaged over the stage; 1 is one core fully busy."
        charts.append(Chart(id="chart-cpu", title="CPU", caption=caption, traces=cpu[0], layout=cpu[1], height=260))
    return charts


def _server_bars(
    stages: Sequence[ReportStage], figures: dict[int, float], title: str, text_of: Callable[[float], str]
) -> tuple[tuple[Trace, ...], PlotlyObject] | None:
    """A bar chart by level. figures: the values by the number of the stage."""
    if not figures:
        return None
    models, at = by_model(stages), positions(stages)
    drawn = layout(level_axis(stages), {"title": {"text": title}, "rangemode": "tozero"})
    drawn |= {"barmode": "group", "bargap": 0.5, "showlegend": len(models) > 1}
    traces = []
    for index, (who, own_stages) in enumerate(models.items()):
        points = [(stage, figures[stage.number]) for stage in own_stages if stage.number in figures]
        if points:
            traces.append(
                {
                    "type": "bar",
                    "x": [at[stage.level] for stage, _ in points],
                    "y": rounded(value for _, value in points),
                    "name": label(who),
                    "marker": {"color": f"@model{index % MODEL_COLORS}"},
                    "hovertext": [stage_hover(stage, text_of(value)) for stage, value in points],
                    "hoverinfo": "text",
                }
            )
    return tuple(traces), drawn
