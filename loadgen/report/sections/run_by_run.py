"""The results of several runs of one plan, side by side. Pure."""

from typing import Final

from msgspec import UNSET

from loadgen.analysis.summary import AcrossRuns, Metric, StageSummary, Summary
from loadgen.report.format import format_duration, format_interval, format_number, format_percentile
from loadgen.report.metric_names import marked, metric_title
from loadgen.report.section import Column, ReportData, Row, Section, Table, stage_name

LATENCIES: Final = (("ttft_ms", "p50"), ("ttft_ms", "p90"), ("itl_ms", "p50"), ("e2e_ms", "p50"))


def run_by_run(data: ReportData) -> Section | None:
    """None for one run."""
    table = runs_table(data.summary)
    return None if table is None else Section(title="Run by run", anchor="run-by-run", tables=(table,))


def runs_table(summary: Summary) -> Table | None:
    """One row per stage and number, one column per run; None for a summary of one run."""
    if not summary.runs:
        return None
    heads = [Column("stage", "text"), Column("number", "text"), Column("all"), Column("95 % interval")]
    heads += [Column(f"run {number}") for number in range(1, len(summary.runs) + 1)]
    return Table(tuple(heads), tuple(row for stage in summary.stages for row in _rows(stage)))


def _rows(stage: StageSummary) -> list[Row]:
    if stage.runs is None or stage.metrics is UNSET or stage.validity is UNSET:
        return []
    lines = [["verdict", stage.validity.verdict, "", *stage.runs.verdicts]]
    for name, across in stage.runs.throughput.items():
        if across.mean is not None:
            lines.append([marked(stage, name, metric_title(name)), *_rate_cells(across)])
    for name, percentile in LATENCIES:
        metric = stage.metric(name)
        if metric is not None and any(value is not None for value in metric.percentile(percentile).runs or ()):
            title = f"{metric_title(name)} {percentile}"
            lines.append([marked(stage, name, title), *_latency_cells(metric, percentile)])
    return [Row((stage_name(stage), *line)) for line in lines]


def _rate_cells(across: AcrossRuns) -> list[str]:
    interval = "" if across.ci is None else f"{format_number(across.ci[0])} – {format_number(across.ci[1])}"
    return [format_number(across.mean), interval, *(format_number(value) for value in across.values)]


def _latency_cells(metric: Metric, name: str) -> list[str]:
    each = (format_duration(value) for value in metric.percentile(name).runs or ())
    return [format_percentile(metric, name), format_interval(metric, name), *each]
