"""The distributions of latencies, as charts. Pure."""

from loadgen.report.charts.distribution import distribution_charts
from loadgen.report.section import ReportData, Section


def spread(data: ReportData) -> Section | None:
    """None if nothing was answered."""
    charts = distribution_charts(data.stages)
    if not charts:
        return None
    pooled = ("The requests of all runs together.",) if data.summary.runs else ()
    return Section(title="How latencies are spread", anchor="spread", paragraphs=pooled, charts=tuple(charts))
