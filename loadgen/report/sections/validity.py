"""The verdict on each stage, and our measurements of ourselves. Pure."""

from typing import Final

from msgspec import UNSET, UnsetType

from loadgen.analysis.summary import StageSummary
from loadgen.report.format import UNKNOWN, format_duration, format_number, format_percent
from loadgen.report.section import Column, ReportData, Row, Section, Table, stage_name

COLUMNS: Final = (
    Column("stage", "text"),
    Column("verdict", "verdict"),
    Column("why", "prose"),
    Column("stamps", "text"),
    Column("dispatch slip p99"),
    Column("loop lag p99"),
    Column("stamp lag p99"),
    Column("our CPU"),
    Column("server's CPU"),
    Column("others' CPU"),
    Column("slowed by others"),
    Column("GC pause"),
    Column("achieved"),
    Column("in flight: sampled / recorded"),
    Column("shared reads"),
    Column("window"),
)


def validity(data: ReportData) -> Section:
    title, anchor = "Can these numbers be believed?", "validity"
    if not data.summary.stages:
        return Section(title=title, anchor=anchor, paragraphs=("Nothing was planned.",))
    return Section(title=title, anchor=anchor, tables=(Table(COLUMNS, tuple(map(_row, data.summary.stages))),))


def _row(stage: StageSummary) -> Row:
    if stage.validity is UNSET:
        why = UNKNOWN if stage.reason is UNSET else stage.reason
        return Row((stage_name(stage), "skipped", why, *[UNKNOWN] * (len(COLUMNS) - 3)))
    own = stage.validity.self
    machine = None if stage.validity.machine is UNSET else stage.validity.machine
    why = "; ".join(f"{reason.observed} (limit: {reason.limit})" for reason in stage.validity.reasons)
    return Row(
        (
            stage_name(stage),
            stage.validity.verdict,
            why or "no limit was crossed",
            stage.validity.stamp_source,
            _percentile(own.dispatch_slip_p99_ms, own.dispatch_slip_p99_at_least_ms),
            _percentile(own.loop_lag_p99_ms, own.loop_lag_p99_at_least_ms),
            _percentile(own.stamp_lag_p99_ms, own.stamp_lag_p99_at_least_ms),
            format_percent(own.cpu_share),
            format_percent(own.server_cpu_share),
            format_percent(None if machine is None else machine.neighbors_cpu_share),
            format_percent(None if machine is None else machine.slowdown),
            format_duration(own.gc_pause_max_ms),
            format_percent(own.users_share if own.achieved_share is None else own.achieved_share),
            f"{format_number(own.in_flight_sampled)} / {format_number(own.in_flight_recorded)}",
            format_percent(own.shared_reads_share),
            UNKNOWN if stage.window_s is None else f"{stage.window_s:.1f} s",
        )
    )


def _percentile(value: float | None, at_least: float | UnsetType | None) -> str:
    """A percentile, or its bound if there are too few samples."""
    if value is None and at_least is not None and at_least is not UNSET:
        return f"≥ {format_duration(at_least)}"
    return format_duration(value)
