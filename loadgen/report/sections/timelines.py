"""When each request waited and when it streamed, stage by stage, as charts. Pure."""

from typing import Final

from loadgen.report.charts.timeline import timeline_charts
from loadgen.report.section import LegendEntry, ReportData, Section

LEGEND: Final = (
    LegendEntry("waiting", "waiting for the first token"),
    LegendEntry("streaming", "streaming"),
    LegendEntry("failed", "failed"),
    LegendEntry("window", "steady window, in which throughput counts"),
)


def timelines(data: ReportData) -> Section | None:
    """None if no request was measured, and for several runs, because each run's own report has its timelines."""
    charts = [] if data.summary.runs else timeline_charts(data.stages)
    if not charts:
        return None
    title = "When each request waited and streamed"
    return Section(title=title, anchor="timelines", legend=LEGEND, charts=tuple(charts))
