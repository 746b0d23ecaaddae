"""Memory and CPU of the server's process by level, as charts. Pure."""

from loadgen.report.charts.level import server_charts
from loadgen.report.section import ReportData, Section


def server_use(data: ReportData) -> Section | None:
    """None if the server's process was not on this machine or not found."""
    charts = server_charts(data.stages)
    return Section(title="What the server used", anchor="server-use", charts=tuple(charts)) if charts else None
