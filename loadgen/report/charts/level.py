"""Charts by level: TTFT, throughput, and what the server's process used. Pure data; knows no page."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct

from loadgen.analysis.summary import Throughput
from loadgen.report.charts.figure import (
    LOG_FROM,
    MODEL_COLORS,
    SLO_IN_SIGHT,
    Chart,
    ChartStage,
    Trace,
    aside,
    by_model,
    draw_limit,
    hover,
    label,
    layout,
    level_axis,
    log_axis,
    positions,
    rounded,
    slo_ms,
    unit,
)
from loadgen.report.format import format_duration, format_interval, format_number, format_percentile

SHOWN: Final = ("p50", "p90")
FADED: Final = 0.35
"""Opacity of the points of an invalid stage."""


def ttft_chart(stages: Sequence[ChartStage]) -> Chart | None:
    """TTFT p50 and p90 by level with their intervals, the SLO as a line; None when nothing was answered."""
    values = [value for one in stages for name in SHOWN for value in _told_ms(one, name)]
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
    for index, (who, mine) in enumerate(models.items()):
        prefix = f"{label(who)} " if len(models) > 1 else ""
        for half, percentile in enumerate(SHOWN):
            step = aside(2 * index + half, 2 * len(models))
            look = _Look(f"{prefix}{percentile}", f"@model{index % MODEL_COLORS}", at, step)
            traces += [*_known(mine, percentile, look, factor), *_bounded(mine, percentile, look, factor)]
    bounded = any(trace["marker"]["symbol"] == "triangle-up-open" for trace in traces)
    note = "Bars are 95 % intervals." + (" △ ≥: a lower bound; the true value is there or above." if bounded else "")
    if any(one.invalid for one in stages):
        note += " Faded: the stage is invalid."
    if drawn_limit is not None:
        draw_limit(drawn, traces, "y", drawn_limit * factor, f"SLO ≤ {format_duration(limit)}")
    elif limit is not None:
        note += f" The SLO, {format_duration(limit)}, lies above this chart."
    return Chart(id="chart-ttft", title="Time to first token", note=note, traces=tuple(traces), layout=drawn)


class _Look(Struct, frozen=True):
    """How one line of a chart looks, and where its points are: at their level's place, a step aside."""

    name: str
    color: str
    at: dict[str, int]
    step: float

    def x(self, stages: Sequence[ChartStage]) -> list[float]:
        return [round(self.at[one.stage.level] + self.step, 4) for one in stages]


def _told_ms(one: ChartStage, percentile: str) -> list[float]:
    told = one.metric("ttft_ms")
    shown = [told.get(percentile), told.get(f"{percentile}_at_least"), *told.get(f"{percentile}_ci", ())]
    return [value for value in shown if value is not None]


def _known(stages: Sequence[ChartStage], percentile: str, look: _Look, factor: float) -> list[Trace]:
    found = [(one, told) for one in stages if (told := one.metric("ttft_ms")).get(percentile) is not None]
    if not found:
        return []
    ys = [told[percentile] * factor for _, told in found]
    spans = [told[f"{percentile}_ci"] for _, told in found]
    median = percentile == "p50"
    error = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 4, "color": look.color}
    error["array"] = rounded(high * factor - y for (_, high), y in zip(spans, ys, strict=True))
    error["arrayminus"] = rounded(y - low * factor for (low, _), y in zip(spans, ys, strict=True))
    texts = [f"TTFT {percentile} {format_duration(told[percentile])}" for _, told in found]
    return [
        {
            "x": look.x(_stages(found)),
            "y": rounded(ys),
            "error_y": error,
            "mode": "lines+markers",
            "name": look.name,
            "line": {"color": look.color, "width": 2, "dash": "solid" if median else "dot"},
            "marker": _marker(_stages(found), look.color, "circle" if median else "diamond", 9),
            "hovertext": [
                hover(one, text, f"95 % interval {format_interval(told, percentile)}")
                for (one, told), text in zip(found, texts, strict=True)
            ],
            "hoverinfo": "text",
        }
    ]


def _bounded(stages: Sequence[ChartStage], percentile: str, look: _Look, factor: float) -> list[Trace]:
    key = f"{percentile}_at_least"
    found = [(one, told) for one in stages if (told := one.metric("ttft_ms")).get(key) is not None]
    if not found:
        return []
    marker = _marker(_stages(found), look.color, "triangle-up-open", 11)
    return [
        {
            "x": look.x(_stages(found)),
            "y": rounded(told[key] * factor for _, told in found),
            "mode": "markers+text",
            "name": f"{look.name}, at least",
            "text": ["≥"] * len(found),
            "textposition": "middle right",
            "textfont": {"color": look.color, "size": 14},
            "marker": marker | {"line": {"width": 2, "color": look.color}},
            "hovertext": [
                hover(one, f"TTFT {percentile} {format_percentile(told, percentile)}") for one, told in found
            ],
            "hoverinfo": "text",
        }
    ]


def _stages(found: Sequence[tuple[ChartStage, dict[str, Any]]]) -> list[ChartStage]:
    return [one for one, _ in found]


def _marker(stages: Sequence[ChartStage], color: str, symbol: str, size: int) -> dict[str, Any]:
    opacity = [FADED if one.invalid else 1.0 for one in stages]
    return {"color": color, "size": size, "symbol": symbol, "opacity": opacity}


def throughput_chart(stages: Sequence[ChartStage]) -> Chart | None:
    """Output tokens a second, of all users together and of one, by level; None when neither is known."""
    models, at = by_model(stages), positions(stages)
    traces: list[Trace] = []
    for index, (who, mine) in enumerate(models.items()):
        prefix = f"{label(who)} " if len(models) > 1 else ""
        for half, (key, name, symbol) in enumerate(
            (("output_tokens_per_s", "all together", "square"), ("per_user_tokens_per_s", "each user", "circle-open"))
        ):
            look = _Look(
                f"{prefix}{name}", f"@model{index % MODEL_COLORS}", at, aside(2 * index + half, 2 * len(models))
            )
            traces += _rates(mine, key, look, symbol)
    if not traces:
        return None
    drawn = layout(level_axis(stages), {"title": {"text": "output tokens per second"}, "rangemode": "tozero"})
    note = "All together: inside the steady window. Each user: the median pace of a stream once it has begun."
    return Chart(id="chart-throughput", title="Throughput", note=note, traces=tuple(traces), layout=drawn)


def _rates(stages: Sequence[ChartStage], key: str, look: _Look, symbol: str) -> list[Trace]:
    told = [(one, getattr(one.stage.throughput, key)) for one in stages if isinstance(one.stage.throughput, Throughput)]
    found = [(one, value) for one, value in told if value is not None]
    if not found:
        return []
    dash = "dot" if symbol.endswith("open") else "solid"
    mine = [one for one, _ in found]
    return [
        {
            "x": look.x(mine),
            "y": rounded(value for _, value in found),
            "mode": "lines+markers",
            "name": look.name,
            "line": {"color": look.color, "width": 2, "dash": dash},
            "marker": _marker(mine, look.color, symbol, 9) | {"line": {"width": 2, "color": look.color}},
            "hovertext": [hover(one, f"{format_number(value)} tokens/s {look.name}") for one, value in found],
            "hoverinfo": "text",
        }
    ]


def server_charts(stages: Sequence[ChartStage]) -> list[Chart]:
    """Peak memory and CPU of the server's process by level, each only where it is known."""
    memory = _server_bars(stages, "rss_peak_mib", "peak memory (MiB)", lambda value: f"peak {value:.0f} MiB resident")
    cpu = _server_bars(stages, "cpu_share", "CPU (cores busy)", lambda value: f"{value:.2f} cores busy on average")
    charts = []
    if memory:
        note = "Resident memory of the server and its children, at its highest."
        charts.append(
            Chart(id="chart-memory", title="Memory", note=note, traces=memory[0], layout=memory[1], height=260)
        )
    if cpu:
        note = "Averaged over the stage; 1 is one core fully busy."
        charts.append(Chart(id="chart-cpu", title="CPU", note=note, traces=cpu[0], layout=cpu[1], height=260))
    return charts


def _server_bars(
    stages: Sequence[ChartStage], key: str, title: str, say: Callable[[float], str]
) -> tuple[tuple[Trace, ...], dict[str, Any]] | None:
    known = [one for one in stages if (one.stage.server or {}).get(key) is not None]
    if not known:
        return None
    models, at = by_model(stages), positions(stages)
    drawn = layout(level_axis(stages), {"title": {"text": title}, "rangemode": "tozero"})
    drawn |= {"barmode": "group", "bargap": 0.5, "showlegend": len(models) > 1}
    traces = []
    for index, (who, mine) in enumerate(models.items()):
        found = [(one, float((one.stage.server or {})[key])) for one in mine if one in known]
        if found:
            traces.append(
                {
                    "type": "bar",
                    "x": [at[one.stage.level] for one, _ in found],
                    "y": rounded(value for _, value in found),
                    "name": label(who),
                    "marker": {"color": f"@model{index % MODEL_COLORS}"},
                    "hovertext": [hover(one, say(value)) for one, value in found],
                    "hoverinfo": "text",
                }
            )
    return tuple(traces), drawn
