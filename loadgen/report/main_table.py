"""The main table of a report: one row per stage. Pure; no format."""

from collections.abc import Sequence
from typing import Final

from msgspec import UNSET

from loadgen.analysis.quality_types import Quality
from loadgen.analysis.summary import Metric, StageSummary, Summary
from loadgen.report.format import (
    UNKNOWN,
    format_duration,
    format_number,
    format_percent,
    format_percentile,
    format_quality,
    format_quality_interval,
    format_range,
    format_stage_load,
)
from loadgen.report.main_remarks import main_remarks
from loadgen.report.metric_names import marked, metric_title
from loadgen.report.section import Column, Row, Table, known_percentiles

SLOWEST: Final = "slowest"
"""The heading of the largest measured value, which replaces percentiles of the tail and bounds none of them."""
INTERVAL: Final = "95 % CI"
IF_DIFFERENT: Final = ("model", "served by")
"""Columns that are left out if all rows are equal."""
ALWAYS: Final = ("load", "ok", "TTFT p50", "TPOT p50", "E2E p50", "tok/s", "tok/s/user", "verdict")
"""Columns that are shown even if all of their cells are empty."""


def main_table(summary: Summary) -> Table:
    """One row per stage. A column is left out if nothing in it is known, or all of its cells are equal."""
    described = [_describe(summary, stage) for stage in summary.stages]
    columns = [column for column in _columns(summary) if _is_worth_showing(column.title, described)]
    rows = (
        Row(tuple(cells[column.title] for column in columns), _is_invalid(stage))
        for stage, cells in zip(summary.stages, described, strict=True)
    )
    return Table(tuple(columns), tuple(rows), main_remarks(summary))


def tail_of(summary: Summary, metric: str) -> tuple[str, ...]:
    """The columns of a latency beyond its median: the percentiles that are known in some stage, and the slowest request
    if p99 is known in none."""
    known = tuple(name for name in known_percentiles(summary.stages, metric) if name != "p50")
    return known if "p99" in known else (*known, SLOWEST)


def _columns(summary: Summary) -> tuple[Column, ...]:
    itl = tail_of(summary, "itl_ms")[-1]
    return (
        Column("model", "text"),
        Column("served by", "text"),
        Column("load", "text"),
        Column("ok", rank=1),
        Column("TTFT p50"),
        Column(f"TTFT p50 {INTERVAL}", rank=4),
        *(Column(f"TTFT {name}", rank=5 if name == "p95" else 0) for name in tail_of(summary, "ttft_ms")),
        Column("TPOT p50", rank=3),
        Column(f"ITL {itl}", rank=5),
        Column("E2E p50", rank=2),
        Column(f"E2E p50 {INTERVAL}", rank=7),
        Column("tok/s"),
        Column("tok/s/user", rank=3),
        Column("tok/s E2E", rank=6),
        Column("SLO met"),
        Column("quality", rank=3),
        Column(f"quality {INTERVAL}", rank=7),
        Column("memory", rank=6),
        Column("verdict", "verdict"),
    )


def _is_worth_showing(title: str, described: Sequence[dict[str, str]]) -> bool:
    values = {cells[title] for cells in described}
    if title in IF_DIFFERENT:
        return len(values) > 1
    return title in ALWAYS or values != {UNKNOWN}


def _is_invalid(stage: StageSummary) -> bool:
    return stage.validity is not UNSET and stage.validity.verdict == "invalid"


def _describe(summary: Summary, stage: StageSummary) -> dict[str, str]:
    """The cells of a stage, by heading."""
    cells = dict.fromkeys((column.title for column in _columns(summary)), UNKNOWN)
    cells |= {"model": stage.model, "served by": stage.target, "load": format_stage_load(stage), "verdict": "skipped"}
    if stage.metrics is UNSET or stage.requests is UNSET or stage.throughput is UNSET or stage.validity is UNSET:
        return cells
    for name in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
        cells |= _latency_cells(summary, stage, name, stage.metrics[name])
    rates = ["output_tokens_per_s", "per_user_tokens_per_s"]
    if not summary.streamed:  # streamed runs show the pace of the stream instead
        rates.append("e2e_tokens_per_s")
    for rate in rates:
        cells[metric_title(rate)] = marked(stage, rate, format_number(getattr(stage.throughput, rate)))
    if stage.slo is not None:
        cells["SLO met"] = marked(stage, "slo", format_percent(stage.slo.share))
    if isinstance(stage.quality, Quality):
        cells |= {
            "quality": format_quality(stage.quality),
            f"quality {INTERVAL}": format_quality_interval(stage.quality),
        }
    if stage.peak_mib is not None:
        cells["memory"] = f"{stage.peak_mib:.0f} MiB"
    cells["ok"] = f"{stage.requests.ok}/{stage.requests.planned}"
    cells["verdict"] = stage.validity.verdict + (", incomplete" if stage.incomplete else "")
    return cells


def _latency_cells(summary: Summary, stage: StageSummary, name: str, metric: Metric) -> dict[str, str]:
    """The median, its interval, and the tail of a latency, by heading."""
    title, median = metric_title(name), metric.percentile("p50")
    cells = {f"{title} p50": format_percentile(metric, "p50")}
    for figure in tail_of(summary, name):
        is_known = figure != SLOWEST
        cells[f"{title} {figure}"] = format_percentile(metric, figure) if is_known else format_duration(metric.max)
    cells = {heading: marked(stage, name, cell) for heading, cell in cells.items()}
    if median.interval is not None:
        cells[f"{title} p50 {INTERVAL}"] = format_range(*median.interval)
    return cells
