"""Every latency of every stage: each percentile that is known in any stage, with its 95 % interval. Pure."""

from loadgen.analysis.summary import Metric, StageSummary
from loadgen.report.format import format_duration, format_with_interval
from loadgen.report.metric_names import marked
from loadgen.report.section import SHOWN_PERCENTILES, Column, ReportData, Row, Section, Table, stage_name

RARE = "p99.9"


def latencies(data: ReportData) -> Section:
    measured = [
        (stage, name, metric)
        for stage in data.summary.stages
        if isinstance(stage.metrics, dict)
        for name, metric in stage.metrics.items()
        if metric.count
    ]
    if not measured:
        return Section(title="Latencies", anchor="latencies", paragraphs=("No request was answered.",))
    percentiles = tuple(
        name
        for name in (*SHOWN_PERCENTILES, RARE)
        if name == "p50" or any(metric.percentile(name).value is not None for _, _, metric in measured)
    )
    heads = (
        *(Column(title, "text") for title in ("stage", "metric")),
        Column("samples"),
        Column("mean"),
        Column("min"),
    )
    table = Table(
        columns=(*heads, *(Column(name) for name in percentiles), Column("max")),
        rows=tuple(_row(stage, name, metric, percentiles) for stage, name, metric in measured),
    )
    return Section(title="Latencies", anchor="latencies", tables=(table,))


def _row(stage: StageSummary, name: str, metric: Metric, percentiles: tuple[str, ...]) -> Row:
    return Row(
        (
            stage_name(stage),
            marked(stage, name, name.removesuffix("_ms")),
            str(metric.count),
            format_duration(metric.mean),
            format_duration(metric.min),
            *(format_with_interval(metric, percentile) for percentile in percentiles),
            format_duration(metric.max),
        )
    )
