"""What the server's process used: memory and CPU by level, as charts. Pure."""

from loadgen.report.charts.level import server_charts
from loadgen.report.section import ReportData, Section


def server_use(data: ReportData) -> Section | None:
    """None where the server was no process of this machine that we saw."""
    charts = server_charts(data.stages)
    return Section(title="What the server used", anchor="server-use", charts=tuple(charts)) if charts else None
