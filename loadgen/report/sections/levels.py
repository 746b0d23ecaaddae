"""TTFT and throughput by level, as charts. Pure."""

from collections.abc import Sequence

from loadgen.report.charts.level import throughput_chart, ttft_chart
from loadgen.report.section import ReportData, ReportStage, Section


def levels(data: ReportData) -> Section | None:
    """None if nothing was answered."""
    charts = [chart for chart in (ttft_chart(data.stages), throughput_chart(data.stages)) if chart is not None]
    if not charts:
        return None
    remark = _start_remark(data.stages)
    return Section(
        title="How many at once", anchor="levels", paragraphs=(remark,) if remark else (), charts=tuple(charts)
    )


def _start_remark(stages: Sequence[ReportStage]) -> str | None:
    """A remark on the time from which latencies count; None if there are stages of both closed and open loops."""
    kinds = {stage.is_closed for stage in stages}
    if kinds == {True}:
        return "A request's time counts from when it was sent."
    if kinds == {False}:
        return "In this open loop, a request's time counts from when it was due, and includes any wait before the send."
    return None
