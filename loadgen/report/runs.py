"""What each of several runs of one plan said, side by side. Pure."""

from typing import Final

from msgspec import UNSET

from loadgen.analysis.summary import AcrossRuns, Metric, StageSummary, Summary
from loadgen.report.format import format_duration, format_interval, format_load, format_number, format_percentile
from loadgen.report.main_table import TITLES, Column, Row, Table, marked

LATENCIES: Final = (("ttft_ms", "p50"), ("ttft_ms", "p90"), ("itl_ms", "p50"), ("e2e_ms", "p50"))


def runs_table(summary: Summary) -> Table | None:
    """One row a stage and number, one column a run; None for a summary of one run."""
    if not summary.runs:
        return None
    count = len(summary.runs)
    heads = [Column("stage", False), Column("number", False), Column("all"), Column("95 % interval")]
    rows = [row for stage in summary.stages for row in _of_stage(stage)]
    return Table((*heads, *(Column(f"run {at + 1}") for at in range(count))), tuple(rows), ())


def _of_stage(stage: StageSummary) -> list[Row]:
    if stage.runs is None or stage.metrics is UNSET or stage.validity is UNSET:
        return []
    where = f"{stage.model} on {stage.target}, {format_load(stage.load)}"
    lines = [["verdict", stage.validity.verdict, "", *stage.runs.verdicts]]
    for name, over in stage.runs.throughput.items():
        if over.mean is not None:
            title = TITLES.get(name, name.removesuffix("_per_s") + "/s")
            lines.append([marked(stage, name, title), *_over(over)])
    for name, percentile in LATENCIES:
        metric = stage.metrics.get(name, {})
        if metric.get(f"{percentile}_runs"):
            title = f"{name.removesuffix('_ms').upper()} {percentile}"
            lines.append([marked(stage, name, title), *_latency(metric, percentile)])
    return [Row((where, *line)) for line in lines]


def _over(over: AcrossRuns) -> list[str]:
    interval = "" if over.ci is None else f"{format_number(over.ci[0])} – {format_number(over.ci[1])}"
    return [format_number(over.mean), interval, *(format_number(value) for value in over.values)]


def _latency(metric: Metric, name: str) -> list[str]:
    each = (format_duration(value) for value in metric[f"{name}_runs"])
    return [format_percentile(metric, name), format_interval(metric, name), *each]
